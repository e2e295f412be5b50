"""What people give to import: each form is known, or refused with what it is and the way."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from oar_lxc.errors import CommandError, ImageError
from oar_lxc.image.importing import Listener, import_image
from oar_lxc.image.program_errors import (
    need,
    reason_of,
    reason_of_build_error,
    reason_of_push_error,
)
from oar_lxc.image.store import ARCHIVE, Store
from oar_lxc.linux.run import run
from oar_lxc.model.image_name import ImageName
from tests.unit.archives import Pack, archive, member, plain, system, tar_of, zstd

DIR, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
NAME = ImageName("made")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store of archives, as users have."""
    return Store(tmp_path / "store", archives=True)


def refused(store: Store, source: str | Path) -> str:
    """Return why a source is refused: one sentence that begins with it, and leaves nothing."""
    with pytest.raises(ImageError) as caught:
        import_image(store, NAME, str(source))
    said = str(caught.value)
    assert said.startswith(str(source))
    assert "\n" not in said
    assert ".half-" not in said
    assert store.names() == []
    return said.removeprefix(str(source)).lstrip(": ")


def taken(store: Store, source: str | Path) -> tuple[set[str], list[str]]:
    """Return what an image of a source has, and what was said of it."""
    said: list[str] = []
    import_image(store, NAME, str(source), Listener(said.append))
    unpack = ["zstd", "-dcq", str(store.directory(NAME) / ARCHIVE)]
    listed = run(["tar", "-tf", "-"], input=run(unpack).stdout).stdout.split()
    return {name.removeprefix("./").rstrip("/") for name in listed}, said


# A root file system with something around it.

TREE = {
    f"{name}": b"x"
    for name in ("etc/passwd", "usr/bin/sh", "sbin/init", "var/lib/jail/etc/passwd")
}
AROUND = {
    "LXD": ("rootfs", {"metadata.yaml": b"x", "templates/hostname.tpl": b"x"}),
    "Arch": ("root.x86_64", {"pkglist.x86_64.txt": b"x", "version": b"x"}),
    "Incus export": ("backup/container/rootfs", {"backup/index.yaml": b"x"}),
    "packed from above": ("debian", {}),
    "a directory called root": ("root", {}),
}


@pytest.mark.parametrize("pack", [plain, gzip.compress])
@pytest.mark.parametrize("kind", AROUND)
def test_the_root_file_system_inside_is_taken(tmp_path: Path, kind: str, pack: Pack) -> None:
    """Wherever in the archive what is around it comes."""
    top, around = AROUND[kind]
    inner = {f"{top}/{name}": data for name, data in TREE.items()}
    for number, files in enumerate(({**around, **inner}, {**inner, **around})):
        (tmp_path / "a").write_bytes(pack(tar_of(files, "./" * number)))
        found, said = taken(Store(tmp_path / f"store{number}", archives=True), tmp_path / "a")
        assert set(TREE) < found
        assert not any(top.split("/")[0] == name.split("/")[0] for name in found)
        assert said == [f"image made: took the root file system that is in {top}/"]


def test_hard_links_inside_stay(store: Store, tmp_path: Path) -> None:
    made = [member(f"r/{name}", content=b"x") for name in TREE]
    link = member("r/bin/sh", HARD, linkname="r/usr/bin/sh")
    (tmp_path / "a").write_bytes(archive([*made, link]))
    assert "bin/sh" in taken(store, tmp_path / "a")[0]
    outside = [member("other"), *made, member("r/bin/x", HARD, linkname="other")]
    (tmp_path / "b").write_bytes(archive(outside))
    other = Store(tmp_path / "other-store", archives=True)
    assert "leads to other, outside of the root" in refused(other, tmp_path / "b")


def test_nothing_climbs_out_of_the_directory_inside(store: Store, tmp_path: Path) -> None:
    made = [member(f"r/{name}", content=b"x") for name in TREE]
    (tmp_path / "a").write_bytes(archive([*made, member("r/../../x")]))
    assert "leads out of the root" in refused(store, tmp_path / "a")


def test_directories_with_something_around_are_taken_too(store: Store, tmp_path: Path) -> None:
    for name, data in {
        **{f"rootfs/{n}": d for n, d in TREE.items()},
        "metadata.yaml": b"",
    }.items():
        path = tmp_path / "unpacked" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    found, said = taken(store, tmp_path / "unpacked")
    assert set(TREE) < found
    assert said == ["image made: took the root file system that is in rootfs/"]


PARTS = {
    "several": (
        {f"{top}/{name}": b"" for top in ("a", "b") for name in TREE},
        "it has several root file systems (a/, b/): unpack it and import the directory of one",
    ),
    "metadata of LXD": (
        {"metadata.yaml": b"", "templates/x.tpl": b""},
        "it is one half of an image of LXD or Incus, which has its metadata alone: import",
    ),
    "virtual machine": (
        {"metadata.yaml": b"", "rootfs.img": b""},
        "it is an image of LXD or Incus for virtual machines: take the one for containers",
    ),
    "Docker of 2014": (
        {"ab" * 32 + "/layer.tar": b"", "ab" * 32 + "/json": b"", "repositories": b"{}"},
        "it has layers of Docker and no manifest.json, as Docker before 1.10 wrote: `docker load`",
    ),
    "no system": (
        {"src/main.c": b"", "README": b""},
        "it is no root file system: at its top there",
    ),
    "no image": (
        {"manifest.json": b"{}", "x/y": b""},
        "it is no root file system: at its top there",
    ),
}


@pytest.mark.parametrize("kind", PARTS)
def test_what_can_never_boot_is_not_published(store: Store, tmp_path: Path, kind: str) -> None:
    files, sentence = PARTS[kind]
    (tmp_path / "a").write_bytes(gzip.compress(tar_of(files)))
    assert refused(store, tmp_path / "a").startswith(sentence)


def test_a_system_that_has_such_files_itself_is_one(store: Store, tmp_path: Path) -> None:
    """What is at the top decides, whatever else is there."""
    files = {"manifest.json": b"[]", "metadata.yaml": b"", "data/etc/x": b"", "data/bin/x": b""}
    (tmp_path / "a").write_bytes(tar_of({**files, **TREE}))
    found, said = taken(store, tmp_path / "a")
    assert {*files, *TREE} < found
    assert said == []


def test_names_in_an_archive_do_not_reach_the_terminal(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(archive([member("../\033[2J\nx\udcff")]))
    said = refused(store, tmp_path / "a")
    assert said == "member ../?[2J?x? leads out of the root by '..'"


def test_that_an_image_has_no_init_is_told(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(tar_of({"etc/passwd": b"", "bin/sh": b""}))
    _, said = taken(store, tmp_path / "a")
    assert len(said) == 1
    assert said[0].startswith("image made has no /sbin/init: containers of it cannot boot.")


def test_that_devices_are_left_out_is_told(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(system(member("dev/null", tarfile.CHRTYPE), member("dev/x", tarfile.BLKTYPE)))
    _, said = taken(store, path)
    assert said == [
        "image made: left out 2 devices below /dev, as containers get theirs when they start"
    ]


# How it is packed.


def test_zstd_with_a_window_of_any_size_is_read(store: Store, tmp_path: Path) -> None:
    """By itself, zstd refuses windows above 128 MiB, and says that the file is damaged."""
    argv = ["zstd", "-q", "-c", "--long=28", "--no-check"]
    # From a pipe it does not know the size, and takes the whole window.
    packed = subprocess.run(argv, input=system(), stdout=subprocess.PIPE, check=True).stdout
    (tmp_path / "a").write_bytes(packed)
    assert subprocess.run(["zstd", "-tq", tmp_path / "a"], stderr=subprocess.DEVNULL).returncode
    taken(store, tmp_path / "a")


def test_frames_that_are_to_be_skipped_are(store: Store, tmp_path: Path) -> None:
    frame = b"\x53\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"
    (tmp_path / "a").write_bytes(frame + zstd(system()))
    taken(store, tmp_path / "a")


def test_what_follows_an_archive_does_not_matter(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(system() + b"garbage" * 999)
    taken(store, tmp_path / "a")
    (tmp_path / "b").write_bytes(gzip.compress(system()) + b"garbage" * 999)
    taken(Store(tmp_path / "other", archives=True), tmp_path / "b")


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("etc/passwd", "x")
    return stream.getvalue()


def at(place: int, data: bytes) -> bytes:
    return (bytes(place) + data).ljust(70_000, b"\0")


OTHERS = {
    "bzip2": (b"BZh91AY&SY", "packed with bzip2.* unpack it first (bzip2 -d)"),
    "lz4": (b"\x04\x22\x4d\x18", "packed with lz4.* unpack it first (lz4 -d)"),
    "lzip": (b"LZIP\x01", "packed with lzip.* unpack it first (lzip -d)"),
    "lzma": (lzma.compress(system(), lzma.FORMAT_ALONE), "packed with lzma.* (xz -d"),
    "compress": (b"\x1f\x9d\x90", "packed with compress"),
    "zip": (zipped(), "a zip archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    "qcow2": (b"QFI\xfb\0\0\0\x03", "a disk image of QEMU (qcow2).* mount it and import"),
    "iso": (at(32769, b"CD001"), "an ISO image of a CD"),
    "ext4": (at(1080, b"\x53\xef"), "an ext4 file system.* (mount -o ro,loop"),
    "xfs": (b"XFSB", "an XFS file system"),
    "btrfs": (at(65600, b"_BHRfS_M"), "a Btrfs file system"),
    "disk": (at(510, b"\x55\xaa"), "an image of a whole disk"),
    "sif": (at(32, b"SIF_MAGIC"), "an image of Apptainer"),
    "deb": (b"!<arch>\ndebian-binary", "a Debian package"),
    "cpio": (b"070701", "a cpio archive"),
    "text": ("Grüße,\nAlice\n".encode(), "it is a text.*, which begins with 'Grüße,': images are"),
    "nothing": (b"", "it is empty.*: look at how it was made"),
    "page": (b"<!DOCTYPE html><html>", "a web page, no archive: look at what was downloaded"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "other": (b"\0hello" * 1000, "it is no tar archive"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_cannot_be_read_is_called_by_its_name(
    store: Store, tmp_path: Path, kind: str
) -> None:
    data, sentence = OTHERS[kind]
    form = re.escape(sentence).replace(r"\.\*", ".*")
    (tmp_path / "a.tar").write_bytes(data)
    assert re.search(form, refused(store, tmp_path / "a.tar"))
    (tmp_path / "b").write_bytes(gzip.compress(data))
    assert re.search(form.split("\\ unpack")[0].split(".*")[0], refused(store, tmp_path / "b"))


def test_what_only_its_name_tells_is_told_by_it(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.tar.br").write_bytes(b"\x8b\x7f\x80" * 400)
    assert "packed with brotli" in refused(store, tmp_path / "a.tar.br")


# Where it is.

ELSEWHERE = {
    "docker://alpine:3.20": "`skopeo copy docker://alpine:3.20 oci:DIRECTORY:latest` gets one",
    "docker-daemon:alpine:3.20": "`skopeo copy docker-daemon:alpine:3.20 oci:DIRECTORY:latest`",
    "library://alpine": "`skopeo copy docker://IMAGE oci:DIRECTORY:latest` gets one",
    "alpine:3.20": "No such file or directory; images are not fetched from registries",
    "ghcr.io/a/b:1": "`skopeo copy docker://ghcr.io/a/b:1 oci:DIRECTORY:latest`",
    "https://example.org/rootfs.tar.xz": "images are not fetched from the web: get it with wget",
    "dir:saved": "`skopeo copy dir:saved oci:DIRECTORY:latest` makes a layout of it",
    "images:alpine/3.20": "`lxc image export` or `incus image export` writes one to files",
    "-": "standard input is not read: write it to a file first",
    "./nosuch": "No such file or directory",
}


@pytest.mark.parametrize("source", ELSEWHERE)
def test_what_would_have_to_be_fetched_is_refused_with_the_way(store: Store, source: str) -> None:
    assert ELSEWHERE[source] in refused(store, source)


def test_what_the_system_says_of_a_path_is_told(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    assert refused(store, tmp_path / "file/x") == "Not a directory"
    assert refused(store, "x" * 300) == "File name too long"
    assert refused(store, f"oci:{'x' * 300}") == "No such file or directory"


def test_pipes_and_devices_are_refused_at_once(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/null"):
        assert "no file and no directory: write it to a file first" in refused(store, path)


def test_what_skopeo_keeps_as_dir_is_told_by_what_is_in_it(store: Store, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"schemaVersion": 2}')
    (tmp_path / "version").write_text("Directory Transport Version: 1.1")
    assert refused(store, tmp_path).startswith("it is what skopeo writes as dir:")


def test_a_file_that_is_called_like_something_elsewhere_is_a_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alpine:3.20").write_bytes(system())
    taken(store, "alpine:3.20")


# What other programs say.


def failed(name: str, said: str, status: int = 1) -> CommandError:
    return CommandError([name], status, said)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            failed("tar", "tar: ./etc/x: file changed as we read it\n"),
            "./etc/x changed while it was read: import it when nobody writes there",
        ),
        (
            failed("tar", "tar: ./a: Cannot open: No such file or directory\ntar: Exiting\n"),
            "a: No such file or directory",
        ),
        (
            failed("tar", "tar: ./a: Cannot open: Input/output error"),
            "a: Input/output error",
        ),
        (
            failed("tar", "tar: oh\ntar: Exiting with failure status due to previous errors\n"),
            "tar failed; its last words: tar: oh",
        ),
        (failed("sync", ""), "sync failed, and does not say why"),
        (failed("zstd", "", -9), "zstd was killed by signal 9: the machine may have too little"),
    ],
)
def test_what_a_program_says_is_told_by_what_it_means(error: CommandError, sentence: str) -> None:
    assert reason_of(error).startswith(sentence)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("E: Unable to locate package gcx\nE: apt failed", "there is no package gcx in the"),
        ("Err:1 Temporary failure resolving 'deb.x'\nE: x", "packages cannot be fetched: deb.x"),
        (
            "E: The repository 'http://x' does not have a Release file.",
            "there is no such release at",
        ),
        ("W: GPG error: NO_PUBKEY 12\nE: x", "this machine does not know the keys"),
        (
            "I: begin\ncc: no such file\nE: setup failed: E: command failed: chroot",
            "a script of the recipe failed; its last words: cc: no such file",
        ),
        (
            "I: running --extract-hook in shell: sh -c 'cp x y\nfor z; do\ndone' exec /tmp/m.1\n"
            "first\nI: running --extract-hook in shell: sh -c 'exit 4' exec /tmp/m.1\n"
            "E: setup failed: E: command failed: exit 4",
            "a script of the recipe failed, and does not say why",
        ),
        (
            "I: begin\nE: no mirror\nI: end",
            "the system cannot be built; its last words: no mirror",
        ),
    ],
)
def test_why_a_build_failed_is_told_by_what_it_means(said: str, sentence: str) -> None:
    assert reason_of_build_error(failed("mmdebstrap", said)).startswith(sentence)


@pytest.mark.parametrize(
    ("lines", "reached", "sentence"),
    [
        (
            ["ssh: connect to host a port 6667: Connection refused"],
            False,
            "its ssh server does not",
        ),
        (["ssh: Could not resolve hostname a: unknown"], False, "its name cannot be resolved"),
        (["bash: /usr/bin/oar-lxc: No such file or directory"], True, "is not installed there"),
        (["Warning: x", "oar-lxc: image a exists already", "Connection closed"], True, "image a"),
        ([], False, "it could not be reached"),
        ([], True, "it failed, and does not say why"),
    ],
)
def test_why_a_node_took_no_image_is_told(lines: list[str], reached: bool, sentence: str) -> None:
    assert sentence in reason_of_push_error(lines, reached=reached)


def test_who_cannot_install_a_program_is_told_whom_to_ask(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ImageError, match=r"machine: ask the administrator for the package zstd$"):
        need("zstd", "zstd")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ImageError, match=r"machine: apt-get install zstd$"):
        need("zstd", "zstd")
