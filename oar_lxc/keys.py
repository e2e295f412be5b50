"""The ssh keys of one job: made for it, kept on its head node, gone with it."""

from __future__ import annotations

import fcntl
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.layout import JobLayout
from oar_lxc.run import running

CLIENT = "id_ed25519"
HOST = "host_ed25519"
KEYGEN = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "")


@dataclass(frozen=True)
class JobKeys:
    """Two key pairs of ed25519: the user's for this job, and that of its containers' sshd.

    Args:
        directory: the user's private directory of the job on this node.
    """

    directory: Path

    @classmethod
    def make(cls, layout: JobLayout, comment: str) -> JobKeys:
        """Make both key pairs, unless they exist.

        Raises:
            CommandError: ssh-keygen failed.
            OarLxcError: they cannot be written.
        """
        keys = cls(layout.private)
        try:
            return keys._make(layout.lock, comment)
        except OSError as error:
            raise OarLxcError(f"cannot make keys in {keys.directory}: {error.strerror}") from error

    def _make(self, lock_file: Path, comment: str) -> JobKeys:
        with lock_file.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # scripts of one job may start at the same time
            with ExitStack() as stack:
                making = [
                    stack.enter_context(running([*KEYGEN, "-C", comment, "-f", str(path)]))
                    for path in (self.directory / CLIENT, self.directory / HOST)
                    if not path.exists()
                ]
                for program in making:
                    program.finish()
        return self

    def to_data(self) -> dict[str, str]:
        """Return what containers need, as :class:`oar_lxc.skeleton.Skeleton` names it."""
        return {
            "client": (self.directory / CLIENT).read_text(),
            "authorized": (self.directory / f"{CLIENT}.pub").read_text(),
            "host": (self.directory / HOST).read_text(),
            "host_public": (self.directory / f"{HOST}.pub").read_text(),
        }

    def to_client_data(self) -> dict[str, str]:
        """Return what a client of the job's containers needs: ``client`` and ``host_public``."""
        return {
            "client": (self.directory / CLIENT).read_text(),
            "host_public": (self.directory / f"{HOST}.pub").read_text(),
        }
