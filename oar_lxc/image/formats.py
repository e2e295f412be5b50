"""Recognise the form of an image's source by its content, never by its name or first member."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from oar_lxc.errors import ImageError
from oar_lxc.image.pipeline import Source
from oar_lxc.image.tarstream import FILE, LINKS
from oar_lxc.model.arguments import shown

FIRST = 70_000  # bytes at a file's start that tell its form

# Programs that unpack: the first bytes of their files, the command, and its package.
PACKERS = (
    (b"\x1f\x8b", ("gzip", "-dc"), "gzip"),
    (b"\xfd7zXZ\0", ("xz", "-dc"), "xz-utils"),
    # zstd's default limit is a window of 128 MiB, and archives may use larger ones.
    (b"\x28\xb5\x2f\xfd", ("zstd", "-dc", "--long=31"), "zstd"),
    # A skippable frame: parallel packers write one first.
    *(
        (bytes([0x50 + n]) + b"\x2a\x4d\x18", ("zstd", "-dc", "--long=31"), "zstd")
        for n in range(16)
    ),
)
SQUASHFS = b"hsqs"

_UNPACK = "unpack it first ({})"
_MOUNT = "mount it and import the directory ({})"
# Forms that cannot be read: position and bytes that tell the form, its name, and what to do.
_OTHERS = (
    (0, b"BZh", "packed with bzip2", _UNPACK.format("bzip2 -d")),
    (0, b"\x04\x22\x4d\x18", "packed with lz4", _UNPACK.format("lz4 -d")),
    (0, b"\x02\x21\x4c\x18", "packed with lz4", _UNPACK.format("lz4 -d")),
    (0, b"LZIP", "packed with lzip", _UNPACK.format("lzip -d")),
    (0, b"\x5d\0\0", "packed with lzma", _UNPACK.format("xz -d --format=lzma")),
    (0, b"\x89LZO\0", "packed with lzop", _UNPACK.format("lzop -d")),
    (0, b"\x1f\x9d", "packed with compress", _UNPACK.format("gzip -d")),
    (0, b"PK\x03\x04", "a zip archive", "such keep no owners: take a tar archive of the system"),
    (
        0,
        b"7z\xbc\xaf\x27\x1c",
        "a 7z archive",
        "such keep no owners: take a tar archive of the system",
    ),
    (0, b"Rar!\x1a\x07", "a rar archive", "such keep no owners: take a tar archive of the system"),
    (
        0,
        b"QFI\xfb",
        "a disk image of QEMU (qcow2)",
        _MOUNT.format("guestmount -a FILE -i --ro DIRECTORY"),
    ),
    (0, b"KDMV", "a disk image of VMware", _MOUNT.format("guestmount -a FILE -i --ro DIRECTORY")),
    (
        0,
        b"vhdxfile",
        "a disk image of Hyper-V",
        _MOUNT.format("guestmount -a FILE -i --ro DIRECTORY"),
    ),
    (
        64,
        b"\x7f\x10\xda\xbe",
        "a disk image of VirtualBox",
        _MOUNT.format("guestmount -a FILE -i --ro DIRECTORY"),
    ),
    (
        32769,
        b"CD001",
        "an ISO image of a CD",
        "where it is of a live system, mount it and import the squashfs that is in it",
    ),
    (1080, b"\x53\xef", "an ext4 file system", _MOUNT.format("mount -o ro,loop FILE DIRECTORY")),
    (0, b"XFSB", "an XFS file system", _MOUNT.format("mount -o ro,loop FILE DIRECTORY")),
    (65600, b"_BHRfS_M", "a Btrfs file system", _MOUNT.format("mount -o ro,loop FILE DIRECTORY")),
    (
        1024,
        b"\xe2\xe1\xf5\xe0",
        "an EROFS file system",
        _MOUNT.format("mount -o ro,loop FILE DIRECTORY"),
    ),
    (
        0,
        b"\x45\x3d\xcd\x28",
        "a cramfs file system",
        _MOUNT.format("mount -o ro,loop FILE DIRECTORY"),
    ),
    (
        0,
        b"sqsh",
        "squashfs of a version before 4",
        "unpack it with unsquashfs and import the directory",
    ),
    (
        512,
        b"EFI PART",
        "an image of a whole disk",
        _MOUNT.format("guestmount -a FILE -i --ro DIRECTORY"),
    ),
    (
        0,
        b"!<arch>\n",
        "a Debian package or another ar archive",
        "images are made of whole systems",
    ),
    (0, b"\xed\xab\xee\xdb", "an RPM package", "images are made of whole systems"),
    (0, b"07070", "a cpio archive", "unpack it as root (cpio -idm) and import the directory"),
    (0, b"\xc7\x71", "a cpio archive", "unpack it as root (cpio -idm) and import the directory"),
    (
        32,
        b"SIF_MAGIC",
        "an image of Apptainer (SIF)",
        "`apptainer build --sandbox DIRECTORY FILE` makes a directory of it",
    ),
    (0, b"\x7fELF", "a program", "images are made of root file systems"),
    (
        0,
        b"version https://git-lfs",
        "a pointer of Git LFS",
        "`git lfs pull` fetches what it stands for",
    ),
)
_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE)
_BOOT = (510, b"\x55\xaa")  # tested last, as two bytes may match by chance

# Names at the top of each root file system, and of hardly anything else.
_SURE = {b"bin", b"dev", b"etc", b"lib", b"lib64", b"proc", b"sbin", b"sys", b"usr", b"var"}
_PROGRAMS = {b"bin", b"sbin", b"usr"}
_DEEPEST = 4  # directories above a root file system at most
_LEGACY = re.compile(r"[0-9a-f]{64}/layer\.tar")  # Docker's


def refuse_other(first: bytes, packed: str = "") -> None:
    """Refuse a known form that cannot be read, and name it.

    Args:
        first: the first :data:`FIRST` bytes of a file, unpacked, or fewer.
        packed: the program that packed the file; empty if it was not packed.

    Raises:
        ImageError: the form is known and cannot be read.
    """
    around = f", packed with {packed}" if packed else ""
    for at, magic, what, way in _OTHERS:
        if first.startswith(magic, at) and not _is_tar(first):
            raise ImageError(f"it is {what}{around}, which cannot be read: {way}")
    if _PAGE.match(first):
        raise ImageError("it is a web page, no archive: look at what was downloaded")
    if first.startswith(_BOOT[1], _BOOT[0]) and not _is_tar(first):
        raise ImageError(
            f"it is an image of a whole disk{around}, which cannot be read: "
            + _MOUNT.format("guestmount -a FILE -i --ro DIRECTORY")
        )
    if not first:
        raise ImageError(f"it is empty{around}: look at how it was made")
    if _is_text(first):
        line = first.split(b"\n")[0].decode(errors="replace").strip()
        raise ImageError(
            f"it is a text{around}, which begins with {shown(line)}: images are made of root file "
            "systems, as a tar archive, directory or squashfs"
        )


def _is_text(first: bytes) -> bool:
    """Whether bytes are UTF-8 without control characters; a header of tar has zero bytes."""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(first)
    return "\ufffd" not in text and all(c.isprintable() or c in "\t\n\r\f\v\x1b" for c in text)


def _is_tar(first: bytes) -> bool:
    return first[257:262] == b"ustar"


_WAY = (
    "give a file or directory that lies here: a root file system as a tar archive, directory or "
    "squashfs, or what `docker save`, `podman save` or skopeo write"
)
_ENGINE = (
    "images are not fetched from registries and engines: `skopeo copy {it} oci:DIRECTORY:latest` "
    "gets one, then import DIRECTORY"
)
_FETCH = (
    (r"(?P<it>docker://.*|docker-daemon:.*|containers-storage:.*)", _ENGINE),
    (r"(oras|library|shub)://.*", _ENGINE.replace("{it}", "docker://IMAGE")),
    (r"[a-z][a-z0-9+.-]*://.*", "images are not fetched from the web: get it with wget first"),
    (
        r"(?P<it>dir:.*)",
        "what skopeo keeps as dir: is not read: `skopeo copy {it} oci:DIRECTORY:latest` makes a "
        "layout of it, then import DIRECTORY",
    ),
    (r"-", "standard input is not read: write it to a file first"),
    (
        r"(images|ubuntu|ubuntu-daily|local):.*",
        "images are not fetched from LXD and Incus: `lxc image export` or `incus image export` "
        "writes one to files",
    ),
)
_REFERENCE = re.compile(r"(?:[a-z0-9.-]+(?::[0-9]+)?/)*[a-z0-9._-]+:[A-Za-z0-9._-]+")


def refuse_elsewhere(source: str) -> None:
    """Refuse a source that is not a file here, if it names something to fetch.

    Raises:
        ImageError: it does; the message says how to get it.
    """
    for form, why in _FETCH:
        if match := re.fullmatch(form, source):
            raise ImageError(f"{source}: {why.format(**match.groupdict())}; {_WAY}")
    if _REFERENCE.fullmatch(source):
        way = _ENGINE.format(it=f"docker://{source}")
        raise ImageError(f"{source}: No such file or directory; {way}")


@dataclass
class Contents:
    """The members of an archive that had to be read to know its form.

    Attributes:
        is_tree: whether its top is the top of a root file system.
        is_cut: whether reading failed before its end.
        files: position and size of the content of each file, by name.
        links: target of each link, by name.
        tops: names directly below each directory that may be the top of a root file system.
    """

    is_tree: bool = False
    is_cut: bool = False
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    tops: dict[bytes, set[bytes]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether no file was found in it."""
        return not (self.is_tree or self.files or self.links or self.tops)

    def top(self) -> bytes:
        """Return the directory that has the root file system; empty for the top itself.

        Raises:
            ImageError: there are several.
        """
        found = [top for top, names in self.tops.items() if b"etc" in names and names & _PROGRAMS]
        found = sorted(t for t in found if not any(t.startswith(o + b"/") for o in found))
        if self.is_tree or self.is_cut or not found:
            return b""
        if len(found) > 1:
            names = ", ".join(os.fsdecode(top) + "/" for top in found[:5])
            raise ImageError(
                f"it has several root file systems ({names}): unpack it and import the directory "
                "of one"
            )
        return found[0]

    def refuse_parts(self) -> None:
        """Refuse an archive that is only a part of an image.

        Raises:
            ImageError: it is one.
        """
        if self.is_tree or self.is_cut:
            return
        names = {name.rpartition("/")[2] for name in self.files}
        if any(_LEGACY.fullmatch(name) for name in self.files):
            raise ImageError(
                "it has layers of Docker and no manifest.json, as Docker before 1.10 wrote: "
                "`docker load` it, and `docker save` it again"
            )
        if "metadata.yaml" not in names:
            return
        if "rootfs.img" in names:
            raise ImageError(
                "it is an image of LXD or Incus for virtual machines: take the one for containers"
            )
        raise ImageError(
            "it is one half of an image of LXD or Incus, which has its metadata alone: import the "
            "other half, which has the root file system (rootfs.squashfs, or the larger file)"
        )


def look_into(source: Source) -> Contents:
    """Read an archive until its form is known.

    The first members show a root file system; other archives are read to their end.
    """
    found = Contents()
    try:
        for member in source.members():
            parts = [part for part in member.path.split(b"/") if part not in (b"", b".")]
            if not parts:
                continue
            if parts[0] in _SURE:
                found.is_tree = True
                break
            for depth in range(1, min(len(parts), _DEEPEST + 1)):
                if parts[depth] in _SURE:
                    found.tops.setdefault(b"/".join(parts[:depth]), set()).add(parts[depth])
                    break
            name = os.fsdecode(b"/".join(parts))
            if member.kind == FILE:
                found.files[name] = (source.done, member.size)
            elif member.kind in LINKS:
                found.links[name] = os.fsdecode(member.target)
    except ImageError:
        found.is_cut = True  # the later, complete read raises the error
    return found


def top_of(names: Iterable[str], children: dict[str, set[str]]) -> str:
    """Return the name of the subdirectory with the root file system; empty for the directory.

    Args:
        names: the names in the directory.
        children: for each of its subdirectories, the names in it.

    Raises:
        ImageError: several subdirectories have one.
    """
    found = Contents(is_tree=any(os.fsencode(name) in _SURE for name in names))
    found.tops = {
        os.fsencode(name): {os.fsencode(child) for child in inner}
        for name, inner in children.items()
    }
    return os.fsdecode(found.top())
