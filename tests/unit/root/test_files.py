"""Files of the root side."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from oar_lxc.errors import CommandError, OarLxcError
from oar_lxc.linux.removal import remove_tree
from oar_lxc.root.files import job_locked, locked, write_durably
from tests.unit.fakes.programs import deep_tree


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_written_with_its_mode_and_nothing_beside_it(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_durably(tmp_path / "file", "text \udcff", 0o644)
    finally:
        os.umask(before)
    assert (tmp_path / "file").read_bytes() == b"text \xff"
    assert mode(tmp_path / "file") == 0o644
    assert os.listdir(tmp_path) == ["file"]


def test_an_existing_file_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    os.link(tmp_path / "file", tmp_path / "other")
    write_durably(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "other").read_text() == "old"


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("old")
    (tmp_path / "file").symlink_to("victim")
    write_durably(tmp_path / "file", "new")
    assert (tmp_path / "victim").read_text() == "old"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_write_that_fails_leaves_the_old_text_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_durably(tmp_path / "file", "new")
    monkeypatch.undo()
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_is_killed_leaves_the_old_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from oar_lxc.root import files\n"
        "os.rename = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_durably(Path(sys.argv[1]), 'new')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], check=False)
    assert done.returncode == -9
    assert (tmp_path / "file").read_text() == "old"
    write_durably(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


def test_a_reader_sees_the_old_text_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = {"a" * 100_000, "b" * 50_000}
    path.write_text("a" * 100_000)
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(10):
        for text in texts:
            write_durably(path, text)
    done.set()
    thread.join()
    assert seen <= texts


def try_job(path: Path, job_id: int) -> int:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from oar_lxc.root.files import job_locked\n"
        "with job_locked(int(sys.argv[2]), 0.05, Path(sys.argv[1])): pass\n"
    )
    argv = [sys.executable, "-c", code, str(path), str(job_id)]
    return subprocess.run(argv, check=False, stderr=subprocess.DEVNULL).returncode


def test_each_job_has_a_lock_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "jobs"
    with job_locked(42, 1, path):
        assert try_job(path, 42) == 1
        assert try_job(path, 421) == 0
    assert try_job(path, 42) == 0
    assert try_job(path, 2**31 - 1) == 0


def test_the_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []

    def wait() -> None:
        with locked(5, tmp_path / "lock"):
            order.append("second")

    with locked(5, tmp_path / "lock"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_that_stays_taken_is_an_error_after_a_while(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        locked(5, path),
        pytest.raises(OarLxcError, match=r"lock stayed locked for 0\.05 s"),
        locked(0.05, path),
    ):
        raise AssertionError


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from oar_lxc.root.files import locked\n"
        "path = Path(sys.argv[1])\n"
        "with locked(1, path): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], check=False)
    with locked(0.05, tmp_path / "lock"):
        pass


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic"), locked(1, tmp_path / "lock"):
        raise AssertionError
    assert not (tmp_path / "elsewhere").exists()


def test_a_tree_is_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    tree = tmp_path / "tree"
    (tree / "a b\n'\"/c").mkdir(parents=True)
    (tree / "directory").symlink_to(outside)
    (tree / "file").symlink_to(outside / "file")
    (tree / "dangling").symlink_to("nowhere")
    os.link(outside / "file", tree / "hard")
    os.mkfifo(tree / "fifo")
    remove_tree(tree, 10)
    assert not tree.exists()
    assert (outside / "file").exists()


def test_a_link_in_the_place_of_the_tree_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").touch()
    (tmp_path / "tree").symlink_to(tmp_path / "outside")
    remove_tree(tmp_path / "tree", 10)
    assert not (tmp_path / "tree").is_symlink()
    assert (tmp_path / "outside/file").exists()


def test_a_tree_deeper_than_a_path_can_be_long_is_removed(tmp_path: Path) -> None:
    with deep_tree(tmp_path, "level", 1200) as tree:
        remove_tree(tree, 20)
        assert not tree.exists()


def test_a_tree_that_is_gone_is_success(tmp_path: Path) -> None:
    remove_tree(tmp_path / "tree", 10)


def test_what_cannot_be_removed_is_an_error() -> None:
    with pytest.raises(CommandError):
        remove_tree(Path("/proc/self/status"), 10)
