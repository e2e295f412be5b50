"""Starting, stopping and freezing single containers, and what is told of one, on a fake node."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oar_lxc.agent.times import read_times
from oar_lxc.errors import OarLxcError
from oar_lxc.model import events, requests, wire
from oar_lxc.model.layout import DESCRIPTION_FILE
from tests.unit.fakes.node import FakeNode
from tests.unit.fakes.programs import alive


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    """Return a node with containers vm1 and vm2, which run, and vm3, which was not started."""
    node = FakeNode(tmp_path / "node1")
    for name in ("vm1", "vm2", "vm3"):
        (node.layout.containers / name).mkdir()
        (node.layout.containers / name / "config").write_text("")
        (node.layout.containers / name / "session").write_text("s1")
    node.runtime.start("vm1")
    node.runtime.start("vm2")
    yield node
    node.runtime.close()


def control(
    node: FakeNode, operation: str, *names: str, timeout: float = 5
) -> dict[str, events.Event]:
    """Run an operation; return its events by container."""
    more = {"timeout": timeout} if operation in ("stop", "restart") else {}
    cls: Callable[..., requests.Request] = wire.REQUESTS[operation]
    request = cls(names or None, **more)
    return {event["container"]: event for event in node.run(request)}


def test_stop_ends_those_that_are_named_and_no_other(node: FakeNode) -> None:
    told = control(node, "stop", "vm1", "vm3")
    assert told["vm1"] == events.Changed("vm1", "STOPPED", "RUNNING", killed=False)
    assert told["vm3"]["was"] == "STOPPED"
    assert node.runtime.running() == ["vm2"]


def test_stop_without_names_ends_all(node: FakeNode) -> None:
    assert sorted(control(node, "stop")) == ["vm1", "vm2", "vm3"]
    assert node.runtime.running() == []


def test_stop_kills_those_that_do_not_end_and_tells_so(node: FakeNode) -> None:
    node.runtime.stubborn = ["vm1"]
    told = control(node, "stop", "vm1", "vm2")
    assert (told["vm1"]["state"], told["vm1"]["killed"]) == ("STOPPED", True)
    assert not told["vm2"]["killed"]
    assert node.runtime.running() == []


def test_stop_at_once_does_not_ask(node: FakeNode) -> None:
    node.runtime.stubborn = ["vm1"]
    assert not control(node, "stop", "vm1", timeout=0)["vm1"]["killed"]
    assert node.runtime.running() == ["vm2"]


@pytest.mark.parametrize("timeout", [0, 5])
def test_a_frozen_container_can_be_stopped(node: FakeNode, timeout: float) -> None:
    node.runtime.freeze("vm1")
    assert control(node, "stop", "vm1", timeout=timeout)["vm1"]["was"] == "FROZEN"
    assert node.runtime.state("vm1") == "STOPPED"


def test_what_survives_sigkill_is_a_failure(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.runtime.immortal = ["vm1"]
    told = control(node, "stop", "vm1", "vm2", timeout=0)
    assert told["vm1"]["event"] == "failed"
    assert "SIGKILL" in told["vm1"]["reason"]
    assert told["vm2"]["state"] == "STOPPED"


def test_start_starts_what_is_stopped_and_keeps_when_that_was(node: FakeNode) -> None:
    pid = node.runtime.init_pid("vm1")
    told = control(node, "start", "vm1", "vm3")
    assert (told["vm1"]["was"], told["vm3"]["was"]) == ("RUNNING", "STOPPED")
    assert node.runtime.init_pid("vm1") == pid
    assert read_times(node.layout)["vm3"]["start_seconds"] >= 0


def test_start_enters_the_jobs_cgroups_first(node: FakeNode) -> None:
    control(node, "start", "vm3")
    assert (node.cgroup / "cgroup.procs").read_text() == str(os.getpid())


def test_a_container_that_does_not_start_is_told_with_the_log(node: FakeNode) -> None:
    node.runtime.broken = {"vm3": ["ERROR start - no init"]}
    event = control(node, "start", "vm3")["vm3"]
    assert event == events.Failed("vm3", "LXC could not start it", ("ERROR start - no init",))


def test_restart_gives_a_new_init(node: FakeNode) -> None:
    pid = node.runtime.init_pid("vm1")
    event = control(node, "restart", "vm1")["vm1"]
    assert (event["state"], event["was"]) == ("RUNNING", "STOPPED")
    assert not alive(pid)
    assert node.runtime.init_pid("vm1") not in (-1, pid)


def test_freeze_and_unfreeze_may_be_repeated(node: FakeNode) -> None:
    assert control(node, "freeze", "vm1")["vm1"]["state"] == "FROZEN"
    assert control(node, "freeze", "vm1")["vm1"]["was"] == "FROZEN"
    assert control(node, "unfreeze", "vm1")["vm1"]["state"] == "RUNNING"
    assert control(node, "unfreeze", "vm1")["vm1"]["was"] == "RUNNING"


@pytest.mark.parametrize("operation", ["freeze", "unfreeze"])
def test_what_is_stopped_is_neither_frozen_nor_thawed(node: FakeNode, operation: str) -> None:
    event = control(node, operation, "vm3", "vm1")["vm3"]
    assert event["event"] == "failed"
    assert event["reason"].startswith("it is STOPPED, not ")


def test_names_of_other_nodes_are_not_ours(node: FakeNode) -> None:
    assert control(node, "stop", "vm9") == {}
    assert node.runtime.running() == ["vm1", "vm2"]


def test_a_frozen_container_is_destroyed_with_its_session(node: FakeNode) -> None:
    node.runtime.freeze("vm1")
    for name in ("vm1", "vm2", "vm3"):
        (node.layout.containers / name / DESCRIPTION_FILE).write_text('{"session": "s1"}')
    told = node.run(requests.Destroy("s1"))
    assert {event["event"] for event in told} == {"gone"}
    assert node.runtime.running() == []


def test_who_may_not_enter_the_cgroups_changes_nothing(node: FakeNode) -> None:
    for path in node.cgroup.iterdir():
        path.unlink()
    node.cgroup.rmdir()
    with pytest.raises(OarLxcError, match="cannot enter cgroup"):
        control(node, "stop")
    assert node.runtime.running() == ["vm1", "vm2"]


def show(node: FakeNode, name: str) -> events.Event:
    (event,) = node.run(requests.Show((name, "vm9")))
    return event


def test_a_stopped_container_is_shown_by_what_was_planned(node: FakeNode) -> None:
    record = {"group": "web", "image": "debian-12:old", "cores": 2, "ports": []}
    (node.layout.containers / "vm3" / DESCRIPTION_FILE).write_text(json.dumps(record))
    shown = show(node, "vm3")
    assert (shown["group"], shown["image"], shown["cores"]) == ("web", "debian-12:old", 2)
    assert (shown["state"], shown["node"], shown["pid"]) == ("STOPPED", "node1", 0)
    assert shown["memory"] is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"group": 3}', '{"ports": [3]}'])
def test_a_damaged_record_is_no_obstacle(node: FakeNode, text: str) -> None:
    (node.layout.containers / "vm1" / DESCRIPTION_FILE).write_text(text)
    assert show(node, "vm1")["state"] == "RUNNING"


def test_a_running_container_is_shown_by_its_cgroups(node: FakeNode) -> None:
    payload = node.cgroup / "vm1"
    (payload / "lxc/init.scope").mkdir(parents=True)
    for name, text in {
        "memory.usage_in_bytes": "1048576",
        "memory.limit_in_bytes": "9223372036854771712",
        "pids.current": "7",
        "pids.max": "100",
        "cpuacct.usage": "1500000000",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1",
        "lxc/init.scope/memory.oom_control": "oom_kill 2",
    }.items():
        (payload / name).write_text(text + "\n")
    shown = show(node, "vm1")
    assert shown["pid"] == node.runtime.init_pid("vm1")
    assert (shown["memory"], shown["memory_limit"]) == (1 << 20, 0)
    assert (shown["processes"], shown["processes_limit"]) == (7, 100)
    assert (shown["cpu_seconds"], shown["oom_kills"]) == (1.5, 3)
    assert shown["started"] > 1.5e9


def test_cgroups_of_version_2_are_read_too(node: FakeNode) -> None:
    payload = node.cgroup / "vm1"
    (payload / "lxc/init.scope").mkdir(parents=True)
    (payload / "memory.max").write_text("max\n")
    (payload / "memory.current").write_text("42\n")
    (payload / "memory.events").write_text("oom 5\noom_kill 4\n")
    (payload / "lxc/init.scope/memory.events").write_text("oom_kill 4\n")  # counted above already
    shown = show(node, "vm1")
    assert (shown["memory"], shown["memory_limit"], shown["oom_kills"]) == (42, 0, 4)
