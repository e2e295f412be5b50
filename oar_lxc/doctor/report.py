"""What the doctor reports of a machine, as it goes from a node to the server, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from oar_lxc.doctor.findings import Finding, Outcome

WELL, FOUND, NOT_LOOKED_AT = 0, 1, 3  # exit statuses; 2 is for a wrong argument


@dataclass(frozen=True)
class Facts:
    """What should fit between the machines of a cluster.

    Attributes:
        version: the version of oar_lxc.
        time: seconds since the epoch, by the machine's clock.
        cpuset: whether it takes OAR's cpuset to be on.
        prepare: the hook that prepares; empty if not known, as all that follows.
        pool: the network of jobs.
        users: the user ids that may have containers.
        addresses: its IPv4 addresses.
        names: what names of nodes resolve to here.
        images: the digests of public images, by name; None if the caller may not see them.
    """

    version: str
    time: float
    cpuset: bool
    prepare: str = ""
    pool: str = ""
    users: str = ""
    addresses: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] | None = None


@dataclass(frozen=True)
class Report:
    """What is found on a machine.

    Attributes:
        machine: its name.
        role: what it is; empty if it was not reached.
        findings: one for each thing that was looked at or could not be.
        facts: for the comparison with others; None if it was not reached.
    """

    machine: str
    role: str
    findings: tuple[Finding, ...]
    facts: Facts | None = None

    def to_data(self) -> dict[str, Any]:
        """Return the report as JSON has it."""
        found = [{**asdict(one), "outcome": one.outcome.value} for one in self.findings]
        facts = asdict(self.facts) if self.facts else None
        return {"machine": self.machine, "role": self.role, "findings": found, "facts": facts}

    @classmethod
    def from_data(cls, data: dict[str, Any], machine: str) -> Report:
        """Read the report of a node.

        Args:
            data: what the node wrote.
            machine: the name by which OAR knows it.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is no report of this version.
        """
        words = ("said", "meaning", "mend", "check")
        found = tuple(
            Finding(Outcome(one["outcome"]), **{word: str(one[word]) for word in words})
            for one in data["findings"]
        )
        return cls(machine, str(data["role"]), found, _facts(data["facts"]))


def _facts(data: dict[str, Any]) -> Facts:
    images = data["images"]
    return Facts(
        version=str(data["version"]),
        time=float(data["time"]),
        cpuset=bool(data["cpuset"]),
        prepare=str(data["prepare"]),
        pool=str(data["pool"]),
        users=str(data["users"]),
        addresses=tuple(map(str, data["addresses"])),
        names={str(name): str(address) for name, address in data["names"].items()},
        images=images and {str(name): str(digest) for name, digest in images.items()},
    )


def status_of(reports: Iterable[Report]) -> int:
    """Return the exit status: the worst of all findings counts; warnings do not."""
    outcomes = {finding.outcome for report in reports for finding in report.findings}
    if Outcome.PROBLEM in outcomes:
        return FOUND
    return NOT_LOOKED_AT if Outcome.UNKNOWN in outcomes or not outcomes else WELL
