"""A node whose agent runs in the test's own process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from oar_lxc.agent.main import carry_out
from oar_lxc.agent.node import OnNode
from oar_lxc.container.job_namespaces import JobNamespaces
from oar_lxc.linux.ed25519 import KeyPair
from oar_lxc.model import events, requests
from oar_lxc.model.addresses import JobNetwork
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.published import READY, PublishedJob
from tests.unit.fakes.runtime import IMAGE, FakeRuntime

KEYS = {"authorized": "ssh-ed25519 USER\n", "client": "CLIENT KEY\n"}


HOST_KEY = KeyPair(bytes(64))


def stay_oneself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs that should be the containers' root be run by who runs the tests."""
    monkeypatch.setattr(JobNamespaces, "become_root", lambda self: None)


class FakeNode:
    """A node that is prepared for a job, below a temporary directory.

    Args:
        path: where its files go.
        name: its name.
        nodes: names of all nodes of the job.
        job_id: the job.
        user: the job's user.
    """

    def __init__(
        self,
        path: Path,
        name: str = "node1",
        nodes: Sequence[str] = ("node1",),
        job_id: int = 42,
        user: str = "alice",
    ) -> None:
        self.layout = JobLayout(job_id, path)
        for directory in (self.layout.images / IMAGE / "rootfs", self.layout.containers):
            directory.mkdir(parents=True)
        self.layout.private.mkdir(mode=0o700)
        self.cgroup = path / "cgroup"
        self.cgroup.mkdir()
        network = JobNetwork.of(job_id, nodes)
        self.published = PublishedJob(
            job_id=job_id,
            user=user,
            node=name,
            nodes=network.nodes,
            state=READY,
            first_id=0x70000000,
            id_count=65536,
            cgroups=(str(self.cgroup),),
            bridge=self.layout.bridge,
            gateway=str(network.node_address(name)),
            namespaces=True,
        )
        self.layout.published.write_text(self.published.to_json())
        self.runtime = FakeRuntime(self.layout.containers, name)

    def on(self, emit: Callable[[events.Event], None]) -> OnNode:
        """Return what the agent of this node acts on."""
        return OnNode(self.layout, self.published, self.runtime, emit)

    def run(self, request: requests.Request) -> list[events.Event]:
        """Have the agent carry out a request; return its events."""
        told: list[events.Event] = []
        carry_out(self.on(told.append), request)
        return told

    def files(self) -> list[str]:
        """Return all that is in the directory of containers."""
        return sorted(str(p.relative_to(self.layout.containers)) for p in self._below())

    def _below(self) -> Iterator[Path]:
        return self.layout.containers.rglob("*")
