"""Images of every source on real file systems: all of it survives, or nothing is published."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oar_lxc.errors import ImageError
from oar_lxc.image import importing
from oar_lxc.image.building import build_image
from oar_lxc.image.importing import import_image, verify
from oar_lxc.image.recipes import RECIPES
from oar_lxc.image.store import Store
from oar_lxc.linux.run import run
from oar_lxc.model.image_name import ImageName
from tests.integration.images import layout_of_oci
from tests.unit.archives import Pack, of_crane, tar_of, zstd

NAME = ImageName("made", "1")
CAPABILITY = "security.capability"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root file system with everything that has to survive."""
    root = tmp_path_factory.mktemp("tree") / "rootfs"
    for name in ("etc", "sbin", "bin", "home/user"):
        (root / name).mkdir(parents=True)
    (root / "etc/big").write_bytes(os.urandom(3_000_000))
    (root / "bin/sudo").write_bytes(b"#!/bin/sh\n" * 50_000)
    os.chmod(root / "bin/sudo", 0o4755)
    (root / "bin/ping").write_bytes(b"#!/bin/sh\n")
    run(["setcap", "cap_net_raw+ep", str(root / "bin/ping")])
    os.link(root / "bin/ping", root / "bin/ping4")
    (root / "sbin/init").symlink_to("/lib/systemd/systemd")
    (root / "home/user/file").write_text("mine")
    os.chown(root / "home/user/file", 1000, 1001)
    os.chown(root / "home/user", 1000, 1001)
    os.chmod(root / "home", 0o1777)
    os.setxattr(root / "etc", "user.note", b"\x00bytes\xff")
    (root / ("x" * 120)).write_text("a long name")
    (root / "etc/ümlaut\nname").touch()
    return root


def assert_survived(root: Path) -> None:
    assert stat.S_IMODE((root / "bin/sudo").stat().st_mode) == 0o4755
    assert "cap_net_raw=ep" in run(["getcap", str(root / "bin/ping")]).stdout
    assert (root / "bin/ping").stat().st_ino == (root / "bin/ping4").stat().st_ino
    status = (root / "home/user/file").stat()
    assert (status.st_uid, status.st_gid) == (1000, 1001)
    assert stat.S_IMODE((root / "home").stat().st_mode) == 0o1777
    assert os.getxattr(root / "etc", "user.note") == b"\x00bytes\xff"
    assert os.readlink(root / "sbin/init") == "/lib/systemd/systemd"
    assert (root / ("x" * 120)).read_text() == "a long name"
    assert (root / "etc/ümlaut\nname").exists()


TAR = ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*"]


def packed(tree: Path, where: Path, option: str) -> str:
    path = where / "made.tar"
    run([*TAR, option, "-C", str(tree), "-cf", str(path), "."])
    return str(path)


def squashed(tree: Path, where: Path) -> str:
    run(["mksquashfs", str(tree), str(where / "made.sqfs"), "-quiet", "-no-progress"])
    return str(where / "made.sqfs")


def saved_by_docker(tree: Path, where: Path) -> str:
    layout = layout_of_oci(tree, where)
    archive = where / "saved:by-docker.tar"
    link = where / "saved.tar"
    run(["skopeo", "--insecure-policy", "copy", f"oci:{layout}:v1", f"docker-archive:{link}:x:1"])
    link.rename(archive)
    return str(archive)


SOURCES: dict[str, Callable[[Path, Path], str]] = {
    "directory": lambda tree, where: str(tree),
    "plain": lambda tree, where: packed(tree, where, "--format=pax"),
    "gnu": lambda tree, where: packed(tree, where, "--format=gnu"),
    "gzip": lambda tree, where: packed(tree, where, "--gzip"),
    "xz": lambda tree, where: packed(tree, where, "--xz"),
    "zstd": lambda tree, where: packed(tree, where, "--zstd"),
    "squashfs": squashed,
    "oci": layout_of_oci,
    "docker": saved_by_docker,
}


@pytest.fixture(scope="module")
def digest(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest of the tree, as it is imported from its directory."""
    store = Store(tmp_path_factory.mktemp("reference"))
    return import_image(store, NAME, str(tree)).digest


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind != "gnu"])
def test_everything_survives_and_the_digest_is_one(
    tree: Path, tmp_path: Path, digest: str, kind: str
) -> None:
    source = SOURCES[kind](tree, tmp_path)
    store = Store(tmp_path / "store/images")
    record = import_image(store, NAME, source)
    assert_survived(store.directory(NAME) / "rootfs")
    assert (record.digest, record.halt_signal) == (digest, "SIGRTMIN+3")
    assert verify(store, NAME) == record
    assert sorted(os.listdir(store.root)) == [".lock", NAME.directory]
    assert sorted(os.listdir(store.directory(NAME))) == ["image.json", "rootfs"]


def test_an_archive_has_the_digest_of_its_tree(tree: Path, tmp_path: Path, digest: str) -> None:
    store = Store(tmp_path / "archives", archives=True)
    assert import_image(store, NAME, str(tree)).digest == digest
    assert verify(store, NAME).digest == digest


def test_an_archive_that_was_changed_on_disk_does_not_verify(tree: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "images")
    import_image(store, NAME, str(tree))
    rootfs = store.directory(NAME) / "rootfs"
    changes: list[tuple[list[str], list[str]]] = [
        (["chmod", "0755", "bin/sudo"], ["chmod", "4755", "bin/sudo"]),
        (["chown", "1:0", "etc"], ["chown", "0:0", "etc"]),
        (["touch", "new"], ["rm", "new"]),
    ]
    for change, undo in changes:
        run(change, cwd=str(rootfs))
        with pytest.raises(ImageError, match=r"image made:1 in .* was changed"):
            verify(store, NAME)
        run(undo, cwd=str(rootfs))
        verify(store, NAME)
    os.removexattr(rootfs / "bin/ping", CAPABILITY)
    with pytest.raises(ImageError, match="was changed"):
        verify(store, NAME)


def import_command(store: Path, source: str, name: str = str(NAME)) -> list[str]:
    cli = [sys.executable, "-m", "oar_lxc.cli.main"]
    return [*cli, "image", "import", name, source, "--store", str(store)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_import_that_is_killed_in_the_middle_publishes_nothing(
    tree: Path, tmp_path: Path, number: int
) -> None:
    """Whatever is left goes with the next import."""
    store = tmp_path / "images"
    # A packer that stops half-way: the import waits for it.
    archive = Path(packed(tree, tmp_path, "--format=pax"))
    source = tmp_path / "source.tar.gz"
    fake = tmp_path / "bin/gzip"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\nhead -c 2000000 {archive}; exec sleep 20\n")
    fake.chmod(0o755)
    source.write_bytes(b"\x1f\x8b" + bytes(100))
    environ = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        import_command(store, str(source)),
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 30
    while not list(store.glob(".half-*/rootfs/etc")):
        assert time.monotonic() < end, "it did not come to the middle"
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    process.wait(20)
    assert Store(store).names() == []
    half = list(store.glob(".half-*"))
    assert bool(half) == (number == signal.SIGKILL)
    done = run(import_command(store, str(archive)))
    assert done.stdout.startswith("made:1 sha256:")
    assert sorted(os.listdir(store)) == [".lock", NAME.directory]


@pytest.mark.parametrize("pack", [zstd, gzip.compress])
def test_a_disk_that_fills_half_way_is_one_sentence_and_leaves_nothing(
    tree: Path, tmp_path: Path, pack: Pack
) -> None:
    """Also where an archive of layers has to be unpacked first: it is not to blame."""
    layers = tmp_path / "layers.tar"
    layer = Path(packed(tree, tmp_path, "--format=pax")).read_bytes()
    layers.write_bytes(pack(tar_of(of_crane({"x:1": [layer]}))))
    store = tmp_path / "small"
    store.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(store)])
    try:
        for archives, source in itertools.product((False, True), (tree, layers)):
            with pytest.raises(ImageError, match="No space left on device") as caught:
                import_image(Store(store / "images", archives=archives), NAME, str(source))
            assert "\n" not in str(caught.value)
            assert os.listdir(store / "images") == [".lock"]
    finally:
        run(["umount", str(store)])


@pytest.mark.parametrize("bad", [1, 2])
def test_a_disk_that_cannot_be_written_is_told_whenever_that_is_seen(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    """The kernel tells it once: of those that sync while the rest is unpacked, none is ignored."""
    monkeypatch.setattr(importing, "EARLY", 1 << 20)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    fake = tmp_path / "sync"
    fake.write_text(
        f"#!/bin/sh\necho >>{tmp_path}/calls\n"
        f"if [ $(wc -l <{tmp_path}/calls) = {bad} ]; then echo 'sync: bad disk' >&2; exit 1; fi\n"
        f'exec /usr/bin/sync "$@"\n'
    )
    fake.chmod(0o755)
    store = Store(tmp_path / "images")
    with pytest.raises(ImageError, match=r"sync: bad disk$"):
        import_image(store, NAME, str(tree))
    assert os.listdir(store.root) == [".lock"]
    import_image(store, NAME, str(tree))
    assert len((tmp_path / "calls").read_text().splitlines()) >= 2 + bad


@pytest.mark.parametrize("option", ["--format=pax", "--gzip", "--xz", "--zstd"])
def test_an_archive_that_was_cut_is_refused(tree: Path, tmp_path: Path, option: str) -> None:
    path = Path(packed(tree, tmp_path, option))
    store = Store(tmp_path / "images")
    for part in (0.9, 0.3):
        os.truncate(path, int(path.stat().st_size * part))
        sentence = rf"^{path} is damaged or cut short \(.*\)$"
        with pytest.raises(ImageError, match=sentence) as caught:
            import_image(store, NAME, str(path))
        assert "\n" not in str(caught.value)
    assert store.names() == []
    assert os.listdir(store.root) == [".lock"]


def test_devices_in_a_directory_are_refused_with_advice(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    run(["cp", "-a", str(tree), str(copy)])
    os.mkfifo(copy / "fifo")
    os.mknod(copy / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    with pytest.raises(ImageError, match=r"null is a device.* --exclude"):
        import_image(Store(tmp_path / "images"), NAME, str(copy))


def test_the_recipe_busybox_is_small(tmp_path: Path) -> None:
    store = Store(tmp_path / "images")
    record = build_image(store, ImageName("busybox"), RECIPES["busybox"])
    assert record.size < 10_000_000
    assert record.halt_signal == "SIGUSR2"
    facts = json.loads((store.root / "busybox/image.json").read_text())
    assert facts["digest"] == record.digest
    used = run(["du", "-s", "-B1", str(store.root / "busybox/rootfs")]).stdout
    assert int(used.split()[0]) < 10_000_000
