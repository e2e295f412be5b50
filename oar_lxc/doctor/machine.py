"""What this machine is in its cluster, and how it was set up."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from oar_lxc.doctor.findings import Machine, Role
from oar_lxc.errors import UsageError
from oar_lxc.setup import packages, services, stanza, units
from oar_lxc.setup.bundle import BUNDLE, Bundle
from oar_lxc.setup.oarconf import OarConf, read
from oar_lxc.setup.steps import SetupError

# What tells a role: a package of OAR, or a unit of ours, where the package was removed.
SIGNS = (
    (Role.SERVER, "oar-server", services.UNITS / f"{units.SERVER}.timer"),
    (Role.NODE, "oar-node", services.UNITS / f"{units.NODE}.timer"),
    (Role.FRONTEND, "oar-user", None),
)


def this_machine(peers: tuple[str, ...] = ()) -> Machine:
    """Return this machine.

    Args:
        peers: the names of the cluster's nodes, where they are known.

    Raises:
        UsageError: it has no part in a cluster.
    """
    role = role_here()
    try:
        conf = read()
    except PermissionError:
        conf = None
    cpuset, uses_stanza = chosen(conf or OarConf(""), BUNDLE if role is Role.SERVER else None)
    return Machine(role, os.geteuid() == 0, conf, cpuset, uses_stanza, peers)


def role_here() -> Role:
    """Return what this machine is; a server is nothing else.

    Raises:
        UsageError: it has no part in a cluster.
    """
    for role, package, unit in SIGNS:
        if not packages.missing([package]) or (unit is not None and unit.exists()):
            return role
    raise UsageError(
        "this machine is no server, frontend or node of OAR: make it one with `oar-lxc setup`, or "
        "run `oar-lxc doctor` on one"
    )


def chosen(conf: OarConf, bundle: Path | None) -> tuple[bool, bool]:
    """Return whether this machine was set up with OAR's cpuset, and with the stanza.

    Args:
        conf: its ``oar.conf``, which is taken to be right where there is no bundle.
        bundle: the server's bundle; None on other machines.
    """
    with suppress(SetupError):
        if bundle is not None:
            made = Bundle.read(bundle)
            return bool(made.cpuset_path), made.prepare == "stanza"
    return conf.get("CPUSET_PATH") is not None, conf.get(stanza.KEY) == str(stanza.COMBINED)
