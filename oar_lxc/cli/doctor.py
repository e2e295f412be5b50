"""``oar-lxc doctor``: tell what is not as it should be on a machine, or on all of the cluster."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

import click

from oar_lxc.cli.shared.meter import Meter
from oar_lxc.doctor.examine import examine
from oar_lxc.doctor.findings import Finding, Outcome, Role
from oar_lxc.doctor.machine import this_machine
from oar_lxc.doctor.nodes import cluster_nodes, everywhere
from oar_lxc.doctor.report import Report, status_of
from oar_lxc.doctor.table import NAMES, chosen
from oar_lxc.errors import UsageError, printable
from oar_lxc.linux.run import SYSTEM_PATH
from oar_lxc.model.layout import check_node

_COLOURS = {
    Outcome.PROBLEM: "red",
    Outcome.WARNING: "yellow",
    Outcome.UNKNOWN: "cyan",
    Outcome.WELL: "green",
}


@click.command()
@click.option("--everywhere", "on_all", is_flag=True, help="On all nodes, too; for the server.")
@click.option("--all", "show_all", is_flag=True, help="Show what is well, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--check",
    "only",
    metavar="NAME",
    multiple=True,
    shell_complete=lambda ctx, param, begun: [name for name in NAMES if name.startswith(begun)],
    help="Only this check, such as ssh. May be given more than once.",
)
@click.option("--peers", hidden=True, default="", help="The cluster's nodes, from the server.")
def doctor(on_all: bool, show_all: bool, as_json: bool, only: tuple[str, ...], peers: str) -> None:
    """Tell what is not as it should be on this machine, what it means, and what mends it.

    Run it on a server, a frontend or a node, as root; any other user sees less, and is told what
    could not be looked at. With --everywhere, on the server, each node looks at itself, too, and
    the nodes are compared. Nothing is changed.

    The exit status is 0 where all is well or there are only warnings, 1 where there is a problem,
    and 3 where there is none, but something could not be looked at.

    \b
    Examples:
      oar-lxc doctor
      oar-lxc doctor --everywhere    on the OAR server
      oar-lxc doctor --check disk --check lxcfs
      oar-lxc doctor --json
    """
    _add_system_path()
    checks = chosen(only)
    names = tuple(check_node(name) for name in peers.split(",") if name)
    machine = this_machine(names)
    if machine.role is Role.SERVER:
        machine = this_machine(cluster_nodes())
    if on_all and machine.role is not Role.SERVER:
        raise UsageError(
            f"--everywhere is for the OAR server, and this machine is a {machine.role.value}: "
            "leave it out, or run it there"
        )
    done: list[str] = []
    with Meter("looking") as meter:
        meter.follow(lambda: "\n".join(done))
        reports = [examine(machine, done.append, checks)]
        if on_all:
            done.append(f"asking {len(machine.peers)} nodes")
            reports += everywhere(machine, only, lambda node: done.append(f"{node} has answered"))
    if as_json:
        click.echo(json.dumps({"machines": [report.to_data() for report in reports]}, indent=1))
    else:
        _show(reports, show_all)
        if not on_all and not only and machine.role is not Role.FRONTEND:
            click.echo(
                "not looked at: nodes' clocks, and the network between nodes: "
                "`oar-lxc doctor --everywhere` on the server does"
            )
    sys.exit(status_of(reports))


def _add_system_path() -> None:
    """Find the system's programs, which a user's path and that of ssh may lack."""
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}".lstrip(":")


def _show(reports: Sequence[Report], show_all: bool) -> None:
    for report in reports:
        order = list(Outcome)
        found = sorted(report.findings, key=lambda one: order.index(one.outcome))
        shown = [one for one in found if show_all or one.outcome is not Outcome.WELL]
        for _, alike in groupby(shown, key=lambda one: (one.outcome, one.meaning, one.mend)):
            _show_alike(report.machine, list(alike))
        counts = Counter(finding.outcome for finding in found)
        words = [f"{counts[one]} {one.value}" for one in order if counts[one]]
        name = f"{report.machine} ({report.role})" if report.role else report.machine
        click.echo(f"{printable(name)}: {', '.join(words) or 'nothing was looked at'}")


def _show_alike(machine: str, findings: Sequence[Finding]) -> None:
    """Show findings that mean the same and are mended by the same command."""
    first = findings[0]
    word = click.style(f"{first.outcome.value:>8}", fg=_COLOURS[first.outcome])
    for finding in findings:
        click.echo(f"{word}  {printable(f'{machine}: {finding.check}: {finding.said}')}")
    for line in (first.meaning, first.mend):
        if line:
            click.echo(f"{'':10}{printable(line)}")
