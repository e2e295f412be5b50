"""Locks of both kinds, beside another process that holds them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.lock import Kind, locked, take

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""
KINDS = pytest.mark.parametrize("kind", [fcntl.flock, fcntl.lockf])


def second_byte(fd: int, flags: int) -> None:
    fcntl.lockf(fd, flags, 1, 1)


@contextmanager
def held_by_another(path: Path, kind: str) -> Iterator[None]:
    path.touch()
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), kind], stdin=pipe, stdout=pipe
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        yield
        other.communicate()


@KINDS
def test_a_lock_that_another_holds_is_taken_when_that_one_has_ended(
    tmp_path: Path, kind: Kind
) -> None:
    path = tmp_path / "lock"
    with held_by_another(path, kind.__name__):
        with (
            pytest.raises(OarLxcError, match=r"lock stayed locked for 0.02 s"),
            locked(path, 0.02, kind),
        ):
            pytest.fail("two hold it")
        with (
            pytest.raises(OarLxcError, match=r"^job 42 stayed locked for 0 s"),
            locked(path, 0, kind, "job 42"),
        ):
            pytest.fail("two hold it")
    with locked(path, 0, kind):
        pass
    with locked(path, kind=kind):
        pass


def test_a_lock_of_one_part_leaves_the_others_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, 0, second_byte):
        code = (
            "import fcntl, sys; file = open(sys.argv[1], 'r+b')\n"
            "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[2]))"
        )
        ends = [
            subprocess.run(
                [sys.executable, "-c", code, str(path), byte], stderr=subprocess.PIPE, check=False
            ).returncode
            for byte in ("0", "1", "2")
        ]
    assert ends == [0, 1, 0]


def test_a_directory_can_be_locked(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    assert take(first, 0)
    assert not take(second, 0)
    os.close(first)
    assert take(second)
    os.close(second)


@KINDS
def test_the_file_is_made_for_its_owner_and_no_link_is_followed(
    tmp_path: Path, kind: Kind
) -> None:
    with locked(tmp_path / "lock", 0, kind):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / "link", 0, kind):
        pytest.fail("a link was followed")
    assert not (tmp_path / "elsewhere").exists()


def test_a_lock_that_is_no_file_blocks_no_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    with locked(tmp_path / "lock", 0):
        pass
