"""Debian packages of each role, and the step that installs them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from oar_lxc.linux.run import run
from oar_lxc.setup.oar_version import installed_version
from oar_lxc.setup.steps import NotYetError, Step

SERVER = (
    "postgresql",
    "oar-server",
    "oar-server-pgsql",
    "oar-user",
    "oar-user-pgsql",
    "taktuk",
    "openssh-client",
    "zstd",
)
FRONTEND = (
    "oar-user",
    "oar-user-pgsql",
    "openssh-client",
    "xauth",
    "taktuk",
    "zstd",
    "bash-completion",
)
NODE = (
    "oar-node",
    "openssh-server",
    "openssh-client",
    "taktuk",
    "lxc",
    "lxcfs",
    "python3-lxc",
    "nftables",
    "iproute2",
    "procps",
    "mmdebstrap",
    "zstd",
)
# lxc recommends a DHCP server for its own bridge, and a PAM module that moves logins to cgroups of
# their own. A node, whose cgroups OAR manages, must have neither.
APT_INSTALL = ("apt-get", "install", "-y", "--no-install-recommends")


# Debian's packages of OAR 2, which would take the place of OAR 3, and what OAR 3 needs instead.
_INSTEAD = {
    "oar-server-pgsql": ("libdbd-pg-perl", "libsort-versions-perl", "libterm-ui-perl"),
    "oar-user-pgsql": (),
}


def missing(packages: Sequence[str]) -> list[str]:
    """Return the packages that are not installed here, in the order given."""
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages]
    lines = run(query, check=False).stdout.splitlines()
    installed = {line.split()[0] for line in lines if line.endswith(" installed")}
    return [name for name in packages if name not in installed]


def version_of(package: str) -> str:
    """Return the version that is installed, else that which apt would install; empty if none."""
    listing = run(["apt-cache", "policy", package], env=os.environ | {"LC_ALL": "C"}).stdout
    found = dict(line.strip().partition(": ")[::2] for line in listing.splitlines())
    versions = (found.get(key, "") for key in ("Installed", "Candidate"))
    return next((version for version in versions if version not in ("", "(none)")), "")


def install(packages: Sequence[str]) -> None:
    """Install packages with apt, without questions, and keep changed configuration files.

    Raises:
        CommandError: apt failed.
    """
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "UCF_FORCE_CONFFOLD": "1"}
    argv = [*APT_INSTALL, "-o", "Dpkg::Options::=--force-confold", *packages]
    if run(argv, env=env, timeout=1800, check=False).status != 0:
        # The lists may be old or missing: fetch them and try once more.
        run(["apt-get", "update"], env=env, timeout=600)
        run(argv, env=env, timeout=1800)


def installed(packages: Sequence[str]) -> Step:
    """Make the step that installs packages."""

    def left() -> list[str]:
        return missing(needed(packages))

    def pending() -> str | None:
        return f"apt-get install {' '.join(left())}" if left() else None

    return Step("packages are installed", pending, lambda: install(left()))


def needed(packages: Sequence[str]) -> list[str]:
    """Return a role's packages for the OAR that is installed here."""
    try:
        version = installed_version()
    except NotYetError:
        return list(packages)
    if version.major < 3:
        return list(packages)
    return list(dict.fromkeys(new for name in packages for new in _INSTEAD.get(name, (name,))))
