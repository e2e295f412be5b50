"""Files that OAR keeps of a job: removed where OAR cannot, and no other's."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from oar_lxc.errors import OarLxcError
from oar_lxc.root.oar_files import keep_keys, oar_files, remove_oar_files
from tests.unit.fakes.programs import add_program

OURS = ("alice_42.jobkey", "alice_42.env", "42", "42_resources", "pid_of_oarexec_for_jobId_42")
OTHERS = ("alice_421.jobkey", "bob_42.env", "421", "421_resources", "4", "cpuset.lock.alice")
KEY = 'environment="OAR_CPUSET=/oar/{}",environment="OAR_JOB_USER=alice" ssh-rsa {} \n'


@pytest.fixture
def oar(tmp_path: Path) -> Path:
    for name in (*OURS, *OTHERS):
        (tmp_path / name).touch()
    (tmp_path / ".ssh").mkdir()
    return tmp_path


def test_a_jobs_files_are_removed_and_no_others(oar: Path) -> None:
    assert {path.name for path in oar_files(42, "alice", oar)} == set(OURS)
    for _ in range(2):
        remove_oar_files(42, "alice", 5, oar)
    assert {path.name for path in oar.iterdir()} == {*OTHERS, ".ssh"}


def test_the_key_of_a_job_lets_nobody_in_any_more(oar: Path) -> None:
    others = 'environment="OAR_KEY=1" ssh-rsa AAAA oar\n\n' + KEY.format("alice_421", "BBBB")
    path = oar / ".ssh/authorized_keys"
    path.write_text(KEY.format("alice_42", "CCCC") + others)
    remove_oar_files(42, "alice", 5, oar)
    assert path.read_text() == others


@pytest.mark.parametrize("form", ["RFC4716", "PEM"])
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_without_a_cpuset_the_key_itself_tells_its_line(
    oar: Path, monkeypatch: pytest.MonkeyPatch, kind: str, form: str
) -> None:
    key = oar / "alice_42.jobkey"
    key.unlink()
    size = {"rsa": "1024", "ecdsa": "256"}[kind]  # small keys are quickly made
    argv = ["ssh-keygen", "-q", "-t", kind, "-b", size, "-m", form, "-N", "", "-f", str(key)]
    subprocess.run(argv, check=True)
    if form == "RFC4716":  # OpenSSH's own: nobody is asked, who would ask the user database
        add_program(oar / "bin", "ssh-keygen", "exec sleep 60")
        monkeypatch.setenv("PATH", f"{oar / 'bin'}:{os.environ['PATH']}")
    public = key.with_suffix(".jobkey.pub").read_text().split()[1]
    path = oar / ".ssh/authorized_keys"
    path.write_text(KEY.format("", "BBBB") + KEY.format("", public))
    remove_oar_files(42, "alice", 5, oar)
    assert path.read_text() == KEY.format("", "BBBB")
    assert not key.exists()


def test_a_lock_that_a_user_holds_is_waited_for_no_longer_than_there_is_time(
    oar: Path, spawn: Callable[[Sequence[str]], subprocess.Popen[bytes]]
) -> None:
    path = oar / ".ssh/authorized_keys"
    path.write_text(KEY.format("alice_42", "CCCC"))
    # As any user can who may read it.
    holder = spawn(["flock", str(path), "sh", "-c", f"touch {oar}/held; exec sleep 60"])
    while not (oar / "held").exists():
        assert holder.poll() is None
        time.sleep(0.01)
    begin = time.monotonic()
    with pytest.raises(OarLxcError, match="authorized_keys stayed locked"):
        remove_oar_files(42, "alice", 0.2, oar)
    assert time.monotonic() - begin < 10
    assert oar_files(42, "alice", oar) == [oar / "alice_42.jobkey"]  # which tells its line
    subprocess.run(["pkill", "-P", str(holder.pid)], check=False)
    remove_oar_files(42, "alice", 5, oar)
    assert (path.read_text(), oar_files(42, "alice", oar)) == ("", [])


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_what_is_no_file_in_their_place_holds_nothing_up(oar: Path, kind: str) -> None:
    for path in (oar / "alice_42.jobkey", oar / "42"):
        path.unlink()
        os.mkfifo(path) if kind == "fifo" else (path / "below").mkdir(parents=True)
    remove_oar_files(42, "alice", 5, oar)
    assert oar_files(42, "alice", oar) == []


def test_where_the_cpuset_is_off_oar_is_let_keep_all_keys(tmp_path: Path) -> None:
    for _ in range(2):
        keep_keys(tmp_path / "cpuset")
    assert (tmp_path / "cpuset/undef").is_dir()
