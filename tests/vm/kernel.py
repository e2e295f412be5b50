"""Get Linux as an ordinary program: a kernel of its own, without a processor of its own.

It needs neither /dev/kvm nor emulation, and what runs in it computes as fast as outside. It is the
package of Debian's unstable release. That one may want a newer libc than this machine has, and
gets it as a file beside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.run import run
from oar_lxc.sandbox.images import Cache, digest
from oar_lxc.sandbox.report import Report

RELEASE = "sid"
PACKAGES = ("user-mode-linux", "libc6")
LOADER = "ld.so"  # in the program's working directory
_DEBIANS_LOADER = "/lib64/ld-linux-x86-64.so.2"


@dataclass(frozen=True)
class Kernel:
    """A kernel that is an ordinary program.

    Attributes:
        directory: has the program, and is its working directory; its name tells its version.
    """

    directory: Path

    @property
    def modules(self) -> Path:
        """The directory of its modules, with one for its version."""
        return self.directory / "modules"

    def command(self, *parameters: str) -> list[str]:
        """Return what boots it; it is run in :attr:`directory`."""
        program = str(self.directory / "linux")
        return ["env", f"LD_LIBRARY_PATH={self.directory}", program, *parameters]


def kernel(report: Report, sources: Sequence[str]) -> Kernel:
    """Return the kernel; fetch it if it is not there.

    Args:
        report: is told what is done.
        sources: the lines of ``sources.list`` for a Debian release, from whose mirror it comes.
    """

    def make(half: Path) -> None:
        _fetch(half, unstable(sources))
        found = half / "usr"
        program = (found / "bin/linux.uml").read_bytes()
        (half / "linux").write_bytes(with_loader(program))
        (half / "linux").chmod(0o755)
        libraries = found / "lib/x86_64-linux-gnu"
        shutil.copyfile(libraries / "libc.so.6", half / "libc.so.6")
        shutil.copyfile(libraries / Path(_DEBIANS_LOADER).name, half / LOADER)
        (half / LOADER).chmod(0o755)
        (found / "lib/uml/modules").rename(half / "modules")
        for name in ("apt", "etc", "lib", "lib64", "usr"):
            shutil.rmtree(half / name, ignore_errors=True)

    key = digest("vm-kernel", *PACKAGES)
    return Kernel(Cache(report).entry("vm-kernel", key, "a user-mode kernel", make))


def unstable(lines: Sequence[str]) -> str:
    """Return the line of ``sources.list`` for the unstable release, at the mirror of another's.

    Args:
        lines: the lines of a release; the first is the release itself.
    """
    *start, _, component = lines[0].split()
    return " ".join((*start, RELEASE, component))


def with_loader(program: bytes) -> bytes:
    """Return a program that is loaded by :data:`LOADER` of its working directory.

    Raises:
        OarLxcError: it is not loaded by what Debian's programs are.
    """
    before = _DEBIANS_LOADER.encode() + b"\0"
    if program.count(before) != 1:
        raise OarLxcError(f"Debian's user-mode kernel is not loaded by {_DEBIANS_LOADER}")
    return program.replace(before, LOADER.encode().ljust(len(before), b"\0"))


def _fetch(half: Path, source: str) -> None:
    """Unpack the packages in a directory, by an apt with a state of its own."""
    apt = half / "apt"
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
    run(["apt-get", *options, "-qq", "download", *PACKAGES], cwd=str(apt), timeout=600)
    for deb in sorted(apt.glob("*.deb")):
        run(["dpkg-deb", "--extract", str(deb), str(half)], timeout=300)
