"""Tell whether an id belongs to a job, to its user, or to another user.

A user has several ids on a node: the own id, and the ranges of all the user's jobs. A process that
holds up one job may run under any of them. A range always belongs to the same user, so it tells
the user of a process even after its job.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from oar_lxc.root.id_ranges import COUNT


@dataclass(frozen=True)
class Whose:
    """The ids of a job, and all other ids of its user.

    Args:
        uid: the user; -1 if this node does not know the user any more.
        first_id: first id of the job's range; 0 if it had none.
        others: first id and count of the ranges that the user's other jobs have or had.
    """

    uid: int
    first_id: int
    others: tuple[tuple[int, int], ...] = ()

    def is_jobs(self, number: int) -> bool:
        """Whether an id is in the job's range."""
        return self.first_id > 0 and self.first_id <= number < self.first_id + COUNT

    def overlaps(self, start: int, count: int) -> bool:
        """Whether one of ``count`` ids from ``start`` on is in the job's range."""
        return (
            self.first_id > 0 and start < self.first_id + COUNT and start + count > self.first_id
        )

    def is_users(self, number: int) -> bool:
        """Whether an id is the user's own id, or in a range that the user has or had."""
        return (
            (self.uid > 0 and number == self.uid)
            or self.is_jobs(number)
            or any(start <= number < start + count for start, count in self.others)
        )

    def has_jobs(self, numbers: Iterable[bytes]) -> bool:
        """Whether one of some ids, in the kernel's text form, is in the job's range."""
        return any(self.is_jobs(int(one)) for one in numbers)
