"""The fake way to agents does what the real one does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.client.session import Session
from oar_lxc.model.job import Job
from oar_lxc.model.spec import Group
from tests.unit.fakes.remote import prepared_nodes
from tests.unit.remote_contract import RemoteContract, Ways

NODES = {"node1": 1, "node2": 1}


class TestFakeRemote(RemoteContract):
    @pytest.fixture
    def ways(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ways]:
        with prepared_nodes(tmp_path, monkeypatch, Job(42, "alice", NODES)) as remote:
            one_node = Job(42, "alice", {"node1": 1})
            with Session(Group(per_node=2), one_node):
                remote.unreachable = ["node2"]
                yield Ways(remote, "node1", "node2")
