"""Importing an image, beside tar."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oar_lxc.errors import CommandError
from oar_lxc.linux.run import run
from tests.bench.figures import Figure
from tests.bench.stock import rootfs_of
from tests.bench.timing import Spread
from tests.pretend import PYTHON, checkout

DISK = 8 << 30  # bytes of the file system, which is a sparse file


def measure(rounds: int, *, short: bool = False) -> list[Figure]:
    """Measure the import of an archive and its unpacking by tar, each first in turn.

    Both write to a file system that is made for this, as where the blocks and inodes of a used one
    are free makes more of a difference than what is measured; nothing where there are no loop
    devices.

    Nothing is removed between: ext4 looks at each inode that was freed in the last seconds before
    it takes another, so that whoever came after a removal would pay for it, up to thrice the time.
    """
    rootfs = rootfs_of("busybox" if short else "debian-12")
    times: dict[str, list[float]] = {"import": [], "tar": []}
    with tempfile.TemporaryDirectory(prefix="oar-lxc-bench-", dir="/var/lib") as name:
        archive = Path(name) / "image.tar"
        pack = ["tar", "-C", str(rootfs), "--numeric-owner", "--xattrs", "--exclude=./dev/*"]
        run([*pack, "-cf", str(archive), "."])
        size = archive.stat().st_size / 1e6
        ways = {"import": _import, "tar": _untar}
        checkout()  # is made once, and takes longer than an import
        try:
            with _fresh_disk(Path(name)) as place:
                for number in range(rounds):
                    for way in sorted(ways, reverse=number % 2 == 1):
                        run(["sync", "-f", str(place)])
                        begin = time.monotonic()
                        ways[way](archive, place / f"{way}{number}")
                        times[way].append(time.monotonic() - begin)
        except _NoLoopError as error:
            print(f"import: not measured, for {error}", file=sys.stderr)
            return []
    return [
        Figure(
            "import",
            f"import of {size:.0f} MB",
            "s",
            Spread(tuple(times["import"])),
            "tar -x; sync",
            Spread(tuple(times["tar"])),
            "ratio >= 0.9",
        )
    ]


class _NoLoopError(Exception):
    """This machine cannot mount a file as a file system."""


@contextmanager
def _fresh_disk(place: Path) -> Iterator[Path]:
    """Mount a new ext4 during the block; all its tables are written before.

    Raises:
        _NoLoopError: there is no loop device.
    """
    image, mounted = place / "disk", place / "mounted"
    mounted.mkdir()
    with image.open("xb") as file:
        file.truncate(DISK)
    run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)])
    try:
        run(["mount", "-o", "loop", str(image), str(mounted)])
    except CommandError as error:
        raise _NoLoopError(f"this machine has no loop device: {error.stderr.strip()}") from error
    try:
        yield mounted
    finally:
        run(["umount", str(mounted)])


def _import(archive: Path, store: Path) -> None:
    command = [PYTHON, "-m", "oar_lxc.cli.main", "image", "import", "--store", str(store)]
    run([*command, "bench", str(archive)], cwd=str(checkout()), timeout=600)


def _untar(archive: Path, into: Path) -> None:
    into.mkdir()
    unpack = ["tar", "-xp", "--numeric-owner", "--xattrs", "-C", str(into), "-f", str(archive)]
    run(unpack, timeout=600)
    run(["sync", "-f", str(into)], timeout=600)  # as an import, which must outlive a power cut
