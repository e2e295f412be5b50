"""The ssh keys of one job: made for it, kept on its head node, gone with it."""

from __future__ import annotations

import base64
import fcntl
import os
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.layout import JobLayout
from oar_lxc.run import running

CLIENT = "id_ed25519"
HOST = "host_ed25519"
_OPENSSH = b"openssh-key-v1\0"
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

    def keep(self, data: Mapping[str, str]) -> None:
        """Keep on another node of the job what a client needs, as :meth:`to_client_data` has it.

        Args:
            data: of :meth:`to_data`, from the node that made the keys.

        Raises:
            OSError: it cannot be written.
        """
        for name, key in ((CLIENT, "client"), (f"{HOST}.pub", "host_public")):
            new = self.directory / f".{name}.new"
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(data[key])
            new.replace(self.directory / name)

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


def in_dropbear_form(openssh: str) -> bytes:
    """Return a private key of ed25519 as dropbear keeps its host keys.

    Source: OpenSSH's PROTOCOL.key, and signkey.c of dropbear.

    Args:
        openssh: the key as ssh-keygen writes it, without a passphrase.

    Raises:
        OarLxcError: it is no such key.
    """
    try:
        return _in_dropbear_form(openssh)
    except ValueError as error:
        raise OarLxcError(
            f"the job's host key cannot be used ({error}): remove {HOST} and {HOST}.pub in the "
            "job's private directory on its first node"
        ) from error


def _in_dropbear_form(openssh: str) -> bytes:
    body = "".join(line for line in openssh.splitlines() if not line.startswith("-----"))
    data = base64.b64decode(body, validate=True)
    if not data.startswith(_OPENSSH):
        raise ValueError("it is not in OpenSSH's form")
    cipher, rest = _string(data[len(_OPENSSH) :])
    if cipher != b"none":
        raise ValueError("it is not of ed25519 without a passphrase")
    _, rest = _string(rest)  # how a passphrase becomes a key,
    _, rest = _string(rest)  # and its options
    _, rest = _string(rest[4:])  # the public key, after the number of keys
    private, _ = _string(rest)
    kind, rest = _string(private[8:])  # after a number that is there twice
    if kind != b"ssh-ed25519":
        raise ValueError("it is not of ed25519 without a passphrase")
    _, rest = _string(rest)  # the public key again
    secret, _ = _string(rest)  # the seed, and the public key once more
    return b"".join(struct.pack(">I", len(part)) + part for part in (kind, secret))


def _string(data: bytes) -> tuple[bytes, bytes]:
    """Return the first string of what ssh writes one after the other, and what follows it."""
    if len(data) < 4 or len(data) < (end := 4 + struct.unpack(">I", data[:4])[0]):
        raise ValueError("it ends in the middle")
    return data[4:end], data[end:]
