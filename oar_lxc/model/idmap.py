"""Map ids inside containers to ids outside, with one map for all code that shifts ids. Pure.

The job's range gives all ids inside, except those of the job's user, which are the same inside and
outside. So in a file system that both sides see, the user owns the same files inside and outside.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

NOBODY = 65534


@dataclass(frozen=True)
class Extent:
    """Ids that are mapped in one piece, as a line of ``/proc/PID/uid_map``.

    Attributes:
        inside: the first id in the namespace.
        outside: the first id in the parent namespace.
        count: how many ids.
    """

    inside: int
    outside: int
    count: int

    def __str__(self) -> str:
        return f"{self.inside} {self.outside} {self.count}"


@dataclass(frozen=True)
class IdMap:
    """The map of user ids and the map of group ids.

    Attributes:
        uids: extents of user ids, sorted by their first id inside.
        gids: extents of group ids.
    """

    uids: tuple[Extent, ...]
    gids: tuple[Extent, ...]

    @classmethod
    def of_job(cls, first_id: int, count: int, uid: int, gid: int) -> IdMap:
        """Make the map of a job's containers.

        Args:
            first_id: id outside of id 0 inside.
            count: how many ids from 0 are mapped, besides the user's own.
            uid: the user's id, the same inside and outside; 0 to map no user to itself.
            gid: the id of the user's group, likewise.
        """
        return cls(_around(first_id, count, uid), _around(first_id, count, gid))

    @classmethod
    def only(cls, uid: int, gid: int) -> IdMap:
        """Make a map that has one user and one group, and maps each to itself.

        Through a mount with this map, only this user and this group can own a new file.
        """
        return cls(_single(uid), _single(gid))

    def config_lines(self) -> list[str]:
        """Return the lines of LXC's configuration for a container in a namespace with this map.

        The container has a user namespace of its own, nested, with the same ids.
        """
        pairs = (("u", self.uids), ("g", self.gids))
        return [
            f"lxc.idmap = {kind} {extent.inside} {extent.inside} {extent.count}"
            for kind, extents in pairs
            for extent in extents
        ]


def map_text(extents: Iterable[Extent]) -> str:
    """Return the text to write to ``/proc/PID/uid_map`` or ``gid_map``."""
    return "".join(f"{extent}\n" for extent in extents)


def _around(first_id: int, count: int, own: int) -> tuple[Extent, ...]:
    """Map ``count`` ids from 0 on to ids from ``first_id`` on, but map ``own`` to itself."""
    whole = Extent(0, first_id, count)
    if own <= 0:  # root is never mapped to itself
        return (whole,)
    if own >= count:
        return (whole, Extent(own, own, 1))
    parts = [Extent(0, first_id, own), Extent(own, own, 1)]
    if own + 1 < count:
        parts.append(Extent(own + 1, first_id + own + 1, count - own - 1))
    return tuple(parts)


def _single(own: int) -> tuple[Extent, ...]:
    if own <= 0:
        own = NOBODY  # the kernel wants a map that is not empty
    return (Extent(own, own, 1),)
