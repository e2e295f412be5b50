"""``oar-lxc sandbox``: a real OAR cluster in containers on this machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import click

from oar_lxc.cli.shared.meter import Meter
from oar_lxc.cli.shared.table import print_table
from oar_lxc.errors import UsageError
from oar_lxc.sandbox.cluster import Sandbox
from oar_lxc.sandbox.machine import Machine
from oar_lxc.sandbox.state import COMMAND, Settings, recommended
from oar_lxc.sandbox.suites import SUITES, why

user_option = click.option(
    "--user", default="root", show_default=True, help="Who runs it: root, alice, bob, oar …"
)
suite_option = click.option(
    "--suite",
    type=click.Choice(list(SUITES)),
    help="Debian of the machines.  [default: what fits the host]",
)


@click.group()
def sandbox() -> None:
    """A real OAR cluster on this machine: server, frontend and nodes in containers.

    \b
    Examples:
      oar-lxc sandbox up
      oar-lxc sandbox exec --user alice frontend -- oarsub -l nodes=2 hostname
      oar-lxc sandbox shell --user alice frontend
      oar-lxc sandbox down
    """


@sandbox.command()
@suite_option
@click.option("--nodes", type=int, help="Number of nodes.  [default: 2]")
@click.option("--cores", type=int, help="Cores per node.  [default: 2]")
@click.option(
    "--cpuset/--no-cpuset", default=None, help="OAR's cpuset.  [default: on where it can work]"
)
@click.option("--no-stanza", is_flag=True, help="With prologue and epilogue alone.")
def up(
    suite: str | None, nodes: int | None, cores: int | None, cpuset: bool | None, no_stanza: bool
) -> None:
    """Bring the cluster up, or up to date with the checkout; a second run is quick.

    On a host with cgroup version 2 alone, its machines are of suite trixie, else of bookworm: OAR
    2.6 of trixie has its cpuset in version 2 alone, and OAR 2.5 of bookworm in version 1. With
    --suite trixie on another host, the cpuset is off.

    \b
    Examples:
      oar-lxc sandbox up
      oar-lxc sandbox up --nodes 3 --cores 1
      oar-lxc sandbox up --no-cpuset
      oar-lxc sandbox up --suite trixie
    """
    with _told("bringing the cluster up") as cluster:
        wanted = _wanted(cluster, suite)
        cluster.up(
            replace(
                wanted,
                nodes=wanted.nodes if nodes is None else nodes,
                cores=wanted.cores if cores is None else cores,
                cpuset=wanted.cpuset if cpuset is None else cpuset,
                stanza=not no_stanza,
            )
        )
    cluster.report.line("the cluster is up. Try:")
    program = _program()
    click.echo(f"    {program} sandbox exec --user alice frontend -- oarsub -l nodes=2 hostname")
    click.echo(f"    {program} sandbox shell --user alice frontend")


@sandbox.command()
@suite_option
def demo(suite: str | None) -> None:
    """Show a job with containers: submit it, watch it, connect, kill it, check what is left.

    Brings the cluster up first, in the recommended set-up, and leaves it up.

    \b
    Examples:
      oar-lxc sandbox demo
      oar-lxc sandbox demo --suite trixie
    """
    from oar_lxc.sandbox.demo import Demo, next_steps

    with _told("bringing the cluster up") as cluster:
        wanted = _wanted(cluster, suite)
        cluster.up(replace(wanted, nodes=max(2, wanted.nodes)))
    Demo(cluster, click.echo, print_table).run()
    click.echo("the cluster is up. What you may want to type next:")
    for line in next_steps():
        click.echo(f"    {line}")


@sandbox.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(as_json: bool) -> None:
    """Show the machines of the cluster; the exit status is 0 if the cluster is up, else 1."""
    if os.geteuid() != 0:
        raise UsageError("the sandbox's machines are root's: run this as root")
    facts = Sandbox().status()
    if as_json:
        click.echo(json.dumps(facts, indent=1))
    else:
        _show(facts)
    sys.exit(0 if facts["state"] == "up" else 1)


def _show(facts: dict[str, object]) -> None:
    click.echo(f"sandbox: {facts['state']}")
    for key in ("owner", "network", "suite", "cores", "cpuset", "stanza"):
        if key in facts:
            click.echo(f"{key + ':':<9}{facts[key]}")
    machines = facts["machines"]
    for machine in machines if isinstance(machines, list) else ():
        ready = "" if machine["ready"] else "  (not set up)"
        click.echo(f"  {machine['name']:<10} {machine['address']:<12} {machine['state']}{ready}")


# Everything after the machine's name belongs to the command, including options.
@sandbox.command("exec", context_settings={"ignore_unknown_options": True})
@user_option
@click.argument("machine")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(user: str, machine: str, command: tuple[str, ...]) -> None:
    """Run a COMMAND on a MACHINE; output and exit status are the command's.

    \b
    Examples:
      oar-lxc sandbox exec node1 -- oar-lxc-node reap
      oar-lxc sandbox exec --user alice frontend -- oarstat
    """
    _become(_machine(machine, user).command(command, user, os.environ.get("TERM", "")))


@sandbox.command()
@user_option
@click.argument("machine")
def shell(user: str, machine: str) -> None:
    """Open a shell on a MACHINE.

    \b
    Example:
      oar-lxc sandbox shell --user alice frontend
    """
    term = os.environ.get("TERM", "")
    _become(_machine(machine, user).command(["bash", "-l"], user, term))


@sandbox.command()
@click.option("--purge", is_flag=True, help="Remove the cached images too.")
def down(purge: bool) -> None:
    """Remove the cluster; nothing of it is left on this machine."""
    with _told("removing the cluster") as cluster:
        cluster.down(purge)
    cluster.report.line("the sandbox is gone" + (", the caches too" if purge else ""))


def _wanted(cluster: Sandbox, suite: str | None) -> Settings:
    """Return the recommended set-up; say which suite was chosen where it was not asked for."""
    settings = recommended(cluster.state, suite)
    if suite is None and not cluster.state.exists and (reason := why(settings.suite)):
        cluster.report.line(reason)
    return settings


@contextmanager
def _told(what: str) -> Iterator[Sandbox]:
    """Yield the sandbox for work that lasts: each step is told, and for how long it goes on.

    Who interrupts the work is told how to go on.
    """
    with Meter(what) as meter:
        cluster = Sandbox(say=meter.answer)
        meter.follow(cluster.report.going_on)
        try:
            yield cluster
        except KeyboardInterrupt:
            program = _program()
            meter.say(
                f"interrupted: `{program} sandbox up` goes on where this was, and "
                f"`{program} sandbox down` removes what there is"
            )
            raise


def _program() -> str:
    """Return the command as the user has called it."""
    return COMMAND if sys.argv[0].endswith("/__main__.py") else sys.argv[0]


def _machine(name: str, user: str) -> Machine:
    machine = Sandbox().machine(name)
    machine.require_user(user)
    return machine


def _become(argv: list[str]) -> None:
    sys.stdout.flush()
    os.execvp(argv[0], argv)  # noqa: S606 - the command takes over terminal and exit status
