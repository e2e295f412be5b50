"""What belongs to a job on a node, by facts that only root sets."""

from __future__ import annotations

from dataclasses import dataclass, replace

from oar_lxc.linux.deadline import Deadline
from oar_lxc.model.layout import JobLayout
from oar_lxc.root.job_cgroups import JobCgroups
from oar_lxc.root.ownership import Whose


@dataclass(frozen=True)
class Belongings:
    """The names, the cgroups and the ids of a job: by them, all else of it is found.

    Args:
        layout: the job's names.
        cgroups: its cgroups, and its user.
        whose: its ids, and those of its user.
    """

    layout: JobLayout
    cgroups: JobCgroups
    whose: Whose

    @property
    def deadline(self) -> Deadline:
        """When searches for what belongs to the job end."""
        return self.cgroups.deadline

    def until(self, deadline: Deadline) -> Belongings:
        """Return the same with another deadline."""
        return replace(self, cgroups=replace(self.cgroups, deadline=deadline))
