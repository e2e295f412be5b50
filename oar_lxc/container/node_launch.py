"""What the containers of one launch have in common on a node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from oar_lxc.linux.ed25519 import KeyPair
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.names import Peer
from oar_lxc.model.plan import PlannedContainer
from oar_lxc.model.published import PublishedJob


@dataclass(frozen=True)
class NodeLaunch:
    """What containers are made from, besides the plan of each.

    Attributes:
        layout: the job's names.
        published: what root says of this node.
        session: the token of the session that the containers belong to; see
            :func:`oar_lxc.model.description.containers_of`.
        images: the root directory of each image, by its name.
        keys: ``authorized`` (the job's public key) and ``client`` (its private key).
        host_keys: the ssh host key of each container of this node, by the container's name.
        names: how others know each container of the job, by its name.
        cores: how many cores OAR reserved on this node; 0 if not known.
        variables: environment variables of the job, for logins and commands in containers.
        nodefile: text of the file that ``OAR_LXC_NODEFILE`` names inside.
        link_files: for each container with emulation, texts of files in its directory, by name.
    """

    layout: JobLayout
    published: PublishedJob
    session: str
    images: Mapping[str, Path]
    keys: Mapping[str, str]
    host_keys: Mapping[str, KeyPair]
    names: Mapping[str, Peer]
    cores: int = 0
    variables: Mapping[str, str] = field(default_factory=dict)
    nodefile: str = ""
    link_files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def layers(self) -> Path:
        """The directory with the layers of the session's groups."""
        return self.layout.layers(self.session)

    def rootfs(self, planned: PlannedContainer) -> Path:
        """Return the root directory of a container's image."""
        return self.images[planned.image]

    def directory(self, planned: PlannedContainer) -> Path:
        """Return a container's own directory."""
        return self.layout.containers / planned.name
