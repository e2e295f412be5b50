"""``oar-lxc setup``: configure a Debian machine as OAR server, frontend or node with LXC."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from oar_lxc.cli.shared.meter import Meter
from oar_lxc.errors import UsageError
from oar_lxc.image.recipes import RECIPES
from oar_lxc.model.layout import check_node
from oar_lxc.setup import (
    bundle,
    frontend,
    node,
    oarconf,
    requirements,
    resources,
    server,
)
from oar_lxc.setup.steps import SetupError, SetupPlan, Step, StepOutcome, StepResult, execute

_MARKS = {
    StepOutcome.TRUE: ("ok", "green"),
    StepOutcome.CHANGED: ("changed", "yellow"),
    StepOutcome.WOULD_CHANGE: ("would change", "yellow"),
    StepOutcome.LATER: ("later", "cyan"),
    StepOutcome.PROBLEM: ("problem", "red"),
}

Decorator = Callable[[Callable[..., None]], Callable[..., None]]

dry_run_option = click.option("--dry-run", is_flag=True, help="Show the changes, make none.")
settings_option = click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set another key of oar.conf. May be given more than once.",
)
bundle_option = click.option(
    "--bundle",
    "bundle_path",
    type=click.Path(path_type=Path, dir_okay=False, readable=False),
    default=bundle.BUNDLE,
    show_default=True,
    help="The bundle that `setup server` made.",
)


@click.group()
def setup() -> None:
    """Configure a Debian machine as OAR server, frontend or node with LXC.

    Every command can be run again: it changes only what is not yet as it should be. Before a file
    is changed for the first time, it is saved as FILE.oar-lxc.bak. With --dry-run, nothing is
    changed.

    \b
    Set up the server first, then copy its bundle to the other machines.
      server#    oar-lxc setup server --network 10.0.0.0/24 --node node1=16 --node node2=16
      frontend#  oar-lxc setup frontend --bundle bundle.tar
      node1#     oar-lxc setup node --bundle bundle.tar --image debian-12
      server#    oar-lxc doctor --everywhere
    """


@setup.command("server")
@click.option("--node", "nodes", metavar="NAME=CORES", multiple=True, help="A node and its cores.")
@click.option(
    "--network",
    "networks",
    metavar="CIDR",
    multiple=True,
    help="Where frontends are: they may reach the database, with its password.",
)
@click.option("--hostname", default="", help="The name that the other machines reach this one by.")
@click.option("--no-cpuset", is_flag=True, help="Turn OAR's cpuset off: jobs share all CPUs.")
@click.option(
    "--no-stanza",
    is_flag=True,
    help="Leave the site's job resource manager alone; prologue and epilogue do the work.",
)
@settings_option
@click.option(
    "--bundle",
    "bundle_path",
    type=click.Path(path_type=Path, dir_okay=False, readable=False),
    default=bundle.BUNDLE,
    show_default=True,
    help="Where to write what the other machines need.",
)
@dry_run_option
def server_command(
    nodes: tuple[str, ...],
    networks: tuple[str, ...],
    hostname: str,
    no_cpuset: bool,
    no_stanza: bool,
    settings: tuple[str, ...],
    bundle_path: Path,
    dry_run: bool,
) -> None:
    """Configure this machine as the OAR server, with PostgreSQL.

    \b
    Examples:
      oar-lxc setup server --network 10.0.0.0/24 --node node1=16 --node node2=16 --dry-run
      oar-lxc setup server --no-stanza --set LOG_LEVEL=3
    """
    requirements.require_root()
    options = server.Options(
        nodes=[resources.Node.parse(text) for text in nodes],
        networks=[_network(text) for text in networks],
        hostname=hostname and check_node(hostname),
        cpuset=not no_cpuset,
        stanza=not no_stanza,
        settings=oarconf.parse_settings(settings),
        bundle=bundle_path,
    )
    _carry_out(server.make_plan(options), dry_run)


@setup.command("frontend")
@bundle_option
@settings_option
@dry_run_option
def frontend_command(bundle_path: Path, settings: tuple[str, ...], dry_run: bool) -> None:
    """Configure this machine as a frontend, from which users submit jobs.

    \b
    Example:
      oar-lxc setup frontend --bundle bundle.tar
    """
    requirements.require_root()
    _carry_out(frontend.make_plan(bundle_path, oarconf.parse_settings(settings)), dry_run)


@setup.command("node")
@bundle_option
@click.option(
    "--prepare-by",
    type=click.Choice(["stanza", "prologue"]),
    help="Who prepares nodes for jobs; without it, as the bundle says.",
)
@click.option(
    "--image",
    "images",
    type=click.Choice(sorted(RECIPES)),
    multiple=True,
    help="Build this image.",
)
@settings_option
@dry_run_option
def node_command(
    bundle_path: Path,
    prepare_by: str | None,
    images: tuple[str, ...],
    settings: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Configure this machine as a node that runs jobs with containers.

    \b
    Example:
      oar-lxc setup node --bundle bundle.tar --image debian-12
    """
    requirements.require_root()
    options = node.Options(bundle_path, oarconf.parse_settings(settings), prepare_by or "", images)
    _carry_out(node.make_plan(options), dry_run)


def _network(text: str) -> Any:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise UsageError(f"--network {text}: {error}") from None


def _carry_out(plan: SetupPlan, dry_run: bool) -> None:
    start = time.monotonic()
    events = execute(plan, _tell, _during, dry_run)
    for note in plan.notes:
        click.echo(f"note: {note}")
    problems = sum(event.outcome is StepOutcome.PROBLEM for event in events)
    changes = sum(
        event.outcome in (StepOutcome.CHANGED, StepOutcome.WOULD_CHANGE) for event in events
    )
    later = sum(event.outcome is StepOutcome.LATER for event in events)
    if problems:
        raise SetupError(f"left to you: {problems} of {len(events)} steps")
    if not changes and not later:
        click.echo(f"{plan.role}: nothing to do ({len(events)} steps checked)")
    elif dry_run:
        click.echo(f"{plan.role}: would change {changes} steps, and {later} that depend on them")
    else:
        took = time.monotonic() - start
        click.echo(f"{plan.role}: {changes} of {len(events)} steps changed, {took:.1f} s")


def _during(step: Step) -> Meter:
    """Tell that a step is applied, and where that lasts, for how long."""
    click.echo(f"  … {step.title}", err=True)
    return Meter(f"  … {step.title}")


def _tell(event: StepResult) -> None:
    word, colour = _MARKS[event.outcome]
    click.echo(f"{click.style(f'{word:>12}', fg=colour)}  {event.step.title}")
    if event.outcome in (StepOutcome.WOULD_CHANGE, StepOutcome.LATER, StepOutcome.PROBLEM):
        for line in event.detail.splitlines():
            click.echo(f"{'':14}{line}")
