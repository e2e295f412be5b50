"""The commands that make a job's networks on a node."""

from __future__ import annotations

from oar_lxc.container.segments import Underlay, devices_text, entries_text
from oar_lxc.model.job import Job
from oar_lxc.model.networks import Membership, Network
from oar_lxc.model.plan import make_plan
from oar_lxc.model.spec import Group, Spec

SPEC = Spec(
    (Group(name="p", networks=(Membership("left"), Membership("right"))),),
    networks=(Network("left"), Network("right")),
)
PLAN = make_plan(SPEC, Job(42, "alice", {"node1": 1, "node2": 1, "node3": 1}))
ADDRESSES = {"node1": "100.65.80.1", "node2": "100.65.80.2", "node3": "100.65.80.3"}
HERE = Underlay("node1", ADDRESSES)


def test_each_network_has_a_bridge_and_a_vxlan_by_its_number() -> None:
    lines = devices_text(PLAN.networks[:1], HERE).splitlines()
    assert lines == [
        "address replace 100.65.80.1/21 dev br0",
        "link add name n1 mtu 1400 type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
        "link add name x1 mtu 1400 type vxlan id 1 dstport 290 local 100.65.80.1 dev br0 "
        "nolearning",
        "link set dev x1 addrgenmode none",
        "link set dev x1 master n1 up",
        "link set dev n1 addrgenmode none",
        "link set dev n1 up",
    ]


def test_what_is_there_is_not_made_again() -> None:
    lines = devices_text(PLAN.networks, HERE, {"n1", "x1", "n2", "x2"}).splitlines()
    assert lines == ["address replace 100.65.80.1/21 dev br0"]
    assert "n1" not in devices_text(PLAN.networks, HERE, {"n1", "x1"})


def test_a_job_of_one_node_needs_no_vxlan() -> None:
    alone = Underlay("node1", {"node1": "100.65.80.1"})
    assert "vxlan" not in devices_text(PLAN.networks, alone)
    assert entries_text(PLAN.networks, alone, PLAN.on("node1")) == ""


def test_all_nodes_are_flooded_and_members_elsewhere_are_known() -> None:
    lines = entries_text(PLAN.networks[:1], HERE, PLAN.containers).splitlines()
    assert lines == [
        "fdb append 00:00:00:00:00:00 dev x1 dst 100.65.80.2 self permanent",
        "fdb append 00:00:00:00:00:00 dev x1 dst 100.65.80.3 self permanent",
        "fdb replace 02:6d:0a:01:00:02 dev x1 dst 100.65.80.2 self permanent",
        "fdb replace 02:6d:0a:01:00:03 dev x1 dst 100.65.80.3 self permanent",
    ]
