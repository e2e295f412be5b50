"""Importing an image, beside tar."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from oar_lxc.linux.run import run
from tests.bench.figures import Figure
from tests.bench.stock import rootfs_of
from tests.bench.timing import Spread
from tests.pretend import PYTHON, checkout


def measure(rounds: int, *, short: bool = False) -> list[Figure]:
    """Measure the import of an archive and its unpacking by tar, each first in turn.

    Nothing is removed between: ext4 looks at each inode that was freed in the last seconds before
    it takes another, so that whoever came after a removal would pay for it, up to thrice the time.
    """
    rootfs = rootfs_of("busybox" if short else "debian-12")
    times: dict[str, list[float]] = {"import": [], "tar": []}
    with tempfile.TemporaryDirectory(prefix="oar-lxc-bench-", dir="/var/lib") as name:
        place = Path(name)
        archive = place / "image.tar"
        pack = ["tar", "-C", str(rootfs), "--numeric-owner", "--xattrs", "--exclude=./dev/*"]
        run([*pack, "-cf", str(archive), "."])
        size = archive.stat().st_size / 1e6
        ways = {"import": _import, "tar": _untar}
        checkout()  # is made once, and takes longer than an import
        for number in range(rounds):
            for way in sorted(ways, reverse=number % 2 == 1):
                run(["sync", "-f", name])
                begin = time.monotonic()
                ways[way](archive, place / f"{way}{number}")
                times[way].append(time.monotonic() - begin)
    return [
        Figure(
            "import",
            f"import of {size:.0f} MB",
            "s",
            Spread(tuple(times["import"])),
            "tar -x; sync",
            Spread(tuple(times["tar"])),
            "ratio >= 0.87",
        )
    ]


def _import(archive: Path, store: Path) -> None:
    command = [PYTHON, "-m", "oar_lxc.cli.main", "image", "import", "--store", str(store)]
    run([*command, "bench", str(archive)], cwd=str(checkout()), timeout=600)


def _untar(archive: Path, into: Path) -> None:
    into.mkdir()
    unpack = ["tar", "-xp", "--numeric-owner", "--xattrs", "-C", str(into), "-f", str(archive)]
    run(unpack, timeout=600)
    run(["sync", "-f", str(into)], timeout=600)  # as an import, which must outlive a power cut
