"""``oar-lxc start|stop|restart|freeze|unfreeze``: single containers while their job runs."""

from __future__ import annotations

from typing import Any

import click

from oar_lxc.cli.shared.reach import complete_container, find_several
from oar_lxc.errors import ContainerError, OarLxcError

TIMEOUT = 10.0
WORDS = {"RUNNING": "runs", "STOPPED": "is stopped", "FROZEN": "is frozen"}

_containers = click.argument(
    "containers", nargs=-1, required=True, shell_complete=complete_container
)
_kill = click.option("--kill", is_flag=True, help="Kill at once, without an orderly end.")
_timeout = click.option(
    "--timeout",
    type=click.FloatRange(0, 86400),
    default=TIMEOUT,
    show_default=True,
    help="Seconds that an orderly end may take before it is killed.",
)


@click.command()
@_containers
def start(containers: tuple[str, ...]) -> None:
    """Start CONTAINERS that were stopped; they have their files as they were.

    \b
    Examples:
      oar-lxc start 42/vm1
      oar-lxc start vm1 vm2
      oar-lxc start 42/           all of job 42
    """
    _control("start", containers)


@click.command()
@_containers
@_timeout
@_kill
def stop(containers: tuple[str, ...], timeout: float, kill: bool) -> None:
    """Stop CONTAINERS: their init ends them in order; what is late is killed.

    Their files stay until the job ends.

    \b
    Examples:
      oar-lxc stop 42/vm1
      oar-lxc stop --timeout 60 vm1 vm2
      oar-lxc stop --kill 42/     all of job 42
    """
    _control("stop", containers, 0 if kill else timeout)


@click.command()
@_containers
@_timeout
@_kill
def restart(containers: tuple[str, ...], timeout: float, kill: bool) -> None:
    """Stop CONTAINERS and start them again, with their files as they were.

    \b
    Examples:
      oar-lxc restart 42/vm1
    """
    _control("restart", containers, 0 if kill else timeout)


@click.command()
@_containers
def freeze(containers: tuple[str, ...]) -> None:
    """Stop all processes of CONTAINERS where they are; `unfreeze` lets them run on.

    \b
    Examples:
      oar-lxc freeze 42/vm1
    """
    _control("freeze", containers)


@click.command()
@_containers
def unfreeze(containers: tuple[str, ...]) -> None:
    """Let CONTAINERS that were frozen run on.

    \b
    Examples:
      oar-lxc unfreeze 42/vm1
    """
    _control("unfreeze", containers)


def _control(operation: str, targets: tuple[str, ...], timeout: float = TIMEOUT) -> None:
    """Have the agents do it, tell what has become of each; raise the first failure at the end."""
    remote, containers = find_several(targets)
    wanted = [container.name for container in containers]
    nodes = [node for node in remote.nodes if node in {c.node for c in containers}]
    failures: list[OarLxcError] = []

    def take(node: str, event: dict[str, Any]) -> None:
        name = event["container"]
        if event["event"] == "failed":
            failures.append(ContainerError(name, node, event["reason"], event["log"]))
            return
        done = WORDS.get(event["state"], f"is {event['state']}")
        if event["was"] == event["state"]:
            done += " already"
        elif event["killed"]:
            done += f": killed, as it took longer than {timeout:g} s"
        click.echo(f"{name} on {node} {done}")

    request = {"containers": wanted, "timeout": timeout}
    failures += remote.call(operation, request, take, nodes)
    for failure in failures[:-1]:
        click.echo(f"oar-lxc: {failure}", err=True)
    if failures:
        raise failures[-1]
