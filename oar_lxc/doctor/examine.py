"""Look at this machine with all checks that it has."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from oar_lxc import __version__
from oar_lxc.doctor import network
from oar_lxc.doctor.findings import AS_ROOT, Check, Finding, Machine, Role, unknown
from oar_lxc.doctor.report import Facts, Report
from oar_lxc.doctor.table import CHECKS
from oar_lxc.errors import ConfigError, ImageError, OarLxcError
from oar_lxc.image.store import Store
from oar_lxc.linux.error_exit import sentence
from oar_lxc.model.config import read_config
from oar_lxc.model.idspans import format_spans
from oar_lxc.setup.steps import NotYetError


def examine(
    machine: Machine, tell: Callable[[str], object], checks: Iterable[Check] = CHECKS
) -> Report:
    """Look at this machine; nothing is changed.

    Args:
        machine: this machine.
        tell: called with the name of each check before it looks.
        checks: the checks.
    """
    found: list[Finding] = []
    for check in checks:
        if machine.role in check.roles and (machine.peers or not check.needs_peers):
            tell(check.name)
            found += results_of(check, machine)
    return Report(socket.gethostname(), machine.role.value, tuple(found), facts_of(machine))


def results_of(check: Check, machine: Machine) -> Iterator[Finding]:
    """Yield what a check finds, with its name; where it cannot look, that.

    A check that fails or finds nothing never counts as well.
    """
    looked = False
    again = "oar-lxc -v doctor" if machine.root else AS_ROOT
    try:
        for finding in check.look(machine):
            looked = True
            yield finding if finding.check else replace(finding, check=check.name)
    except (NotYetError, OarLxcError, OSError) as error:
        yield replace(unknown(" ".join(sentence(error).split()), again), check=check.name)
        return
    if not looked:
        yield replace(unknown("nothing was looked at", again), check=check.name)


def facts_of(machine: Machine) -> Facts:
    """Return what the server compares between nodes."""
    facts = Facts(version=__version__, time=time.time(), cpuset=machine.cpuset)
    if machine.role is Role.FRONTEND:
        return facts
    facts = replace(
        facts,
        addresses=tuple(network.own_addresses()),
        names={name: network.resolve(name) for name in machine.peers},
    )
    try:
        config = read_config()
    except ConfigError:  # a check of its own
        return facts
    users = format_spans(config.users)
    facts = replace(facts, prepare=config.prepare, pool=str(config.pool), users=users)
    try:
        store = Store(config.store)
        return replace(facts, images={str(n): store.record(n).digest for n in store.names()})
    except (ImageError, OSError):  # only root sees them; a check of its own
        return facts
