"""Make a node's share of a plan and start it: all of it, or nothing."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from oar_lxc.agent.hosts import all_names, learn, tell
from oar_lxc.agent.job_key import JobKey
from oar_lxc.agent.launch import start_containers
from oar_lxc.agent.node import OnNode
from oar_lxc.agent.timeline import note, noted
from oar_lxc.agent.times import write_times
from oar_lxc.container.create import create_containers, in_user_namespace_argv, remove_containers
from oar_lxc.container.runtime import KILL_TIMEOUT, StartAll
from oar_lxc.errors import CommandError, ContainerError, OarLxcError
from oar_lxc.image.provide import provide
from oar_lxc.linux.ed25519 import KeyPair
from oar_lxc.model.job import Job
from oar_lxc.model.plan import Plan, PlannedContainer


def make_and_start(
    node: OnNode, request: Mapping[str, Any], start_all: StartAll
) -> Sequence[PlannedContainer]:
    """Create and start this node's share of a plan; undo all of it where one fails.

    Events: ``started`` for each container, or ``failed``.

    Args:
        node: this node.
        request: ``plan``, ``keys``, ``host_keys`` and ``names`` as
            :func:`oar_lxc.agent.ledger.allot` returns them; ``cores``, ``session`` and
            ``variables``.
        start_all: of :meth:`oar_lxc.container.runtime.Runtime.starting`.

    Returns:
        The containers that run; none where one failed.

    Raises:
        OarLxcError: it failed as a whole.
    """
    plan = Plan.from_data(request["plan"])
    share = plan.on(node.published.node)
    begin = time.time()
    with noted(node.layout, "image", 0):
        images = _images(node, {planned.image for planned in share})
    with node.locked():
        _refuse_existing(node, share)
        failed = False
        first = 0.0
        try:
            JobKey(node.layout.private).keep(request["keys"])
            others = learn(node.layout, request["names"])
            for event in start_containers(start_all, _created(node, plan, images, request)):
                if event["event"] == "started":
                    first = first or time.time() - event["seconds"]
                    times = {"launched": begin, "start_seconds": event["seconds"]}
                    write_times(node.layout, event["container"], times)
                else:
                    failed = True
                node.emit(event)
            if failed:
                _undo(node, share)
                return ()
            note(node.layout, "start", first, time.time() - first, len(share))
            if others:
                tell(node, sorted({*node.runtime.names()} - {c.name for c in share}))
            if any(planned.ports for planned in share):
                from oar_lxc.agent.ports import open_ports

                open_ports(node.layout, request["session"], share)
        except (OSError, CommandError) as error:
            _undo(node, share)
            why = error.strerror if isinstance(error, OSError) else first_line(error.stderr)
            where = node.layout.containers
            raise OarLxcError(f"cannot create containers in {where}: {why}") from error
        except BaseException:
            _undo(node, share)
            raise
    return share


def _created(
    node: OnNode, plan: Plan, images: Mapping[str, Path], request: Mapping[str, Any]
) -> Iterator[Sequence[str]]:
    """Create this node's containers; yield the names of those that can be started meanwhile."""
    share = plan.on(node.published.node)
    begin, spent = time.time(), 0.0
    batches = create_containers(
        node.layout,
        node.published,
        share,
        images=images,
        names=all_names(node.layout),
        keys=request["keys"],
        host_keys={
            planned.name: KeyPair(bytes.fromhex(request["host_keys"][planned.name]))
            for planned in share
        },
        session=request["session"],
        cores=reserved_cores(request, node.published.node),
        variables=request["variables"],
        nodefile=plan.nodefile(),
    )
    while True:
        start = time.monotonic()
        names = next(batches, ())
        spent += time.monotonic() - start
        if not names:
            return note(node.layout, "create", begin, spent, len(share))
        if node.abandoned():
            raise OarLxcError("whoever asked for the launch is gone")
        yield names


def _images(node: OnNode, names: Collection[str]) -> dict[str, Path]:
    """Return the root directory of each image, unpacked for the job where it is an archive."""
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)

    def inside(argv: Sequence[str]) -> list[str]:
        return in_user_namespace_argv(node.published, argv)

    return {name: provide(node.layout, name, home, inside) for name in sorted(names)}


def _refuse_existing(node: OnNode, share: Sequence[PlannedContainer]) -> None:
    for planned in share:
        # Also where what has the name is not ours: it would be in the way.
        if (node.layout.containers / planned.name).exists():
            raise ContainerError(
                planned.name,
                node.published.node,
                f"job {node.published.job_id} has one of this name already: give the group "
                f"another name, such as {planned.group}-b",
            )


def _undo(node: OnNode, share: Sequence[PlannedContainer]) -> None:
    with suppress(OSError, OarLxcError):
        names = [planned.name for planned in share]
        node.runtime.kill(names, KILL_TIMEOUT, for_good=True)
        remove_containers(node.layout, node.published, names)


def reserved_cores(request: Mapping[str, Any], node: str) -> int:
    """Return how many cores OAR reserved on a node; 0 where nothing tells.

    Args:
        request: may have ``cores``, cores by node; else OAR's nodefile is read.
        node: the node.
    """
    if "cores" in request:
        return int(request["cores"].get(node, 0))
    with suppress(OarLxcError):
        return Job.from_environ().cores.get(node, 0)
    return 0


def first_line(text: str) -> str:
    """Return the first line that a program wrote: what follows mostly follows from it."""
    return (text.strip().splitlines() or ["it said nothing"])[0]
