"""Debian releases that the sandbox's machines may have, and what their OAR asks of the host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oar_lxc.setup.requirements import CGROUPS


@dataclass(frozen=True)
class Suite:
    """A Debian release of the machines.

    Attributes:
        debian: its name for people.
        oar: the version of its OAR.
        cgroups: the version of the cgroups in which that OAR confines jobs to their CPUs.
    """

    debian: str
    oar: str
    cgroups: int


DEFAULT = "bookworm"
SUITES = {
    DEFAULT: Suite("Debian 12", "2.5", cgroups=1),
    "trixie": Suite("Debian 13", "2.6", cgroups=2),
}


def cgroup_version(cgroups: Path = CGROUPS) -> int:
    """Return the version of this host's cgroups: 2 if they are all in one hierarchy, else 1."""
    return 2 if (cgroups / "cgroup.controllers").exists() else 1


def default(version: int) -> str:
    """Return the release whose OAR confines jobs to their CPUs on a host.

    Args:
        version: the version of the host's cgroups.
    """
    return next(name for name, suite in SUITES.items() if suite.cgroups == version)


def why(name: str) -> str:
    """Return why a release is the default, a sentence; empty if it is that of most hosts."""
    if name == DEFAULT:
        return ""
    suite = SUITES[name]
    return (
        f"suite {name}: this host has cgroup version {suite.cgroups} alone, in which OAR "
        f"{suite.oar} of {suite.debian} confines jobs to their CPUs"
    )


def has_cpuset(name: str, version: int) -> bool:
    """Return whether OAR confines jobs to their CPUs if nothing else is asked for.

    Args:
        name: the release.
        version: the version of the host's cgroups.
    """
    return name == DEFAULT or SUITES[name].cgroups == version


def problem(name: str, cpuset: bool, version: int) -> str:
    """Return why machines of a release cannot work on a host, a sentence; empty if they can.

    Args:
        name: the release.
        cpuset: whether OAR shall confine jobs to their CPUs.
        version: the version of the host's cgroups.
    """
    suite = SUITES[name]
    if version != suite.cgroups and cpuset:
        others = [f"--suite {other}" for other in SUITES if SUITES[other].cgroups == version]
        return (
            f"OAR {suite.oar} of {suite.debian} confines jobs to their CPUs in cgroups of version "
            f"{suite.cgroups} alone, and this host has version {version}: ask for "
            f"{' or '.join(['--no-cpuset', *others])}"
        )
    return ""
