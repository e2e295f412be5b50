"""What the sandbox keeps on the host: where, whose it is, one command at a time."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from oar_lxc.errors import OarLxcError, UsageError

STATE = Path("/var/lib/oar-lxc-sandbox")
CACHE = Path("/var/cache/oar-lxc-sandbox")
LOCKS = Path("/run/lock")
COMMAND = "/usr/bin/python3 -m oar_lxc.cli"  # a checkout's own


class SandboxError(OarLxcError):
    """The sandbox cannot do what was asked; the message says what to do."""


@dataclass(frozen=True)
class Settings:
    """What ``sandbox up`` was asked for.

    Attributes:
        nodes: how many nodes.
        cores: how many cores each declares to OAR.
        cpuset: whether OAR confines jobs to their CPUs.
        stanza: whether the job resource manager prepares nodes; else prologue and epilogue do.
    """

    nodes: int = 2
    cores: int = 2
    cpuset: bool = True
    stanza: bool = True

    def check(self) -> None:
        """Refuse what this machine cannot do.

        Raises:
            UsageError: a number is out of range.
        """
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
        root: the directory; its name tells sandboxes on one machine apart.
        checkout: the checkout that acts.
    """

    def __init__(self, root: Path = STATE, checkout: Path | None = None) -> None:
        self.root = root
        self.checkout = checkout or Path(__file__).resolve().parents[2]
        # Everything on the host that is not below the root has this in its name. A link's name
        # has 15 bytes at most.
        self.tag = "oarlxc" + hashlib.sha256(str(root).encode()).hexdigest()[:6]

    @property
    def exists(self) -> bool:
        """Whether there is a sandbox, whole or half."""
        return self.root.is_dir()

    @property
    def machines(self) -> Path:
        """LXC's path: a directory per machine."""
        return self.root / "machines"

    @property
    def homes(self) -> Path:
        """What the frontend and the nodes have as /home."""
        return self.root / "home"

    @property
    def images(self) -> Path:
        """What the nodes have as image directory."""
        return self.root / "images"

    @property
    def storage(self) -> Path:
        """A directory per node, its /var/lib/oar-lxc."""
        return self.root / "storage"

    def claim(self) -> None:
        """Make the directory ours."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)  # machines and images have programs that are set-user-id root
        self.write("owner", str(self.checkout))

    def check_owner(self) -> None:
        """Refuse to touch the sandbox of another checkout.

        Raises:
            SandboxError: it is another's.
        """
        if self.is_anothers and Path(self.owner).is_dir():
            raise SandboxError(
                f"the sandbox on this machine belongs to the checkout {self.owner}: use it from "
                "there, or remove it there with `oar-lxc sandbox down`"
            )

    @property
    def owner(self) -> str:
        """The checkout whose sandbox it is; empty where there is none."""
        owner = self.read("owner")
        return owner if isinstance(owner, str) else ""

    @property
    def is_anothers(self) -> bool:
        """Whether the sandbox is that of another checkout."""
        return self.owner not in ("", str(self.checkout))

    def read(self, name: str) -> object:
        """Return a fact; None where there is none."""
        try:
            value: object = json.loads((self.root / f"{name}.json").read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return value

    def write(self, name: str, value: object) -> None:
        """Keep a fact."""
        path = self.root / f"{name}.json"
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(value) + "\n")
        scratch.rename(path)

    def settings(self) -> Settings | None:
        """Return what the sandbox was last asked to be; None where there is none."""
        data = self.read("settings")
        try:
            return Settings(**data) if isinstance(data, dict) else None
        except TypeError:
            return None

    def keep(self, settings: Settings) -> None:
        """Keep what the sandbox is asked to be."""
        self.write("settings", asdict(settings))


@contextmanager
def locked(
    name: str, wait: bool = True, locks: Path = LOCKS, changing: str = "the sandbox"
) -> Iterator[None]:
    """Hold a lock that the kernel takes back when this process ends, however that happens.

    Args:
        name: of the lock.
        wait: for who holds it.
        locks: where it is.
        changing: what who holds it changes, for people.

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
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Who held it before has removed the file: then this is the lock of nobody.
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise SandboxError(
                f"another command is changing {changing}: wait until it has ended"
            ) from None
        os.close(handle)
