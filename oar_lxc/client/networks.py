"""See and change the networks of a running job, from inside it or from a frontend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from oar_lxc.errors import JobError
from oar_lxc.model import events, requests
from oar_lxc.model.abilities import refuse_lacking
from oar_lxc.model.links import Link
from oar_lxc.model.plan import Plan
from oar_lxc.model.shaping import check_pair, shared_network
from oar_lxc.remote.agents import Remote


@dataclass(frozen=True)
class NetworkState:
    """The networks of a job.

    Attributes:
        plan: networks, members and links of all its sessions.
        running: names of the containers that run.
        lacking: what nodes cannot do for links, by the node's name, in the order of the nodes.
    """

    plan: Plan
    running: frozenset[str]
    lacking: Mapping[str, tuple[str, ...]]


def find_networks(remote: Remote, *, abilities: bool = False) -> NetworkState:
    """Ask all nodes of a job for its networks.

    Args:
        remote: the job's nodes.
        abilities: whether the nodes try what they can do for links.

    Raises:
        NodeError: a node did not answer.
    """
    plan: Plan | None = None
    running: set[str] = set()
    lacking = {}
    for node, told in remote.collect(requests.Networks(abilities), events.NetworksHere):
        # Each knows all; one that a launch has not reached yet knows less.
        if plan is None or len(told.plan.containers) > len(plan.containers):
            plan = told.plan
        running |= {*told.running}
        lacking[node] = told.lacking
    in_order = {node: lacking[node] for node in remote.nodes if node in lacking}
    return NetworkState(plan or Plan(remote.job_id, ()), frozenset(running), in_order)


def set_link(
    remote: Remote, from_: str, to: str | None, network: str | None, keys: Mapping[str, object]
) -> Link:
    """Set a link of a running job, and return it; see :meth:`.Session.link`."""
    state = find_networks(remote, abilities=True)
    members = state.plan.containers
    if not members:
        raise JobError(
            f"job {remote.job_id} has no containers with networks or links: give its spec a "
            "[[network]] or a [[link]]"
        )
    if network is None:
        network = shared_network(from_, to, members)
    link = Link(network, from_, to, **keys)  # type: ignore[arg-type]  # it checks them
    check_pair("the link", link, members)
    check_abilities([("the link", link)], state)
    send_links(remote, [link])
    return link


def check_abilities(links: Sequence[tuple[str, Link]], state: NetworkState) -> None:
    """Refuse links for which a node of the job lacks something, before any node sets them.

    Args:
        links: links, each with what its sentence begins with.
        state: the job's networks, with abilities.

    Raises:
        SpecError: there is one.
    """
    for node, lacking in state.lacking.items():
        refuse_lacking(links, lacking, node)


def send_links(remote: Remote, links: Sequence[Link]) -> None:
    """Have all nodes of a job set links, in one step each.

    Raises:
        NodeError: a node did not.
    """
    tables = tuple(link.to_data() for link in links)
    remote.collect(requests.Emulate(tables), events.Emulated)
