"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from oar_lxc.linux.atomic import write_atomic


def test_a_file_has_the_mode_that_it_shall_have_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "file", "text \udcff")
        write_atomic(tmp_path / "open", b"\xfe", 0o1644, (os.geteuid(), os.getegid()))
    finally:
        os.umask(before)
    assert (tmp_path / "file").read_bytes() == b"text \xff"
    assert (tmp_path / "open").read_bytes() == b"\xfe"
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "open")]
    assert modes == [0o600, 0o1644]
    assert sorted(os.listdir(tmp_path)) == ["file", "open"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").symlink_to("elsewhere")
    write_atomic(tmp_path / "file", "text")
    assert os.listdir(tmp_path) == ["file"]
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize("call", ["write", "fchmod", "rename"])
@pytest.mark.parametrize("scratch", [None, "half"])
def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, scratch: str | None
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "file").write_text("old")
    place = tmp_path / scratch if scratch else None
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(tmp_path / "file", "new", scratch=place)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_what_a_killed_writer_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "half").write_text("a longer half of the new content")
    (tmp_path / "half").chmod(0o400)
    write_atomic(tmp_path / "file", "new", scratch=tmp_path / "half")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "new"


def test_threads_may_write_one_file_at_once(tmp_path: Path) -> None:
    path, texts = tmp_path / "file", ["a" * 50_000, "b" * 50_000]
    failed: list[BaseException] = []

    def write(text: str) -> None:
        try:
            for _ in range(20):
                write_atomic(path, text)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert path.read_text() in texts
    assert os.listdir(tmp_path) == ["file"]


def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    rename = os.rename

    def sync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            done.append("directory")
            raise OSError(errno.EINVAL, "this file system knows no such request")
        done.append("content" if os.fstat(fd).st_size == 3 else "too early")

    def note(*names: Path) -> None:
        done.append("name")
        rename(*names)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", note)
    write_atomic(tmp_path / "file", "new", durable=True)
    assert done == ["content", "name", "directory"]
    write_atomic(tmp_path / "file", "new")
    assert done == ["content", "name", "directory", "name"]
