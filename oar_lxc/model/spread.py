"""Spread a spec's containers over the nodes of a job. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from oar_lxc.model.job import Job
from oar_lxc.model.spec import Group, Spec


def layout(
    spec: Spec, job: Job, others: Iterable[tuple[str, int]] = ()
) -> Iterator[tuple[str, Group]]:
    """Yield node and group of each container, by node, and on a node by group.

    Args:
        spec: what the user asks for.
        job: the job with the nodes.
        others: node of each container of the job's other sessions, and how many cores it has for
            itself.
    """
    counts = {group.name: _fixed(group, job) for group in spec.groups if not group.total}
    load = _Load(job)
    for node, cores in others:
        load.add(node, cores)
    for group in spec.groups:
        if not group.total:
            for node in job.nodes:
                load.add(node, own_cores(group), counts[group.name][node])
    for group in spec.groups:
        if group.total:
            counts[group.name] = load.spread(group)
    for node in job.nodes:
        for group in spec.groups:
            for _ in range(counts[group.name][node]):
                yield node, group


class _Load:
    """The load of each of a job's nodes: the containers there, and the cores they have."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._cores: Counter[str] = Counter()  # by node: cores that a container has for itself
        self._sharing: Counter[str] = Counter()  # by node: containers that share cores

    def add(self, node: str, cores: int, count: int = 1) -> None:
        """Add containers that have ``cores`` cores each for themselves; 0 if they share."""
        self._cores[node] += cores * count
        self._sharing[node] += count if not cores else 0

    def spread(self, group: Group) -> Counter[str]:
        """Return how many of a group's containers each node gets; the freest node gets the next.

        For a container with cores of its own, that is the node with the most free cores. For one
        that shares cores, it is the node where its share of the free cores is largest. Of equal
        nodes, the one with fewer containers comes first.
        """
        counts: Counter[str] = Counter()
        for _ in range(group.total or 0):
            node = max(self._job.nodes, key=self._room if group.cores else self._part)
            self.add(node, group.cores or 0)
            counts[node] += 1
        return counts

    def _room(self, node: str) -> tuple[float, ...]:
        return self._job.cores[node] - self._cores[node], -self._sharing[node]

    def _part(self, node: str) -> tuple[float, ...]:
        cores, sharing = self._job.cores[node], self._sharing[node] + 1
        return (cores - self._cores[node]) / sharing, cores / sharing


def _fixed(group: Group, job: Job) -> Counter[str]:
    """Return how many containers each node gets, for a group without a total."""
    if group.per_core:
        return Counter(job.cores)
    return Counter(dict.fromkeys(job.nodes, group.per_node or 1))


def own_cores(group: Group) -> int:
    """Return how many cores each container of a group has for itself; 0 if they share."""
    return 1 if group.per_core else group.cores or 0
