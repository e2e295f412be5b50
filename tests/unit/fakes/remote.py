"""The way to the agents of nodes that are all here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from oar_lxc.agent.main import carry_out, read_request
from oar_lxc.client import session
from oar_lxc.errors import NodeError, OarLxcError
from oar_lxc.model import events, requests, wire
from oar_lxc.model.job import Job
from oar_lxc.model.layout import JobLayout
from oar_lxc.remote.agents import LateRequest, OnEvent, Remote
from tests.unit.fakes.node import FakeNode, stay_oneself
from tests.unit.fakes.programs import wait_until


class FakeRemote(Remote):
    """The way to the agents of fake nodes, with lines between as on the real one.

    Args:
        nodes: the nodes by name.
        local: the one that the caller is on, empty on a frontend.
        unreachable: names of those that do not answer.
    """

    def __init__(
        self, nodes: Mapping[str, FakeNode], local: str = "", unreachable: Sequence[str] = ()
    ) -> None:
        super().__init__(next(iter(nodes.values())).layout.job_id, tuple(nodes), local)
        self.by_name = dict(nodes)
        self.unreachable = list(unreachable)

    def call(
        self,
        request: requests.Request | LateRequest,
        on_event: OnEvent,
        nodes: Sequence[str] | None = None,
    ) -> list[NodeError]:
        failures = []
        asked = request.make() if isinstance(request, LateRequest) else request
        line = wire.encode(asked).decode()
        for name in self.nodes if nodes is None else nodes:
            if name in self.unreachable:
                failures.append(NodeError(name, "it cannot be reached: ssh: No route to host"))
                continue
            node = self.by_name[name]

            def emit(event: events.Event, name: str = name) -> None:
                told = wire.decode(wire.encode(event), wire.EVENTS)
                assert told is not None
                on_event(name, told)

            try:
                carry_out(node.on(emit), read_request(asked.kind, line))
            except OarLxcError as error:
                failures.append(NodeError(name, str(error)))
        return failures

    def running(self) -> list[str]:
        """Return the names of all containers that run on any node."""
        return sorted(name for node in self.by_name.values() for name in node.runtime.running())

    def close(self) -> None:
        """Kill whatever a test left."""
        for node in self.by_name.values():
            node.runtime.close()


@contextmanager
def prepared_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Job
) -> Iterator[FakeRemote]:
    """Give a job prepared nodes; sessions of it are on the first, and reach the others."""
    stay_oneself(monkeypatch)
    nodes = {name: FakeNode(tmp_path / name, name, job.nodes, job.id) for name in job.nodes}
    remote = FakeRemote(nodes, job.nodes[0])
    state = tmp_path / remote.local
    monkeypatch.setattr(session, "JobLayout", lambda job_id: JobLayout(job_id, state))
    monkeypatch.setattr(session, "Remote", lambda job_id, names, local: remote)
    # Their cgroups are plain directories, in which no files of limits come to be.
    monkeypatch.setattr(
        "oar_lxc.container.create.make_limit_cgroups", lambda paths, name, limits: None
    )
    try:
        yield remote
    finally:
        remote.close()


def told_in_the_meantime(
    remote: FakeRemote, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Let each call wait until something is on standard error; return what was, as it comes."""
    said: list[str] = []
    call = remote.call

    def waited() -> bool:
        said.append(capsys.readouterr().err)
        return any(said)

    def slow(*arguments: Any) -> list[NodeError]:
        assert wait_until(waited)
        return call(*arguments)

    monkeypatch.setattr(remote, "call", slow)
    return said
