"""What a node does for the networks of a job, by the programs that it runs for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oar_lxc.agent.membership import join_networks, leave_networks
from oar_lxc.agent.networks import join, leave
from oar_lxc.errors import ContainerError, OarLxcError, SpecError
from oar_lxc.model import events, requests
from oar_lxc.model.job import Job
from oar_lxc.model.layout import outer_device
from oar_lxc.model.links import Link
from oar_lxc.model.names import Peer
from oar_lxc.model.networks import Main, Membership, Network
from oar_lxc.model.plan import Plan, make_plan
from oar_lxc.model.spec import Group, Spec
from tests.unit.fakes.node import FakeNode

NODES = ("node1", "node2")
JOB = Job(42, "alice", {"node1": 2, "node2": 2})
LEFT = (Membership("left"),)


def plan(*links: Link, name: str = "p", others: Plan | None = None) -> Plan:
    spec = Spec(
        (Group(name=name, per_node=1, networks=LEFT),), networks=(Network("left"),), links=links
    )
    known: dict[str, Any] = {}
    if others:
        known = {"others": others.containers, "networks": others.networks}
    return make_plan(spec, JOB, **known)


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return FakeNode(tmp_path, "node1", NODES)


def joined(node: FakeNode, made: Plan, session: str = "s1") -> dict[str, dict[str, str]]:
    return join(node.on(lambda event: None), session, made)


def ran(node: FakeNode, *argv: str) -> list[str]:
    """Return what was read by each run of a program."""
    return [text for words, text in node.runtime.ran if words[: len(argv)] == argv]


def make(node: FakeNode, *names: str) -> None:
    """Let containers run."""
    for name in names:
        directory = node.layout.containers / name
        directory.mkdir()
        (directory / "config").write_text("")
        node.runtime.start(name)


def test_a_job_without_networks_pays_nothing(node: FakeNode) -> None:
    made = make_plan(Group(), JOB)
    assert not made.needs_networks
    names = {"s1": {c.name: Peer(c.ip, "k") for c in made.containers}}
    request = requests.Launch(made, {}, {}, names, "s1", "running", 1.0)
    assert join_networks(node.on(lambda event: None), request) == {}
    leave_networks(node.on(lambda event: None), "s1")
    assert node.runtime.ran == []
    assert not node.layout.networks.exists()


def test_networks_are_made_and_files_set_links_up(node: FakeNode) -> None:
    files = joined(node, plan(Link("left", "p1", "p2", rate="1Mbit")))
    assert "link add name n1" in ran(node, "ip", "-batch")[0]
    assert "dst 100.65.87.253 self permanent" in ran(node, "bridge", "-batch")[0]
    assert [*files] == ["p1"]
    assert files["p1"]["links.0"] == ""
    assert "htb rate 1000000bit" in files["p1"]["links.1"]
    assert ran(node, "tc", "-batch") == []  # no container runs yet


def test_what_the_kernel_lacks_is_refused_before_anything_is_made(node: FakeNode) -> None:
    node.runtime.lacking = ("netem",)
    with pytest.raises(SpecError) as caught:
        joined(node, plan(Link("left", "p1", delay="1ms")))
    assert str(caught.value) == (
        "link 1: delay: the kernel of node1 has no netem (modprobe sch_netem)"
    )
    assert ran(node, "ip", "-batch") == []
    assert not node.layout.networks.exists()


def test_links_of_another_session_reach_containers_that_run(node: FakeNode) -> None:
    first = plan()
    joined(node, first)
    make(node, "p1")
    second = plan(Link("left", "*", "*", rate="1Mbit"), name="q", others=first)
    joined(node, second, "s2")
    (text,) = ran(node, "tc", "-batch")
    device = outer_device(first.containers[0].ip, 1)
    assert f"qdisc add dev {device} root handle 1: htb" in text
    leave(node.on(lambda event: None), "s2")
    assert ran(node, "tc", "-batch")[1] == f"qdisc del dev {device} root\n"


def test_links_change_for_running_containers_and_for_their_next_start(node: FakeNode) -> None:
    joined(node, plan())
    make(node, "p1")
    table: dict[str, str | bool]
    table = {"network": "left", "from": "p1", "to": "p2", "rate": "1Mbit", "both": True}
    (told, *_) = node.run(requests.Emulate((table,)))
    assert told == events.Emulated(1)
    assert len(ran(node, "tc", "-batch")) == 1
    script = node.layout.containers / "p1" / "links.1"
    assert "htb rate 1000000bit" in script.read_text()
    node.run(requests.Emulate(({**table, "rate": "2Mbit"},)))
    assert "rate 2000000bit" in ran(node, "tc", "-batch")[1]
    assert "qdisc add" not in ran(node, "tc", "-batch")[1]
    (state,) = node.run(requests.Networks())
    assert isinstance(state, events.NetworksHere)
    assert state.plan.links == (Link("left", "p1", "p2", rate="2Mbit"),)  # not both
    assert state.running == ("p1",)


def test_a_link_that_is_wrong_changes_nothing(node: FakeNode) -> None:
    joined(node, plan())
    make(node, "p1")
    with pytest.raises(SpecError, match="link 1: network is right, and p1 is not in it"):
        node.run(requests.Emulate(({"network": "right", "from": "p1", "rate": "1Mbit"},)))
    assert ran(node, "tc", "-batch") == []


def test_a_cable_is_that_of_an_interface(node: FakeNode) -> None:
    made = plan()
    joined(node, made)
    device = outer_device(made.containers[0].ip, 1)
    assert node.run(requests.Plug(("p1",), "left", False)) == [events.Plugged("p1", "left", False)]
    assert node.runtime.ran[-1][0] == ("ip", "link", "set", "dev", device, "down")
    (failed,) = node.run(requests.Plug(("p1",), "right", True))
    assert isinstance(failed, events.Failed)
    assert failed.reason == "it is not in network right"
    assert (
        str(ContainerError("p1", "", failed.reason)) == "container p1: it is not in network right"
    )
    assert node.run(requests.Plug(("p2",), "left", True)) == []  # of another node


def test_who_has_no_internet_is_told_to_the_filter(node: FakeNode) -> None:
    made = make_plan(Spec((Group(),), main=Main(internet=False)), JOB)
    assert joined(node, made) == {}
    (rules, *_) = ran(node, "nft", "-f")
    assert f'iifname {{ "{outer_device(made.containers[0].ip, 0)}" }} ip daddr !=' in rules


def test_the_end_of_a_session_removes_its_devices(node: FakeNode) -> None:
    made = plan(Link("left", "p1", rate="1Mbit"))
    joined(node, made)
    leave(node.on(lambda event: None), None)
    (text,) = ran(node, "ip", "-force")
    assert f"link del dev u1-{outer_device(made.containers[0].ip, 1)[3:]}\n" in text
    assert "vmap" not in ran(node, "nft", "-f")[-1]
    leave(node.on(lambda event: None), None)  # again


def test_a_damaged_file_is_named(node: FakeNode) -> None:
    node.layout.networks.write_text("{")
    with pytest.raises(OarLxcError, match=r"networks\.json is damaged: end the job's containers"):
        joined(node, plan())
