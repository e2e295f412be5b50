"""The networks of a job on this node, and the links in them: as they are, and as they change.

Each node knows the networks, members and links of all sessions, from the launches. It makes its
own devices of them, and sets links up at the interfaces of its own containers alone. A container
has a script for each interface in its directory, by which LXC sets the links up at each start.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from ipaddress import IPv4Network
from typing import Any

from oar_lxc.agent.node import OnNode
from oar_lxc.container.emulation import (
    commands,
    losses_text,
    start_script,
)
from oar_lxc.container.links import apply, lacking
from oar_lxc.container.segments import Underlay, make_segments
from oar_lxc.errors import CommandError, ContainerError, OarLxcError
from oar_lxc.linux.atomic import write_atomic
from oar_lxc.model import events, requests
from oar_lxc.model.abilities import refuse_lacking
from oar_lxc.model.addresses import JobNetwork
from oar_lxc.model.layout import JobLayout, cable_device, links_file, outer_device
from oar_lxc.model.links import Link
from oar_lxc.model.plan import Plan, PlannedContainer
from oar_lxc.model.shaping import Shaping, check_pair, shapings
from oar_lxc.model.states import RUNNING

# The fields of a container that concern networks.
KEPT = (
    *("name", "node", "address", "image", "group"),
    *("main", "internet", "forward", "gateway", "interfaces", "emulated"),
)


@dataclass(frozen=True)
class Known:
    """What a node knows of a job's networks.

    Attributes:
        job_id: the job.
        sessions: the plan of each session.
        changes: the links that were added since.
    """

    job_id: int
    sessions: Mapping[str, Plan] = field(default_factory=dict)
    changes: tuple[Link, ...] = ()

    @property
    def plan(self) -> Plan:
        """The plans of all sessions together, with the changes."""
        made = Plan(self.job_id, ())
        for plan in self.sessions.values():
            made = made.joined(plan)
        return replace(made, links=(*made.links, *self.changes))

    def changed(self, links: Iterable[Link]) -> Known:
        """Return it with further links; one that they repeat is dropped, as the last counts."""
        added = tuple(links)
        ends = {_ends(link) for link in added}
        kept = (link for link in self.changes if _ends(link) not in ends)
        return replace(self, changes=(*kept, *added))


def _ends(link: Link) -> tuple[object, ...]:
    return link.network, link.from_, link.to, link.both


def join(node: OnNode, session: str, plan: Plan) -> dict[str, dict[str, str]]:
    """Make a session's networks on this node, and learn its members and links.

    The caller holds the node's lock. Where no session needs networks, there is nothing to do; see
    :attr:`.Plan.needs_networks`.

    Args:
        node: the node.
        session: the session's token.
        plan: its plan.

    Returns:
        For each container of this node with emulation, the files that set it up at its start.

    Raises:
        SpecError: the kernel of this node cannot do what a link asks for.
        CommandError: the kernel refuses a device or a rule.
    """
    before = _read(node.layout)
    if plan.links:
        _refuse_lacking(node, plan.links)
    known = replace(before, sessions={**before.sessions, session: plan})
    main = _main_network(node)
    underlay = Underlay(node.published.node, main.underlay)
    make_segments(node.runtime, known.plan.networks, underlay, known.plan.containers)
    _change(node, before, known)
    return {
        planned.name: _link_files(known.plan, planned)
        for planned in plan.on(node.published.node)
        if planned.emulated
    }


def leave(node: OnNode, session: str | None) -> None:
    """Forget a session that has ended, or all; the caller holds the node's lock.

    Raises:
        CommandError: the kernel refuses a rule.
    """
    before = _read(node.layout)
    gone = {*before.sessions} if session is None else {session} & {*before.sessions}
    if not gone:
        return
    cables = [
        cable_device(planned.ip, interface.index)
        for token in gone
        for planned in before.sessions[token].on(node.published.node)
        if planned.emulated
        for interface in planned.all_interfaces
    ]
    sessions = {token: plan for token, plan in before.sessions.items() if token not in gone}
    _change(node, before, replace(before, sessions=sessions))
    if cables:
        text = "".join(f"link del dev {cable}\n" for cable in cables)
        try:
            node.runtime.in_network(["ip", "-force", "-batch", "-"], text)
        except CommandError:
            pass  # most interfaces have no such device


def send_networks(node: OnNode, request: requests.Networks) -> None:
    """Tell the networks, members and links of the job; an operation of the agent."""
    plan = _read(node.layout).plan
    missing: tuple[str, ...] = ()
    if request.abilities:
        node.runtime.make_network()
        missing = lacking(node.runtime)
    here = plan.on(node.published.node)
    node.emit(
        events.NetworksHere(
            plan=plan,
            running=tuple(c.name for c in here if node.runtime.state(c.name) == RUNNING),
            lacking=missing,
        )
    )


def emulate(node: OnNode, request: requests.Emulate) -> None:
    """Add links to those of the job; an operation of the agent.

    Raises:
        SpecError: a link is wrong, or the kernel of this node cannot do it; nothing was changed.
    """
    links = [Link.from_table(table) for table in request.links]
    with node.locked():
        before = _read(node.layout)
        for number, link in enumerate(links, 1):
            check_pair(f"link {number}", link, before.plan.containers)
        _refuse_lacking(node, links)
        after = before.changed(links)
        done = _change(node, before, after)
        for planned in after.plan.on(node.published.node):
            for name, text in _link_files(after.plan, planned).items():
                directory = node.layout.containers / planned.name
                if directory.is_dir():
                    write_atomic(directory / name, text)
    node.emit(events.Emulated(sum(map(bool, done))))


def plug(node: OnNode, request: requests.Plug) -> None:
    """Pull the cables of containers, or plug them in; an operation of the agent.

    Events: ``Plugged`` for each container, or ``Failed``.
    """
    state = "up" if request.up else "down"
    for planned in _read(node.layout).plan.on(node.published.node):
        if request.containers is not None and planned.name not in request.containers:
            continue
        interface = planned.interface(request.network)
        try:
            if interface is None:
                raise ContainerError(planned.name, "", f"it is not in network {request.network}")
            device = outer_device(planned.ip, interface.index)
            node.runtime.in_network(["ip", "link", "set", "dev", device, state])
        except ContainerError as error:
            node.emit(events.Failed.of(error))
            continue
        except CommandError:
            node.emit(events.Failed(planned.name, "it does not run, and so has no cable"))
            continue
        node.emit(events.Plugged(planned.name, request.network, request.up))


def _refuse_lacking(node: OnNode, links: Sequence[Link]) -> None:
    numbered = ((f"link {number}", link) for number, link in enumerate(links, 1))
    refuse_lacking(numbered, lacking(node.runtime), node.published.node)


def _main_network(node: OnNode) -> JobNetwork:
    published = node.published
    return JobNetwork.of(published.job_id, published.nodes, IPv4Network(published.pool))


def _change(node: OnNode, before: Known, after: Known) -> list[Shaping]:
    """Turn what is done at this node's interfaces into something else, and write it down.

    Returns:
        What is done at each interface of the node.
    """
    wanted, was = _here(node, after.plan), _here(node, before.plan)
    running = {one.container for one in (*wanted, *was)}
    running = {name for name in running if node.runtime.state(name) == RUNNING}
    change = commands(
        [one for one in wanted if one.container in running],
        [one for one in was if one.container in running],
    )
    offline = [c.ip for c in after.plan.on(node.published.node) if c.main and not c.internet]
    losses = losses_text(wanted, offline, str(_main_network(node).subnet))
    apply(node.runtime, change, losses)
    _write(node.layout, after)
    return wanted


def _here(node: OnNode, plan: Plan) -> list[Shaping]:
    return list(shapings(plan.links, plan.containers, plan.on(node.published.node)))


def _link_files(plan: Plan, planned: PlannedContainer) -> dict[str, str]:
    """Return the scripts of a container's interfaces, by the names of their files."""
    files = {links_file(interface.index): "" for interface in planned.all_interfaces}
    for shaping in shapings(plan.links, plan.containers, [planned]):
        files[links_file(shaping.interface)] = start_script(shaping)
    return files


def _read(layout: JobLayout) -> Known:
    path = layout.networks
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        return Known(
            layout.job_id,
            {str(token): Plan.from_data(plan) for token, plan in data["sessions"].items()},
            tuple(Link(**link) for link in data["changes"]),
        )
    except FileNotFoundError:
        return Known(layout.job_id)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OarLxcError(
            f"{path} is damaged: end the job's containers, remove the file and start them again"
        ) from error


def _write(layout: JobLayout, known: Known) -> None:
    data = {
        "sessions": {token: _kept(plan) for token, plan in known.sessions.items()},
        "changes": [asdict(link) for link in known.changes],
    }
    write_atomic(layout.networks, json.dumps(data))


def _kept(plan: Plan) -> dict[str, Any]:
    data = plan.to_data()
    data["containers"] = [{key: one[key] for key in KEPT} for one in data["containers"]]
    return data
