"""``oar-lxc start|stop|restart|freeze|unfreeze``: act on single containers of a running job."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import click

from oar_lxc.cli.shared.meter import Meter
from oar_lxc.cli.shared.targets import complete_container, find_several
from oar_lxc.errors import OarLxcError, printable
from oar_lxc.model import events, requests
from oar_lxc.model.states import FROZEN, RUNNING, STOPPED

TIMEOUT = 10.0
WORDS = {RUNNING: "runs", STOPPED: "is stopped", FROZEN: "is frozen"}

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
    """Start CONTAINERS that were stopped; their files are unchanged.

    \b
    Examples:
      oar-lxc start 42/vm1
      oar-lxc start vm1 vm2
      oar-lxc start 42/           all of job 42
    """
    _control("starting", requests.Start, containers)


@click.command()
@_containers
@_timeout
@_kill
def stop(containers: tuple[str, ...], timeout: float, kill: bool) -> None:
    """Shut CONTAINERS down; kill those that are not stopped in time.

    Their files stay until the job ends.

    \b
    Examples:
      oar-lxc stop 42/vm1
      oar-lxc stop --timeout 60 vm1 vm2
      oar-lxc stop --kill 42/     all of job 42
    """
    seconds = 0.0 if kill else timeout
    _control("stopping", partial(requests.Stop, timeout=seconds), containers, seconds)


@click.command()
@_containers
@_timeout
@_kill
def restart(containers: tuple[str, ...], timeout: float, kill: bool) -> None:
    """Stop CONTAINERS and start them again; their files are unchanged.

    \b
    Examples:
      oar-lxc restart 42/vm1
    """
    seconds = 0.0 if kill else timeout
    _control("restarting", partial(requests.Restart, timeout=seconds), containers, seconds)


@click.command()
@_containers
def freeze(containers: tuple[str, ...]) -> None:
    """Stop all processes of CONTAINERS where they are; `unfreeze` lets them go on.

    \b
    Examples:
      oar-lxc freeze 42/vm1
    """
    _control("freezing", requests.Freeze, containers)


@click.command()
@_containers
def unfreeze(containers: tuple[str, ...]) -> None:
    """Let frozen CONTAINERS go on.

    \b
    Examples:
      oar-lxc unfreeze 42/vm1
    """
    _control("thawing", requests.Unfreeze, containers)


def _control(
    doing: str,
    ask: Callable[[tuple[str, ...]], requests.Request],
    targets: tuple[str, ...],
    timeout: float = TIMEOUT,
) -> None:
    """Ask the agents, and print the new state of each container; fail at the end if one failed.

    Args:
        doing: what is done, as in ``stopping``.
        ask: returns the request for containers of some names.
        targets: the containers; see :func:`find_several`.
        timeout: seconds after which a container is killed.
    """
    failures: list[OarLxcError] = []

    def take(node: str, event: events.Event) -> None:
        match event:
            case events.Failed():
                failures.append(event.error(node))
            case events.Changed():
                meter.answer(f"{event.container} on {node} {_words(event, timeout)}")

    more = f" and {len(targets) - 1} more" if len(targets) > 1 else ""
    with Meter(f"{doing} {printable(targets[0])}{more}") as meter:
        remote, containers = find_several(targets)
        names = tuple(container.name for container in containers)
        nodes = [node for node in remote.nodes if node in {c.node for c in containers}]
        failures += remote.call(ask(names), take, nodes)
    for failure in failures[:-1]:
        click.echo(f"oar-lxc: {failure}", err=True)
    if failures:
        raise failures[-1]


def _words(changed: events.Changed, timeout: float) -> str:
    """Return the new state of a container, as the end of a sentence."""
    done = WORDS.get(changed.state, f"is {changed.state}")
    if changed.was == changed.state:
        return f"{done} already"
    return f"{done}: killed, as it took longer than {timeout:g} s" if changed.killed else done
