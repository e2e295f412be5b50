"""The ledger: the addresses, cores, names and ports that a job's sessions have.

Several scripts of one job may run at once, on any of its nodes, and share the job's addresses,
cores, names and ports. One table allots them. It is in the user's private directory on the job's
head node, and the agent there reads and writes it under a lock.

A part of the subnet for each node would need no such lock. We chose the table for three reasons: a
node with many cores may have more containers than its part has addresses; the names in
``/etc/hosts`` must be known before the first container starts; and two containers of one name on
two nodes must be refused.

An address that is free again is given out only after all others. So a peer that still knows the
key or the hardware address of the earlier container does not meet another container there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from oar_lxc.agent.job_key import JobKey
from oar_lxc.agent.node import OnNode
from oar_lxc.errors import OarLxcError, SpecError
from oar_lxc.linux.atomic import write_atomic
from oar_lxc.linux.ed25519 import KeyPair
from oar_lxc.linux.lock import take
from oar_lxc.linux.process import identity
from oar_lxc.model.addresses import JobNetwork
from oar_lxc.model.events import Allotted, Refused
from oar_lxc.model.interfaces import PlannedNetwork
from oar_lxc.model.job import Job
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.names import Peer
from oar_lxc.model.plan import Plan, PlannedContainer, make_plan
from oar_lxc.model.published import PublishedJob
from oar_lxc.model.requests import Allot, Release

# The fields of a container that the ledger keeps, so that no other container gets the same.
KEPT = (
    *("name", "node", "address", "image", "group", "cores", "first_core", "ports"),
    *("main", "forward", "interfaces"),
)
Entry = dict[str, Any]


def allot(layout: JobLayout, published: PublishedJob, request: Allot) -> Allotted:
    """Allot to a session what its spec asks for, out of what other sessions do not have.

    Args:
        layout: the job's names, on its head node.
        published: what root says of this node.
        request: the session's request.

    Raises:
        SpecError: too little is left, or another session has a name or port of the spec.
        OarLxcError: the ledger cannot be read or written.
    """
    spec = request.spec
    job = Job(layout.job_id, request.user, dict(request.cores))
    pool = IPv4Network(published.pool)
    with _table(layout) as table:
        sessions: dict[str, Entry] = table["sessions"]
        known = _networks(table)
        try:
            plan = make_plan(spec, job, pool, _others(sessions), table["next"], known)
        except SpecError:
            if not _forget_dead(layout, published, sessions):
                raise
            plan = make_plan(spec, job, pool, _others(sessions), table["next"], known)
        # Networks stay until the job ends, as their devices do.
        networks = {network.name: network for network in (*known, *plan.networks)}
        table["networks"] = [asdict(network) for network in networks.values()]
        keys = JobKey.make(layout, f"oar job {job.id}").to_data()
        pairs = {planned.name: KeyPair.make() for planned in plan.containers}
        sessions[request.session] = {
            "owner": list(request.owner),
            "containers": [_entry(planned, pairs[planned.name]) for planned in plan.containers],
        }
        if plan.containers:
            table["next"] = _after(plan, JobNetwork.of(job.id, job.nodes, pool))
    return Allotted(
        plan=plan,
        keys=keys,
        host_keys={name: pair.secret.hex() for name, pair in pairs.items()},
        names={
            token: {c["name"]: _peer(c) for c in entry["containers"]}
            for token, entry in sessions.items()
        },
    )


def release(layout: JobLayout, session: str) -> None:
    """Free what a session had; its containers must be gone.

    Raises:
        OarLxcError: the ledger cannot be read or written.
    """
    with _table(layout) as table:
        table["sessions"].pop(session, None)


def allot_request(node: OnNode, request: Allot) -> None:
    """Call :func:`allot` for a session of another node; an operation of the agent.

    Events: ``Allotted``, or ``Refused`` if the fault is in the session's spec and not in this
    node.
    """
    try:
        node.emit(allot(node.layout, node.published, request))
    except SpecError as error:
        node.emit(Refused(str(error)))


def release_request(node: OnNode, request: Release) -> None:
    """Call :func:`release` for a session of another node; an operation of the agent."""
    release(node.layout, request.session)


def _entry(planned: PlannedContainer, pair: KeyPair) -> Entry:
    data = asdict(planned)
    return {key: data[key] for key in KEPT} | {"host_key": pair.public}


def _peer(entry: Entry) -> Peer:
    planned = PlannedContainer.from_data({key: entry[key] for key in KEPT if key in entry})
    networks = {interface.network: interface.ips for interface in planned.interfaces}
    return Peer(planned.ip if planned.main else "", str(entry["host_key"]), networks)


def _networks(table: Mapping[str, Any]) -> list[PlannedNetwork]:
    return [PlannedNetwork(**network) for network in table.get("networks", ())]


def _others(sessions: Mapping[str, Entry]) -> list[PlannedContainer]:
    return [
        PlannedContainer.from_data({key: one[key] for key in KEPT if key in one})
        for entry in sessions.values()
        for one in entry["containers"]
    ]


def _after(plan: Plan, network: JobNetwork) -> int:
    """Return the number of the address after the last one that was given out."""
    first = int(network.container_address(0).ip)
    return (int(IPv4Interface(plan.containers[-1].address).ip) - first + 1) % network.capacity


def _forget_dead(layout: JobLayout, published: PublishedJob, sessions: dict[str, Entry]) -> bool:
    """Forget sessions that were killed before they had containers; return whether any were.

    Only sessions that ran on this node, with containers planned for this node alone, are
    forgotten: the state of other nodes is not known here.
    """
    here = published.node
    dead = [
        token
        for token, entry in sessions.items()
        if entry["owner"][0] == here
        and [here, *identity(int(entry["owner"][1]))] != entry["owner"]
        and all(
            one["node"] == here and not (layout.containers / one["name"]).exists()
            for one in entry["containers"]
        )
    ]
    for token in dead:
        del sessions[token]
    return bool(dead)


@contextmanager
def _table(layout: JobLayout) -> Iterator[dict[str, Any]]:
    """Lock and read the ledger, run the block on it, and write it unless the block fails."""
    path = layout.ledger
    try:
        lock = os.open(layout.private, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise OarLxcError(f"cannot open {layout.private}: {error.strerror}") from error
    try:
        take(lock)
        table = _read(path)
        yield table
        write_atomic(path, json.dumps(table))
    except OSError as error:
        raise OarLxcError(f"cannot write {path}: {error.strerror}") from error
    finally:
        os.close(lock)


def _read(path: Path) -> dict[str, Any]:
    try:
        table: dict[str, Any] = json.loads(path.read_text())
        if not (isinstance(table["next"], int) and isinstance(table["sessions"], dict)):
            raise TypeError("it is something else")
        _others(table["sessions"])
        _networks(table)
    except FileNotFoundError:
        return {"next": 0, "sessions": {}}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OarLxcError(
            f"{path} is damaged: end the job's containers, remove the file and start them again"
        ) from error
    return table
