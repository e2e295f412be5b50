"""Which OAR is installed on this machine, as its Debian packages say."""

from __future__ import annotations

import re
from typing import NamedTuple

from oar_lxc.linux.run import run
from oar_lxc.setup.steps import NotYetError, SetupError

PACKAGE = "oar-common"  # every role has it, in each version of OAR


class OarVersion(NamedTuple):
    """The first two numbers of OAR's version; versions compare as tuples."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def needs_cgroups_v2(self) -> bool:
        """Whether it confines jobs to CPUs by slices of systemd in version 2 of cgroups alone."""
        return self >= (2, 6)

    @property
    def has_python_rules(self) -> bool:
        """Whether its admission rules are Python, and may be files; else Perl in the database."""
        return self >= (3, 0)


def installed_version() -> OarVersion:
    """Return the version of OAR that is installed here.

    Raises:
        NotYetError: OAR is not installed.
        SetupError: it is a version that set-up does not know.
    """
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", PACKAGE]
    status, _, version = run(query, check=False).stdout.partition(" ")
    if status != "installed":
        raise NotYetError("OAR is not installed yet")
    return parse(version)


def parse(version: str) -> OarVersion:
    """Read the version of a Debian package of OAR, such as ``2.5.10~g5k32-1``.

    Raises:
        SetupError: it is a version that set-up does not know.
    """
    match = re.match(r"(?:\d+:)?(\d+)\.(\d+)(?![0-9])", version)
    found = OarVersion(int(match[1]), int(match[2])) if match else None
    if found is None or not (2, 5) <= found < (4, 0):
        raise SetupError(
            f"package {PACKAGE} has version {version}: set-up knows OAR 2.5, 2.6 and 3"
        )
    return found


def require_optional_cpuset() -> None:
    """Refuse to turn OAR's cpuset off where OAR needs it; where there is none yet, all is fine.

    Raises:
        SetupError: the OAR that is installed here does not run without it.
    """
    try:
        version = installed_version()
    except NotYetError:
        return
    if version.major >= 3:
        raise SetupError(
            "OAR 3 does not run without CPUSET_PATH in oar.conf, so its cpuset cannot be off: set "
            "up the server without --no-cpuset, and the other machines with its new bundle"
        )
