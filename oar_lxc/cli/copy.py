"""``oar-lxc cp``: copy files into containers, out of them, and from one to another."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import click

from oar_lxc.cli.shared.attach import AttachCommand, attach_command, on_node_of
from oar_lxc.cli.shared.meter import Meter
from oar_lxc.cli.shared.tarpipe import ContainerSource, ContainerTarget, MakeAttachCommand
from oar_lxc.client.copy import (
    CopyError,
    LocalSource,
    LocalTarget,
    Place,
    Source,
    Target,
    parse_place,
    transfer,
)
from oar_lxc.client.extract import Complain
from oar_lxc.errors import ContainerError, JobEnvironmentError, UsageError, printable
from oar_lxc.remote.agents import Remote

Side = TypeVar("Side", ContainerSource, ContainerTarget)


@click.command()
@click.option("-r", "-R", "-a", "recursive", is_flag=True, help="As with cp; it always is.")
@click.argument("paths", nargs=-1, required=True, metavar="SOURCE... DESTINATION")
def cp(paths: tuple[str, ...], recursive: bool) -> None:
    """Copy files and directories: JOB/CONTAINER:PATH, or CONTAINER:PATH in a job, on either side.

    If DESTINATION is a directory, files go into it; else the copy gets that name. SOURCE/. means
    the content of a directory. A SOURCE that is a symbolic link is followed; modes, times and the
    links in a directory are kept. Files copied into a container belong to root; files copied out
    belong to you. Paths in a container are relative to root's home. A local name with a colon is
    written ./NAME.

    \b
    Examples:
      oar-lxc cp data.csv 42/vm1:
      oar-lxc cp -r src 42/vm1:/srv
      oar-lxc cp 42/vm1:/root/result .
      oar-lxc cp 42/vm1:/etc/hosts 42/vm2:/tmp/hosts
    """
    *places, to = map(parse_place, paths)
    if not places:
        raise click.MissingParameter(param_type="argument", param_hint="'DESTINATION'")
    if not to.container and not any(place.container for place in places):
        raise UsageError(
            f"neither {places[0]} nor {to} is in a container: write JOB/CONTAINER:PATH, or "
            "CONTAINER:PATH in a job"
        )
    complaints = 0

    def complain(sentence: str, *, lost: bool = True) -> None:
        nonlocal complaints
        complaints += lost
        meter.say(printable(sentence))

    with Meter("copying") as meter:
        for place in places:
            with ExitStack() as stack:
                source = _source(place, complain)
                stack.callback(source.close)
                target = _target(to, len(places) > 1, complain)
                stack.callback(target.close)
                transfer(source, target, complain, meter.add)
                source.finish()
                target.finish()
    if complaints:
        sys.exit(1)


def _source(place: Place, complain: Complain) -> Source:
    if not place.container:
        return LocalSource(place.path, complain)
    return _in_container(place, lambda attach: ContainerSource(place, attach, complain))


def _target(place: Place, several: bool, complain: Complain) -> Target:
    if not place.container:
        return LocalTarget(place.path, several, complain)
    return _in_container(place, lambda attach: ContainerTarget(place, attach, several, complain))


def _in_container(place: Place, start: Callable[[MakeAttachCommand], Side]) -> Side:
    """Start a tar in a container, through the attach program; return it."""

    def act(remote: Remote, node: str, name: str) -> Side:
        def attach(argv: Sequence[str]) -> AttachCommand:
            return attach_command(remote, node, "attach", name, *argv, marked=True)

        return start(attach)

    try:
        return on_node_of(place.container, act)
    except (JobEnvironmentError, ContainerError) as error:
        if not Path(str(place)).exists():
            raise
        raise CopyError(f"{error}; if you mean the file of that name, write ./{place}") from error
