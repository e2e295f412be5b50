"""The ssh key of a job, with which the user logs in to the job's containers.

The head node makes the key pair. The job's other nodes get a copy of the private key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.atomic import write_atomic
from oar_lxc.model.layout import JobLayout


@dataclass(frozen=True)
class JobKey:
    """The ed25519 key pair that the user has for this job.

    Args:
        layout: the job's names.
    """

    layout: JobLayout

    @property
    def path(self) -> Path:
        """The file of the private key on this node."""
        return self.layout.ssh_key

    @property
    def _public(self) -> Path:
        return self.path.with_name(f"{self.path.name}.pub")

    @classmethod
    def make(cls, layout: JobLayout, comment: str) -> JobKey:
        """Make the key pair, unless it exists; the caller holds a lock.

        Raises:
            OarLxcError: the keys cannot be written.
        """
        key = cls(layout)
        from oar_lxc.linux.ed25519 import KeyPair  # slow to import, and not needed to read a key

        try:
            if not key.path.exists():
                pair = KeyPair.make()
                write_atomic(key._public, f"{pair.public} {comment}\n")
                write_atomic(key.path, pair.private(comment))
        except OSError as error:
            raise OarLxcError(f"cannot make keys in {layout.private}: {error.strerror}") from error
        return key

    def keep(self, data: Mapping[str, str]) -> None:
        """Write on another node of the job the key that :meth:`to_client_data` reads.

        Args:
            data: the result of :meth:`to_data` on the node that made the keys.

        Raises:
            OSError: the key cannot be written.
        """
        write_atomic(self.path, data["client"])

    def to_data(self) -> dict[str, str]:
        """Return the keys that containers need, as ``keys`` of a container's ``LayerFiles``.

        See :class:`oar_lxc.container.layer.LayerFiles`.
        """
        return {
            "client": self.path.read_text(),
            "authorized": self._public.read_text(),
        }

    def to_client_data(self) -> dict[str, str]:
        """Return the private key that a client of the job's containers needs, as ``client``."""
        return {"client": self.path.read_text()}
