"""Which id inside containers is which outside: one map, for all that shifts ids. Pure.

All ids inside come from the job's range, but for those of the job's user, who is the same on both
sides: in a file system that both see, what is the user's outside is the user's inside, and the
other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NOBODY = 65534


@dataclass(frozen=True)
class Extent:
    """Ids that are mapped in one piece, as a line of ``/proc/PID/uid_map``.

    Attributes:
        inside: the first id in the namespace.
        outside: the first id in the parent namespace.
        count: how many.
    """

    inside: int
    outside: int
    count: int

    def __str__(self) -> str:
        return f"{self.inside} {self.outside} {self.count}"


@dataclass(frozen=True)
class IdMap:
    """The map of user ids and that of group ids.

    Attributes:
        uids: extents of user ids, by their first id inside.
        gids: extents of group ids.
    """

    uids: tuple[Extent, ...]
    gids: tuple[Extent, ...]

    @classmethod
    def of_job(cls, first_id: int, count: int, uid: int, gid: int) -> IdMap:
        """Make the map of a job's containers.

        Args:
            first_id: host id of 0.
            count: how many ids there are from 0, besides the user's own.
            uid: the user's id, the same inside; 0 where no id is the user's.
            gid: the id of the user's group, likewise.
        """
        return cls(_around(first_id, count, uid), _around(first_id, count, gid))

    @classmethod
    def only(cls, uid: int, gid: int) -> IdMap:
        """Make a map that knows one user and one group and leaves them who they are.

        In a file system that is seen through it nobody else can own a new file.
        """
        return cls(_single(uid), _single(gid))

    def config_lines(self) -> list[str]:
        """Return the lines of LXC's configuration."""
        pairs = (("u", self.uids), ("g", self.gids))
        return [f"lxc.idmap = {kind} {extent}" for kind, extents in pairs for extent in extents]

    def arguments(self) -> list[str]:
        """Return the arguments of lxc-usernsexec."""
        found = []
        for kind, extents in (("u", self.uids), ("g", self.gids)):
            for one in extents:
                found += ["-m", f"{kind}:{one.inside}:{one.outside}:{one.count}"]
        return found

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """Return who an owner of files outside is inside; root, where nobody is."""
        return _inside(self.uids, uid), _inside(self.gids, gid)


def map_text(extents: Iterable[Extent]) -> str:
    """Return what is written to ``/proc/PID/uid_map`` or ``gid_map``."""
    return "".join(f"{extent}\n" for extent in extents)


def _around(first_id: int, count: int, own: int) -> tuple[Extent, ...]:
    """Map ``count`` ids from 0 to ``first_id``, but for one, the same on both sides."""
    whole = Extent(0, first_id, count)
    if own <= 0:  # root is never itself
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


def _inside(extents: Sequence[Extent], outside: int) -> int:
    for extent in extents:
        if 0 <= outside - extent.outside < extent.count:
            return extent.inside + outside - extent.outside
    return 0
