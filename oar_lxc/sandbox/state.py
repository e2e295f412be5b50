"""The sandbox's state directory on the host: its owner, its settings, and its lock."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from oar_lxc.errors import OarLxcError, UsageError
from oar_lxc.linux.atomic import write_atomic
from oar_lxc.linux.lock import FOREVER, take
from oar_lxc.sandbox.suites import DEFAULT, SUITES, cgroup_version, default, has_cpuset

STATE = Path("/var/lib/oar-lxc-sandbox")
CACHE = Path("/var/cache/oar-lxc-sandbox")
LOCKS = Path("/run/lock")
COMMAND = "/usr/bin/python3 -m oar_lxc.cli"  # runs the checkout in the working directory


class SandboxError(OarLxcError):
    """The sandbox cannot do what was asked; the message says what to do."""


@dataclass(frozen=True)
class Settings:
    """The settings of ``sandbox up``.

    Attributes:
        nodes: how many nodes.
        cores: how many cores each node declares to OAR.
        cpuset: whether OAR confines jobs to their CPUs.
        stanza: whether the stanza prepares nodes; else prologue and epilogue do.
        suite: the Debian release of the machines.
    """

    nodes: int = 2
    cores: int = 2
    cpuset: bool = True
    stanza: bool = True
    suite: str = DEFAULT

    def check(self) -> None:
        """Refuse settings that this machine cannot have.

        Raises:
            UsageError: a number is out of range, or no machine can have the suite.
        """
        if self.suite not in SUITES:
            raise UsageError(f"suite {self.suite!r} is none of {', '.join(SUITES)}")
        if not 1 <= self.nodes <= 100:
            raise UsageError(f"{self.nodes} nodes: a sandbox has from 1 to 100")
        cpus = os.cpu_count() or 1
        if not 1 <= self.cores <= cpus:
            raise UsageError(
                f"{self.cores} cores per node: OAR puts each core of a node on a CPU of its own, "
                f"and this machine has {cpus} CPUs; ask for --cores from 1 to {cpus}"
            )

    @property
    def node_names(self) -> list[str]:
        """Names of the nodes."""
        return [f"node{number}" for number in range(1, self.nodes + 1)]


class State:
    """The state directory: its owner, and small facts that outlive a command.

    Args:
        root: the directory; its name distinguishes sandboxes on one machine.
        checkout: the checkout that runs the command; by default, that of this module.
    """

    def __init__(self, root: Path = STATE, checkout: Path | None = None) -> None:
        self.root = root
        self.checkout = checkout or Path(__file__).resolve().parents[2]
        # All things of the sandbox on the host outside the root have this in their names. The name
        # of a network device has at most 15 bytes.
        self.tag = "oarlxc" + hashlib.sha256(str(root).encode()).hexdigest()[:6]

    @property
    def exists(self) -> bool:
        """Whether there is a sandbox, complete or not."""
        return self.root.is_dir()

    @property
    def machines(self) -> Path:
        """LXC's path, with a directory per machine."""
        return self.root / "machines"

    @property
    def homes(self) -> Path:
        """The directory that frontend and nodes mount as /home."""
        return self.root / "home"

    @property
    def images(self) -> Path:
        """The directory that nodes mount as their store."""
        return self.root / "images"

    @property
    def storage(self) -> Path:
        """The directory with each node's /var/lib/oar-lxc."""
        return self.root / "storage"

    def claim(self) -> None:
        """Make the directory, and make this checkout its owner."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)  # machines and images have programs that are set-user-id root
        self.write("owner", str(self.checkout))

    def check_owner(self) -> None:
        """Refuse to touch the sandbox of another checkout.

        Raises:
            SandboxError: another checkout owns it.
        """
        if self.is_anothers and Path(self.owner).is_dir():
            raise SandboxError(
                f"the sandbox on this machine belongs to the checkout {self.owner}: use it from "
                "there, or remove it there with `oar-lxc sandbox down`"
            )

    @property
    def owner(self) -> str:
        """The checkout that owns the sandbox; empty if there is none."""
        owner = self.read("owner")
        return owner if isinstance(owner, str) else ""

    @property
    def is_anothers(self) -> bool:
        """Whether another checkout owns the sandbox."""
        return self.owner not in ("", str(self.checkout))

    def read(self, name: str) -> object:
        """Return a fact; None if it is not stored."""
        try:
            value: object = json.loads((self.root / f"{name}.json").read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return value

    def write(self, name: str, value: object) -> None:
        """Store a fact."""
        path = self.root / f"{name}.json"
        write_atomic(path, json.dumps(value) + "\n", 0o644)

    def settings(self) -> Settings | None:
        """Return the sandbox's settings; None if there are none."""
        data = self.read("settings")
        try:
            return Settings(**data) if isinstance(data, dict) else None
        except TypeError:
            return None

    def keep(self, settings: Settings) -> None:
        """Store the sandbox's settings."""
        self.write("settings", asdict(settings))


def recommended(state: State, suite: str | None = None) -> Settings:
    """Return the recommended set-up, in the size that the sandbox has.

    Args:
        state: the sandbox's state.
        suite: the Debian release of the machines; by default the one that it has, or else that
            whose OAR can have its cpuset on here.
    """
    version = cgroup_version()
    known = state.settings() or Settings(suite=default(version))
    suite = suite or known.suite
    cpuset = has_cpuset(suite, version)
    return Settings(known.nodes, known.cores, cpuset=cpuset, suite=suite)


@contextmanager
def locked(
    name: str, wait: bool = True, locks: Path = LOCKS, changing: str = "the sandbox"
) -> Iterator[None]:
    """Hold a lock, which the kernel releases whenever this process ends.

    Args:
        name: the lock's name.
        wait: whether to wait if another process holds it.
        locks: the directory of locks.
        changing: what the holder of the lock changes, for the error.

    Raises:
        SandboxError: another process holds it, and ``wait`` is false.
    """
    path = locks / f"{name}.lock"
    handle = _lock(path, wait, changing)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _lock(path: Path, wait: bool, changing: str) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not take(handle, FOREVER if wait else 0):
                raise SandboxError(
                    f"another command is changing {changing}: wait until it has ended"
                )
            # The process that held it before removes the file; a lock on that file is worthless.
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
