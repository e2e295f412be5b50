"""Build Linux as an ordinary program: a kernel of its own, without a processor of its own.

It needs neither /dev/kvm nor emulation, and what runs in it computes as fast as outside. The
source is a package of Debian's unstable release: since Linux 6.19, such a kernel has several
processors, and with them the cpuset controller. Debian's ready one, user-mode-linux, has one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.run import run
from oar_lxc.sandbox.images import Cache, digest
from oar_lxc.sandbox.report import Report

RELEASE = "sid"
CONFIG = Path(__file__).with_name("kernel.config")
LIMIT = 5400  # seconds for the compiler; some 700 on two processors that do nothing else
_SOURCE = "linux-source-"


@dataclass(frozen=True)
class Kernel:
    """A kernel that is an ordinary program.

    Attributes:
        program: the program; the name of its directory tells how it was made.
    """

    program: Path


def kernel(report: Report, sources: Sequence[str]) -> Kernel:
    """Return the kernel; build it if it is not there.

    Args:
        report: is told what is done.
        sources: the lines of ``sources.list`` for a Debian release, from whose mirror it comes.
    """

    def make(half: Path) -> None:
        tree = _unpacked(half / "apt", unstable(sources))
        shutil.copyfile(CONFIG, tree / "fragment")
        argv = ["make", "--silent", "ARCH=um", f"-j{len(os.sched_getaffinity(0))}"]
        run([*argv, "defconfig"], cwd=str(tree), timeout=600)
        run(["scripts/kconfig/merge_config.sh", "-m", ".config", "fragment"], cwd=str(tree))
        run([*argv, "olddefconfig"], cwd=str(tree), timeout=600)
        if lost := lacking(CONFIG.read_text(), (tree / ".config").read_text()):
            raise OarLxcError(f"{CONFIG}: this Linux does not take {', '.join(lost)}")
        run(argv, cwd=str(tree), timeout=LIMIT)
        (tree / "linux").rename(half / "linux")
        shutil.rmtree(half / "apt")

    key = digest("vm-kernel", RELEASE, CONFIG.read_text())
    what = "a user-mode kernel"
    return Kernel(Cache(report).entry("vm-kernel", key, what, make) / "linux")


def unstable(lines: Sequence[str]) -> str:
    """Return the line of ``sources.list`` for the unstable release, at the mirror of another's.

    Args:
        lines: the lines of a release; the first is the release itself.
    """
    *start, _, component = lines[0].split()
    return " ".join((*start, RELEASE, component))


def newest(names: Sequence[str]) -> str:
    """Return the source package of the newest Linux among names of packages.

    Raises:
        OarLxcError: there is none.
    """
    versions = [name.removeprefix(_SOURCE) for name in names if name.startswith(_SOURCE)]
    numbers = [v for v in versions if all(part.isdigit() for part in v.split("."))]
    if not numbers:
        raise OarLxcError(f"Debian's release {RELEASE} has no package {_SOURCE}VERSION")
    return _SOURCE + max(numbers, key=lambda text: [int(part) for part in text.split(".")])


def lacking(wanted: str, configured: str) -> list[str]:
    """Return the lines of a configuration that are asked for and not in what was made of it."""
    lines = set(configured.splitlines())
    return [line for line in wanted.splitlines() if line.endswith("=y") and line not in lines]


def _unpacked(apt: Path, source: str) -> Path:
    """Fetch and unpack the source, by an apt with a state of its own; return its directory."""
    for name in ("lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"{source}\n")
    settings = {
        "Dir::Etc::SourceList": apt / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": apt / "lists",
        "Dir::State::Status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Acquire::Languages": "none",
        "APT::Update::Error-Mode": "any",
        "APT::Sandbox::User": "root",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    run(["apt-get", *options, "-qq", "update"], timeout=600)
    found = run(["apt-cache", *options, "pkgnames", _SOURCE]).stdout.split()
    package = newest(found)
    run(["apt-get", *options, "-qq", "download", package], cwd=str(apt), timeout=1200)
    (deb,) = apt.glob("*.deb")
    run(["dpkg-deb", "--extract", str(deb), str(apt)], timeout=300)
    deb.unlink()
    (archive,) = apt.glob("usr/src/*.tar.xz")
    run(["tar", "-xf", str(archive), "-C", str(apt)], timeout=600)
    archive.unlink()
    return apt / package
