"""``oar-lxc list|exec|shell|ssh``, with fake nodes and an oarsh and an ssh of our own."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.cli import main as cli_main
from oar_lxc.cli import reach
from oar_lxc.cli.main import cli
from oar_lxc.errors import ContainerError, OarLxcError
from oar_lxc.keys import CLIENT, HOST
from oar_lxc.timeline import note
from tests.unit.fakes import FakeNode, FakeRemote, add_program, invoke, recorded, recorder

SSH = """
# Look at the files while they are there.
for word; do case "$word" in
IdentityFile=*) cp -p "${word#*=}" "$SEEN/key";;
UserKnownHostsFile=*) cp "${word#*=}" "$SEEN/known_hosts"; echo "${word#*=}" > "$SEEN/path";;
esac; done
exit 5
"""


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRemote]:
    """Return the way to two nodes of job 42, seen from a frontend."""
    nodes = {n: FakeNode(tmp_path / n, n, ("node1", "node2")) for n in ("node1", "node2")}
    remote = FakeRemote(nodes)
    for node, name in (("node1", "vm1"), ("node2", "vm2")):
        directory = nodes[node].layout.containers / name
        directory.mkdir()
        (directory / "config").write_text(
            "lxc.net.0.ipv4.address = 100.65.80.3/21 100.65.87.255\n"
        )
    nodes["node1"].runtime.start("vm1")
    wanted: list[int | None] = []

    def find(job_id: int | None) -> FakeRemote:
        wanted.append(job_id)
        assert job_id in (None, 42)
        return remote

    monkeypatch.setattr(reach, "find_remote", find)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(tmp_path))
    yield remote
    remote.close()


@pytest.fixture
def running(remote: FakeRemote) -> FakeRemote:
    """Return the same with all containers RUNNING."""
    remote.by_name["node2"].runtime.start("vm2")
    return remote


def oarsh(tmp_path: Path, body: str = "") -> None:
    log = f'echo "$OAR_JOB_ID" > {tmp_path}/job\n'
    add_program(tmp_path / "bin", "oarsh", log + recorder(tmp_path / "oarsh", body))


def test_a_list_is_a_table_for_people(
    remote: FakeRemote, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(cli, "list", "42") == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["CONTAINER", "NODE", "STATE", "ADDRESS", "PID", "CPUS"]
    pid = remote.by_name["node1"].runtime.init_pid("vm1")
    assert first.split()[:5] == ["vm1", "node1", "RUNNING", "100.65.80.3", str(pid)]
    assert second.split() == ["vm2", "node2", "STOPPED", "100.65.80.3", "-", "-"]


def test_a_timeline_is_a_table_for_people_and_json_for_programs(
    remote: FakeRemote, capsys: pytest.CaptureFixture[str]
) -> None:
    note(remote.by_name["node2"].layout, "start", 9.0, 0.25, 3)
    note(remote.by_name["node1"].layout, "create", 8.0, 1.5, 2)
    assert invoke(cli, "timeline", "42") == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["NODE", "PHASE", "BEGIN", "SECONDS", "CONTAINERS"]
    assert first.split()[:2] + first.split()[3:] == ["node1", "create", "1.500", "2"]
    assert second.split()[:2] + second.split()[3:] == ["node2", "start", "0.250", "3"]
    assert invoke(cli, "timeline", "42", "--json") == 0
    assert json.loads(capsys.readouterr().out)[1] == {
        "node": "node2",
        "phase": "start",
        "begin": 9.0,
        "seconds": 0.25,
        "containers": 3,
    }


def test_a_list_is_json_for_programs(
    remote: FakeRemote, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(cli, "list", "42", "--json") == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["name"], first["node"], first["state"]) == ("vm1", "node1", "RUNNING")
    assert first["pid"] == remote.by_name["node1"].runtime.init_pid("vm1")
    assert (second["name"], second["pid"], second["cpus"]) == ("vm2", 0, "")


@pytest.mark.parametrize(
    ("options", "expected"),
    [([], ("", "job 42 has no containers\n")), (["--json"], ("[]\n", ""))],
)
def test_a_list_of_none_is_told_on_standard_error_or_is_json(
    remote: FakeRemote,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    expected: tuple[str, str],
) -> None:
    for node, name in (("node1", "vm1"), ("node2", "vm2")):
        (remote.by_name[node].layout.containers / name / "config").unlink()
    assert invoke(cli, "list", "42", *options) == 0
    assert capsys.readouterr() == expected


def test_a_command_for_a_container_that_does_not_run_is_one_sentence(
    remote: FakeRemote,
) -> None:
    with pytest.raises(ContainerError, match="vm2 on node node2: it is STOPPED, not RUNNING"):
        invoke(cli, "exec", "42/vm2", "--", "true")


def test_a_command_is_run_on_the_containers_node_inside_the_job(
    running: FakeRemote, tmp_path: Path
) -> None:
    oarsh(tmp_path)
    assert invoke(cli, "exec", "42/vm2", "--", "sh", "-c", "echo 'a  b'; $X") == 0
    (call,) = recorded(tmp_path / "oarsh")
    assert call[0] == "node2"
    words = shlex.split(call[1])
    assert words[:4] == [sys.executable, "-m", "oar_lxc.doorway", "42"]
    assert words[4:] == ["attach", "vm2", "sh", "-c", "echo 'a  b'; $X"]
    assert (tmp_path / "job").read_text() == "42\n"


@pytest.mark.parametrize("status", [0, 1, 3, 255])
def test_the_status_of_a_command_is_passed_on(
    remote: FakeRemote, tmp_path: Path, status: int
) -> None:
    oarsh(tmp_path, f"exit {status}")
    assert invoke(cli, "exec", "42/vm1", "--", "true") == status


def test_a_command_that_a_signal_ended_has_the_status_that_shells_give_it(
    remote: FakeRemote, tmp_path: Path
) -> None:
    oarsh(tmp_path, "kill -TERM $$")
    assert invoke(cli, "exec", "42/vm1", "--", "true") == 143


def test_a_commands_streams_are_passed_through(
    remote: FakeRemote, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    oarsh(tmp_path, "echo out; echo err >&2")
    assert invoke(cli, "exec", "42/vm1", "--", "true") == 0
    assert capfd.readouterr() == ("out\n", "err\n")


@pytest.mark.parametrize("arguments", [("exec",), ("exec", "vm1"), ("shell",), ("ssh",)])
def test_a_missing_argument_is_told_with_how_it_is_meant(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(cli, *arguments) == 2
    assert "Missing argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (("list", "x"), "job id 'x' is not a number", 2),
        (("exec", "42/", "--", "true"), "'42/' names no container", 2),
        (("exec", "42/vm9", "--", "true"), "container vm9: job 42 has no such container; it", 1),
        (("ssh", "vm9"), "container vm9: job 42 has no such container; it has: vm1, vm2", 1),
        (("ssh", "42/vm1"), "job 42 has no ssh key", 2),
    ],
)
def test_a_mistake_is_one_sentence_after_the_programs_name(
    remote: FakeRemote,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
    status: int,
) -> None:
    monkeypatch.setattr(sys, "argv", ["oar-lxc", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli_main.main()
    assert caught.value.code == status
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("oar-lxc: ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_outside_of_a_job_a_name_alone_is_no_target(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OarLxcError, match="this is not an OAR job: name the job"):
        cli.main(["list"], standalone_mode=False)


@pytest.fixture
def keys(running: FakeRemote, tmp_path: Path) -> Path:
    """Give the job ssh keys; return where our ssh leaves what it saw."""
    private = running.by_name["node1"].layout.private
    (private / CLIENT).write_text("-----BEGIN KEY-----\n")
    (private / f"{HOST}.pub").write_text("ssh-ed25519 AAAA oar job 42\n")
    add_program(tmp_path / "bin", "ssh", recorder(tmp_path / "ssh", SSH))
    return tmp_path


def options(keys: Path) -> tuple[dict[str, str], list[str]]:
    (call,) = recorded(keys / "ssh")
    assert call[:2] == ["-F", "/dev/null"]
    found = {}
    rest = call[2:]
    while rest[0] == "-o":
        name, value = rest[1].split("=", 1)
        found[name] = value
        rest = rest[2:]
    return found, rest


def test_ssh_goes_through_the_containers_node_and_its_status_is_passed_on(keys: Path) -> None:
    assert invoke(cli, "ssh", "42/vm2", "uptime", "-p") == 5
    found, rest = options(keys)
    assert rest == ["root@vm2", "uptime", "-p"]
    proxy = shlex.split(found["ProxyCommand"].replace("%%", "%"))
    assert proxy[:4] == ["env", "OAR_JOB_ID=42", "oarsh", "node2"]
    assert shlex.split(proxy[4])[-4:] == ["oar_lxc.doorway", "42", "connect", "vm2"]


def test_ssh_trusts_only_the_host_key_that_the_job_made(keys: Path) -> None:
    invoke(cli, "ssh", "42/vm2")
    found, _ = options(keys)
    assert found["StrictHostKeyChecking"] == "yes"
    assert found["HostKeyAlias"] == "vm2"
    assert (keys / "known_hosts").read_text() == "vm2 ssh-ed25519 AAAA\n"


def test_ssh_uses_only_the_key_of_the_job_and_keeps_it_to_itself(keys: Path) -> None:
    invoke(cli, "ssh", "42/vm2")
    found, _ = options(keys)
    assert found["IdentitiesOnly"] == "yes"
    assert (keys / "key").read_text() == "-----BEGIN KEY-----\n"
    assert stat.S_IMODE((keys / "key").stat().st_mode) == 0o600


def test_after_ssh_no_key_is_left(keys: Path) -> None:
    invoke(cli, "ssh", "42/vm2")
    path = Path((keys / "path").read_text().strip())
    assert path.is_absolute()
    assert not path.parent.exists()


def test_help_names_every_command_without_importing_any(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert invoke(cli, "--help") == 0
    said = capsys.readouterr().out
    for name in ("list", "exec", "shell", "ssh", "image", "setup", "sandbox"):
        assert f"\n  {name} " in said


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(cli, "frobnicate") == 2
    assert "No such command 'frobnicate'" in capsys.readouterr().err
