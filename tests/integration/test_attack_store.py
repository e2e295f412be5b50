"""The store of public images: what a container's root could hold, read, or run of it."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oar_lxc.errors import CommandError, ImageError
from oar_lxc.image.importing import import_image
from oar_lxc.image.store import PUBLIC_STORE, Store
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.node_log import NodeLog
from oar_lxc.linux.removal import remove_tree
from oar_lxc.linux.store_access import NOBODYS
from oar_lxc.model.config import Config
from oar_lxc.model.image_name import ImageName
from oar_lxc.model.layout import JobLayout
from oar_lxc.root.prepare import Preparation
from tests.integration.attacks import as_root_inside, attack
from tests.integration.conftest import published
from tests.pretend import PretendJob

HOLD = """
import fcntl
done = []
for path in sys.argv[1:]:
    try:
        fd = os.open(path, os.O_RDONLY)
        os.path.isfile(path) and fcntl.flock(fd, fcntl.LOCK_EX)
        done.append(path)
    except OSError:
        pass
tell("held", *done)
signal.pause()
"""


def test_containers_root_holds_no_lock_of_the_store_and_reads_nothing_half_made(
    job: PretendJob,
) -> None:
    store = Store(PUBLIC_STORE)
    images = JobLayout(job.id).images
    before = as_root_inside(job)
    with store.half() as half:
        (half / "rootfs").mkdir()
        names = [".lock", half.name, f"{half.name}/.lock", f"{half.name}/rootfs"]
        paths = [str(images / name) for name in names]
        assert all(os.path.lexists(path) for path in paths[:2])
        with attack(job, HOLD, *paths, before=before) as (_, line):
            assert line == "held"
            with worker(store):
                pass
    assert not half.exists()
    status = (store.root / ".lock").stat()
    assert (status.st_uid, oct(status.st_mode)) == (NOBODYS, "0o100600")


@contextmanager
def worker(store: Store) -> Iterator[None]:
    """Make sure that another command of root's gets its turn at once."""
    done = threading.Event()

    def work() -> None:
        with store.half():
            done.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert done.wait(10)
    yield
    thread.join(10)


def test_a_lock_that_somebody_holds_is_one_sentence_after_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "images")
    with store.half():
        pass
    monkeypatch.setattr("oar_lxc.image.store._PATIENCE", 0.3)
    with subprocess.Popen(["flock", str(store.root / ".lock"), "sleep", "20"]) as process:
        try:
            subprocess.run(["sleep", "0.5"], check=True)
            with pytest.raises(ImageError, match=r"stayed locked for 0\.3 s"), store.half():
                raise AssertionError
        finally:
            process.kill()
            subprocess.run(["pkill", "-P", str(process.pid)], check=False)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """Return a directory that everybody may enter, as a site's own for data is."""
    place = Path(f"/srv/oar-lxc-test-{os.getpid()}")
    place.mkdir(mode=0o755)
    yield place
    remove_tree(place)


def image_with_a_set_user_id_program(directory: Path) -> Path:
    for name in ("bin", "etc", "sbin"):
        (directory / name).mkdir(parents=True)
    subprocess.run(["cp", "/usr/bin/id", str(directory / "bin/su")], check=True)
    (directory / "bin/su").chmod(0o4755)
    (directory / "sbin/init").symlink_to("../bin/su")
    return directory


def test_a_store_that_users_may_enter_is_refused(
    unprepared: PretendJob, open_place: Path, tmp_path: Path
) -> None:
    """Else any user of the node would be root by a set-user-id program of an image."""
    tree = image_with_a_set_user_id_program(tmp_path / "tree")
    store = Store(open_place / "images")
    with pytest.raises(ImageError, match=f"chmod 700 {open_place}"):
        import_image(store, ImageName("lab"), str(tree))
    assert os.listdir(open_place) == []
    store.root.mkdir()
    layout, job = JobLayout(unprepared.id), unprepared
    prepare = Preparation(
        layout, job.user, job.node, [job.node], Config(trees=(), store=store.root), job.cgroup
    )
    prepare.run(NodeLog(bound={}), Deadline.after(20))
    assert published(job).state == "refused"
    assert f"chmod 700 {open_place}" in published(job).reason
    open_place.chmod(0o700)
    import_image(store, ImageName("lab"), str(tree))
    program = store.directory(ImageName("lab")) / "rootfs/bin/su"
    assert job.run(["sh", "-c", str(program)]).status != 0


def test_a_store_that_makes_its_own_place_closes_it(open_place: Path, tmp_path: Path) -> None:
    tree = image_with_a_set_user_id_program(tmp_path / "tree")
    store = Store(open_place / "new/images")
    import_image(store, ImageName("lab"), str(tree))
    assert oct((open_place / "new").stat().st_mode) == "0o40700"


def test_what_is_mounted_below_a_tree_that_is_removed_stays(tmp_path: Path) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    for path in (tree / "mounted", tree / "other", outside / "directory"):
        path.mkdir(parents=True)
    outside.chmod(0o755)
    (tree / "link").symlink_to(outside)
    (tree / "other/link").symlink_to(outside / "directory")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tree / "mounted")], check=True)
    try:
        (tree / "mounted/file").touch()
        (tree / "mounted/directory").mkdir(mode=0o500)
        with pytest.raises(CommandError, match="mounted"):
            remove_tree(tree)
        assert (tree / "mounted/file").exists()
        assert oct((tree / "mounted/directory").stat().st_mode) == "0o40500"
        assert not (tree / "other").exists()
        assert oct(outside.stat().st_mode) == "0o40755"
    finally:
        subprocess.run(["umount", str(tree / "mounted")], check=True)
    remove_tree(tree)
    assert not tree.exists()


def test_a_user_removes_what_denies_to_be_entered_and_touches_nothing_else(
    job: PretendJob,
) -> None:
    code = """
import stat
from pathlib import Path
from oar_lxc.linux.removal import remove_tree
home = Path.home()
outside = home / "outside"
outside.mkdir(mode=0o555)
(home / "tree/a/b").mkdir(parents=True)
(home / "tree/a/b/link").symlink_to(outside)
(home / "tree/link").symlink_to(outside)
(home / "tree/a/b/file").touch()
(home / "tree/a/b").chmod(0)
(home / "tree/a").chmod(0o100)
remove_tree(home / "tree")
tell((home / "tree").exists(), oct(outside.stat().st_mode))
outside.rmdir()
"""
    with attack(job, code) as (_, line):
        assert line == "False 0o40555"
