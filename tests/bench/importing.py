"""Importing an image, beside tar."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from oar_lxc import image
from oar_lxc.run import run
from tests.bench.figures import Figure
from tests.bench.timing import Spread
from tests.pretend import PYTHON, SOURCE


def measure(rounds: int, *, short: bool = False) -> list[Figure]:
    """Measure the import of an archive and its unpacking by tar, in turn."""
    name = "busybox" if short else "debian-12"
    rootfs = image.find_image(name)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory(prefix="oar-lxc-bench-", dir="/var/lib") as place:
        archive = Path(place) / "image.tar"
        run(
            [
                "tar",
                "-C",
                str(rootfs),
                "--numeric-owner",
                "--xattrs",
                "--exclude=./dev/*",
                "-cf",
                str(archive),
                ".",
            ]
        )
        size = archive.stat().st_size / 1e6
        store, plain = Path(place) / "store", Path(place) / "plain"
        run(["sync", "-f", place])
        command = [PYTHON, "-m", "oar_lxc.cli.main", "image", "import", "--store", str(store)]
        for _ in range(rounds):
            theirs.append(_timed(lambda: _untar(archive, plain)))
            ours.append(
                _timed(
                    lambda: run([*command, "bench", str(archive)], cwd=str(SOURCE), timeout=600)
                )
            )
            run(["rm", "-rf", str(store), str(plain)])
            run(["sync", "-f", place])
    return [
        Figure(
            "import",
            f"import of {size:.0f} MB",
            "s",
            Spread(tuple(ours)),
            "tar -x",
            Spread(tuple(theirs)),
            "ratio >= 0.87",
        )
    ]


def _untar(archive: Path, into: Path) -> None:
    into.mkdir()
    unpack = ["tar", "-xp", "--numeric-owner", "--xattrs", "-C", str(into), "-f", str(archive)]
    run(unpack, timeout=600)
    run(["sync", "-f", str(into)], timeout=600)  # as an import, which must outlive a power cut


def _timed(act: Callable[[], object]) -> float:
    begin = time.monotonic()
    act()
    return time.monotonic() - begin
