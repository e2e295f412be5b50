"""The list of lxc-user-nic: lines of bridges that are gone go, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oar_lxc.model.layout import JobLayout
from oar_lxc.root import user_nics

LINES = (
    "alice veth olb42 veth1000_a\n"
    "alice veth olb43 veth1000_b\n"
    "bob veth br0 veth1001_c\n"
    "bob veth olbX veth1001_d\n"
    "odd\n"
)


@pytest.fixture
def nics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(user_nics, "NET", tmp_path / "net")
    (tmp_path / "net/olb43").mkdir(parents=True)
    path = tmp_path / "nics"
    path.write_text(LINES)
    return path


def test_lines_of_bridges_that_are_gone_are_forgotten(nics: Path) -> None:
    assert user_nics.left_of(JobLayout(42), nics) == ["alice veth olb42 veth1000_a"]
    assert user_nics.left_of(JobLayout(4), nics) == []
    inode = nics.stat().st_ino
    for _ in range(2):
        user_nics.forget_gone(nics)
        assert nics.read_text() == LINES.partition("\n")[2]
    assert nics.stat().st_ino == inode  # others wait for the lock of that one
    assert user_nics.left_of(JobLayout(42), nics) == []


def test_a_list_that_somebody_keeps_locked_holds_nobody_up(nics: Path) -> None:
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX);"
        "print(flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", code, str(nics)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        user_nics.forget_gone(nics)
        assert nics.read_text() == LINES
        assert user_nics.left_of(JobLayout(42), nics) == []
        assert holder.stdin is not None
        holder.stdin.close()
    user_nics.forget_gone(nics)
    assert "olb42" not in nics.read_text()


@pytest.mark.parametrize("kind", ["missing", "fifo"])
def test_where_there_is_no_list_there_is_nothing_to_forget(nics: Path, kind: str) -> None:
    nics.unlink()
    if kind == "fifo":
        os.mkfifo(nics)
    user_nics.forget_gone(nics)
    assert user_nics.left_of(JobLayout(42), nics) == []
