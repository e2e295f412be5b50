"""What the reaper of a node did about a job; the node reports it, and the server reads it."""

from __future__ import annotations

from dataclasses import dataclass

DESTROYED = "destroyed"
FAILED = "failed"
WOULD_DESTROY = "would destroy"
LEFT_ALONE = "left alone"


@dataclass(frozen=True)
class Reaped:
    """What the reaper did about one job.

    Attributes:
        job_id: the job.
        user: its user; empty if unknown.
        action: :data:`DESTROYED`, :data:`FAILED`, :data:`WOULD_DESTROY` or :data:`LEFT_ALONE`.
        why: the proof that the job is dead, or the reason why there is no proof.
        left: what could not be destroyed; empty if nothing.
    """

    job_id: int
    user: str
    action: str
    why: str
    left: str = ""

    def __str__(self) -> str:
        left = f"; left: {self.left}" if self.left else ""
        return f"{self.action}: job {self.job_id} of {self.user or 'unknown'}: {self.why}{left}"
