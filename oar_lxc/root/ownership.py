"""Whose ids and processes are: a job's, its user's, or somebody else's.

A user has more than one id on a node: the own one, and the ranges of all their jobs. What one job
is held by may run under any of them. A range stays with its user, so it tells whose a process is
also after its job.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from oar_lxc.root.ranges import COUNT


@dataclass(frozen=True)
class Whose:
    """The ids of a job, and all of its user.

    Args:
        uid: the user; -1 where the user is not known on this node any more.
        first_id: first id of the job's range; 0 where it had none.
        others: first id and count of the ranges that the user's other jobs have or had.
    """

    uid: int
    first_id: int
    others: tuple[tuple[int, int], ...] = ()

    def is_jobs(self, number: int) -> bool:
        """Whether an id is of the job's range."""
        return self.first_id > 0 and self.first_id <= number < self.first_id + COUNT

    def overlaps(self, start: int, count: int) -> bool:
        """Whether one of some ids is of the job's range."""
        return (
            self.first_id > 0 and start < self.first_id + COUNT and start + count > self.first_id
        )

    def is_users(self, number: int) -> bool:
        """Whether an id is the user's: the own one, or of a range that the user has or had."""
        return (
            (self.uid > 0 and number == self.uid)
            or self.is_jobs(number)
            or any(start <= number < start + count for start, count in self.others)
        )

    def has_jobs(self, numbers: Iterable[bytes]) -> bool:
        """Whether one of some ids, as the kernel writes them, is of the job's range."""
        return any(self.is_jobs(int(one)) for one in numbers)
