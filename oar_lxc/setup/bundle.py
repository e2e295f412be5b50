"""The bundle: a tar file of secrets, with which other machines join the server's cluster."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path

from oar_lxc.setup.steps import SetupError

BUNDLE = Path("/etc/oar-lxc/bundle.tar")
_MEMBER = "bundle.json"
_FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """The settings and keys that the machines of a cluster share.

    Attributes:
        server: the OAR server's host name.
        database: the ``DB_*`` keys that ``oar.conf`` has on the other machines.
        cpuset_path: ``CPUSET_PATH``; empty if OAR's cpuset is off.
        prepare: the hook that prepares nodes, ``stanza`` or ``prologue``.
        oar_private: user oar's private key.
        oar_public: its public half.
        host_private: the private host key of OAR's sshd, port 6667, on every node.
        host_public: its public half.
    """

    server: str
    database: dict[str, str]
    cpuset_path: str
    prepare: str
    oar_private: str
    oar_public: str
    host_private: str
    host_public: str

    def to_bytes(self) -> bytes:
        """Return the bytes of the tar file; equal bundles give equal bytes."""
        data = json.dumps({"format": _FORMAT, **asdict(self)}, indent=1).encode()
        info = tarfile.TarInfo(_MEMBER)
        info.size, info.mode = len(data), 0o600
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            archive.addfile(info, io.BytesIO(data))
        return buffer.getvalue()

    @classmethod
    def read(cls, path: Path) -> Bundle:
        """Read a bundle.

        Raises:
            SetupError: there is no such file, or it is not a bundle.
        """
        try:
            with tarfile.open(path, "r:") as archive:
                member = archive.extractfile(_MEMBER)
                data = json.loads(member.read() if member else b"{}")
            if data.pop("format") != _FORMAT:
                raise SetupError(
                    f"{path} was made by another version of oar-lxc: run `oar-lxc setup server` "
                    "again and copy the new bundle"
                )
            return cls(**data)
        except FileNotFoundError:
            raise SetupError(
                f"{path} does not exist: copy {BUNDLE} from the OAR server, which "
                "`oar-lxc setup server` makes, and give its place with --bundle"
            ) from None
        except (
            OSError,
            tarfile.TarError,
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:
            raise SetupError(f"{path} is no bundle of oar-lxc: {error}") from error
