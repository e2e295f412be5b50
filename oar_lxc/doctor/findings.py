"""Checks, and their findings: what is so, what that means, and the command that mends it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import Enum

from oar_lxc.setup.oarconf import OarConf

AS_ROOT = "sudo oar-lxc doctor"


class Role(Enum):
    """What a machine is in its cluster."""

    SERVER = "server"
    FRONTEND = "frontend"
    NODE = "node"


class Outcome(Enum):
    """What a check found; the worst first."""

    PROBLEM = "problem"  # jobs or OAR fail, now or soon
    WARNING = "warning"  # they work, with less than they could have
    UNKNOWN = "unknown"  # could not be looked at
    WELL = "well"


@dataclass(frozen=True)
class Finding:
    """One thing that a check has looked at, or could not look at.

    Attributes:
        outcome: what it found.
        said: one sentence: what is so; for ``unknown``, why it could not look.
        meaning: what comes of it; empty if all is well.
        mend: the command that mends it, or lets the check look; empty if all is well.
        check: the name of the check.
    """

    outcome: Outcome
    said: str
    meaning: str = ""
    mend: str = ""
    check: str = ""


def well(said: str) -> Finding:
    """Return the finding that something is as it should be."""
    return Finding(Outcome.WELL, said)


def problem(said: str, meaning: str, mend: str) -> Finding:
    """Return the finding of something that fails."""
    return Finding(Outcome.PROBLEM, said, meaning, mend)


def warning(said: str, meaning: str, mend: str) -> Finding:
    """Return the finding of something that works, with less than there could be."""
    return Finding(Outcome.WARNING, said, meaning, mend)


def unknown(said: str, mend: str) -> Finding:
    """Return the finding that something could not be looked at.

    Args:
        said: why.
        mend: what to type so that it can be.
    """
    return Finding(Outcome.UNKNOWN, said, "Whether it is well is not known.", mend)


@dataclass(frozen=True)
class Machine:
    """The machine that is looked at, and who looks.

    Attributes:
        role: what it is.
        root: whether root looks.
        conf: OAR's configuration; None if the caller may not read it.
        cpuset: whether it was set up with OAR's cpuset.
        stanza: whether it was set up with the stanza.
        peers: the names of the cluster's nodes, where they are known.
    """

    role: Role
    root: bool
    conf: OarConf | None
    cpuset: bool = True
    stanza: bool = True
    peers: tuple[str, ...] = ()

    @property
    def setup(self) -> str:
        """The command that sets this machine up as it was."""
        words = ["oar-lxc setup", self.role.value]
        if self.role is Role.SERVER:
            words += [] if self.cpuset else ["--no-cpuset"]
            words += [] if self.stanza else ["--no-stanza"]
        else:
            words.append("--bundle bundle.tar")
        return " ".join(words)


@dataclass(frozen=True)
class Check:
    """One thing to look at.

    Attributes:
        name: a word or two, with a hyphen.
        roles: which machines have it.
        look: looks, and yields at least one finding; changes nothing.
        needs_peers: whether it is only for a machine that is told the names of the nodes.
    """

    name: str
    roles: Collection[Role]
    look: Callable[[Machine], Iterable[Finding]]
    needs_peers: bool = False
