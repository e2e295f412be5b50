"""The ssh key of a job, by which its user gets into its containers: kept on its head node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.atomic import write_whole
from oar_lxc.model.layout import JobLayout

CLIENT = "id_ed25519"


@dataclass(frozen=True)
class JobKey:
    """A key pair of ed25519, the user's for this job.

    Args:
        directory: the user's private directory of the job on its head node.
    """

    directory: Path

    @classmethod
    def make(cls, layout: JobLayout, comment: str) -> JobKey:
        """Make it, unless it exists; one caller at a time.

        Raises:
            OarLxcError: it cannot be written.
        """
        key = cls(layout.private)
        from oar_lxc.linux.ed25519 import KeyPair  # who only reads a key need not wait for it

        try:
            if not (key.directory / CLIENT).exists():
                pair = KeyPair.make()
                write_whole(key.directory / f"{CLIENT}.pub", f"{pair.public} {comment}\n")
                write_whole(key.directory / CLIENT, pair.private(comment))
        except OSError as error:
            raise OarLxcError(f"cannot make keys in {key.directory}: {error.strerror}") from error
        return key

    def keep(self, data: Mapping[str, str]) -> None:
        """Keep on another node of the job what a client needs, as :meth:`to_client_data` has it.

        Args:
            data: of :meth:`to_data`, from the node that made the keys.

        Raises:
            OSError: it cannot be written.
        """
        write_whole(self.directory / CLIENT, data["client"])

    def to_data(self) -> dict[str, str]:
        """Return what containers need, as :class:`oar_lxc.container.layer.Skeleton` names it."""
        return {
            "client": (self.directory / CLIENT).read_text(),
            "authorized": (self.directory / f"{CLIENT}.pub").read_text(),
        }

    def to_client_data(self) -> dict[str, str]:
        """Return what a client of the job's containers needs: ``client``."""
        return {"client": (self.directory / CLIENT).read_text()}
