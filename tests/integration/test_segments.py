"""Networks of a job and links in them, by the devices and rules of the kernel."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from oar_lxc.container.links import lacking
from oar_lxc.container.segments import Underlay, make_segments
from oar_lxc.errors import CommandError
from oar_lxc.model.addresses import JobNetwork
from oar_lxc.model.links import Link
from oar_lxc.model.names import MAIN
from oar_lxc.model.networks import Main, Membership, Network
from oar_lxc.model.spec import Group, Spec
from oar_lxc.model.specfile import read_spec
from tests.integration.segments import Cluster, cluster_of, qdiscs, rate
from tests.pretend import checkout

SUBNET = "192.168.100.0/24"


def group(name: str, *networks: str, main: bool = False, **keys: object) -> Group:
    memberships = tuple(Membership.parse(network) for network in networks)
    return Group(**{"name": name, "total": 2, "networks": memberships, "main": main, **keys})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def overlapping() -> Iterator[Cluster]:
    """Two networks with the same subnet over two nodes, and a member of each on each."""
    spec = Spec(
        (group("p", "left:192.168.100.1"), group("q", "right:192.168.100.2")),
        networks=(Network("left", SUBNET, ipv6=True), Network("right", SUBNET)),
    )
    with cluster_of(spec) as cluster:
        yield cluster


def test_members_reach_each_other_over_nodes_and_nobody_else(overlapping: Cluster) -> None:
    nodes = {c.name: c.node for c in overlapping.plan.containers}
    assert nodes["p1"] != nodes["p2"]
    assert overlapping.reaches("p1", overlapping.ip("p2", "left"))
    assert overlapping.reaches("q2", overlapping.ip("q1", "right"))
    # 192.168.100.3 is q2 in the other network, and nobody in p1's.
    assert overlapping.ip("q2", "right") == "192.168.100.3"
    assert not overlapping.reaches("p1", "192.168.100.3", 1)
    assert not overlapping.reaches("q2", "192.168.100.1", 1)


def test_ipv6_reaches_members_over_nodes(overlapping: Cluster) -> None:
    (p2,) = (c for c in overlapping.plan.containers if c.name == "p2")
    assert overlapping.reaches("p1", p2.interfaces[0].ips[1])


def test_entries_never_expire_and_nothing_is_learned(overlapping: Cluster) -> None:
    overlapping.reaches("p1", overlapping.ip("p2", "left"))
    shown = overlapping.inside("node1", "bridge", "-json", "fdb", "show", "dev", "x1").stdout
    entries = [e for e in json.loads(shown) if "self" in e["flags"]]
    assert {e["mac"] for e in entries} == {"00:00:00:00:00:00", "02:6d:c0:a8:64:02"}
    assert {e["state"] for e in entries} == {"permanent"}


def test_an_address_that_is_not_in_the_plan_is_flooded(overlapping: Cluster) -> None:
    """As of a container inside a container."""
    overlapping.inside("p2", "ip", "link", "set", "eth1", "address", "02:00:00:00:00:99")
    overlapping.inside("p1", "ip", "neigh", "flush", "dev", "eth1")
    try:
        assert overlapping.reaches("p1", overlapping.ip("p2", "left"))
    finally:
        overlapping.inside("p2", "ip", "link", "set", "eth1", "address", "02:6d:c0:a8:64:02")
        overlapping.inside("p1", "ip", "neigh", "flush", "dev", "eth1")


def test_networks_are_made_again_without_harm(overlapping: Cluster) -> None:
    plan = overlapping.plan
    more = (*plan.networks, replace(plan.networks[0], name="third", number=3))
    for _ in range(2):
        underlay = Underlay("node1", JobNetwork.of(plan.job_id, ["node1", "node2"]).underlay)
        make_segments(overlapping.on("node1"), more, underlay, plan.containers)
    shown = overlapping.inside("node1", "ip", "-br", "link", "show", "type", "vxlan").stdout
    assert [line.split()[0] for line in shown.splitlines()] == ["x1", "x2", "x3"]
    assert overlapping.reaches("p1", overlapping.ip("p2", "left"))


def test_a_container_of_the_main_network_cannot_send_into_another() -> None:
    spec = Spec(
        (group("p", "left"), Group(name="vm", total=2)), networks=(Network("left", SUBNET),)
    )
    # A VXLAN packet with a broadcast to everybody in "left", as p1's node would send it.
    inner = "ff" * 6 + "020000000001" + "88b5" + "41" * 50
    script = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"s.sendto(bytes.fromhex('0800000000000100' + '{inner}'), (sys.argv[1], 290))"
    )
    with cluster_of(spec) as cluster:
        nodes = {c.name: c.node for c in cluster.plan.containers}
        vm = next(name for name in ("vm1", "vm2") if nodes[name] == nodes["p1"])
        far = next(name for name in ("vm1", "vm2") if nodes[name] != nodes["p1"])
        address = cluster.inside(
            nodes["p1"], "ip", "-j", "-4", "addr", "show", "dev", "br0"
        ).stdout
        underlay = json.loads(address)[0]["addr_info"][0]["local"]
        assert cluster.reaches(vm, underlay)
        argv = [
            *cluster.entering("p1"),
            "tcpdump",
            "-lnc",
            "1",
            "-i",
            "eth1",
            "ether",
            "proto",
            "0x88b5",
        ]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watch:
            try:
                assert watch.stderr is not None
                while b"listening" not in watch.stderr.readline():
                    pass
                for name in (vm, far):
                    cluster.inside(name, "/usr/bin/python3", "-c", script, underlay)
                cluster.reaches("p1", cluster.ip("p2", "left"))  # what was sent has come by now
                assert watch.poll() is None
                # The same from the other node itself comes: the test would see it.
                other = next(node for node in ("node1", "node2") if node != nodes["p1"])
                cluster.inside(other, "/usr/bin/python3", "-c", script, underlay)
                assert watch.wait(10) == 0
            finally:
                watch.kill()


@pytest.fixture(scope="module")
def routed() -> Iterator[Cluster]:
    """Two networks with a router between them, over two nodes."""
    spec = Spec(
        (
            group("p", "left"),
            group("q", "right"),
            group("router", "left:10.1.0.1", "right:10.2.0.1", total=1, forward=True),
        ),
        networks=(Network("left"), Network("right")),
    )
    with cluster_of(spec) as cluster:
        yield cluster


def test_a_router_joins_two_networks(routed: Cluster) -> None:
    for name, network in (("p1", "left"), ("p2", "left"), ("q1", "right"), ("q2", "right")):
        for other, there in (
            ("q1", "right"),
            ("q2", "right"),
            ("p1", "left"),
            ("router1", "left"),
        ):
            assert routed.reaches(name, routed.ip(other, there)), f"{name} ({network}) to {other}"


EXAMPLES = checkout() / "jobscripts/networks"
# Example → whom each container reaches, by ping and TCP, at all addresses that it has.
REACH = {
    "two_vms_two_vlans": {"a1": "", "b1": ""},
    "four_vms_two_vlans": {"a1": "a2", "a2": "a1", "b1": "b2", "b2": "b1"},
    "four_vms_two_bridges": {
        "a1": "a2 a2.main b1.main b2.main",
        "a2": "a1 a1.main b1.main b2.main",
        "b1": "b2 a1.main a2.main b2.main",
        "b2": "b1 a1.main a2.main b1.main",
    },
    "router": {
        "router1": "p1 p2 q1 q2",
        "p1": "p2 q1 q2 router1.left router1.right",
        "p2": "p1 q1 q2 router1.left router1.right",
        "q1": "p1 p2 q2 router1.left router1.right",
        "q2": "p1 p2 q1 router1.left router1.right",
    },
}


@pytest.mark.parametrize("example", REACH)
def test_who_reaches_whom_in_the_examples(example: str) -> None:
    spec = read_spec(EXAMPLES / f"{example}.toml")
    with cluster_of(spec) as cluster:
        containers = cluster.plan.containers
        assert example == "two_vms_two_vlans" or len({c.node for c in containers}) == 2
        found = {}
        for planned in containers:
            reached = set()
            for other in containers:
                several = len(other.all_interfaces) > 1
                for interface in other.all_interfaces:
                    own = {one.ip for one in planned.all_interfaces}
                    if other.name == planned.name or interface.ip in own:
                        continue  # it would be the container itself that answers
                    if cluster.talks(planned.name, other.name, interface.ip):
                        assert cluster.reaches(planned.name, interface.ip)
                        shared = planned.interface(interface.network)
                        short = interface.network != MAIN and (shared or not several)
                        reached.add(other.name if short else f"{other.name}.{interface.network}")
            found[planned.name] = reached
    expected = {name: {*words.split()} for name, words in REACH[example].items()}
    if example == "router":  # all members of a network share it with the router
        expected |= {
            name: {word.removesuffix(f".{side}") for word in words}
            for name, words in expected.items()
            for side in ["left" if name[0] == "p" else "right"]
        }
    assert found == expected


def lost(cluster: Cluster, source: str, address: str, count: int = 2000) -> float:
    """Return the part of pings that had no answer."""
    argv = ("ping", "-n", "-q", "-i", "0.001", "-c", str(count), "-W", "1", address)
    said = cluster.inside(source, *argv, check=False).stdout
    match = re.search(r"([0-9.]+)% packet loss", said)
    assert match, said
    return float(match[1]) / 100


@pytest.fixture
def pair() -> Iterator[Cluster]:
    """Three members of a network on two nodes, and no links yet."""
    spec = Spec((group("p", "left", total=3),), networks=(Network("left"),))
    with cluster_of(spec) as cluster:
        yield cluster


def linked(cluster: Cluster, *links: Link) -> None:
    cluster.emulate(replace(cluster.plan, links=links))


def test_a_pair_has_its_rate_on_both_ways_and_others_do_not(pair: Cluster) -> None:
    linked(pair, Link("left", "p1", "p2", rate="20Mbit"))
    ip = {name: pair.ip(name, "left") for name in ("p1", "p2", "p3")}
    assert rate(pair, "p1", ip["p2"], "p2") == pytest.approx(20e6, rel=0.15)
    assert rate(pair, "p1", ip["p2"], "p2", "--reverse") == pytest.approx(20e6, rel=0.15)
    assert rate(pair, "p3", ip["p2"], "p2") > 60e6


def test_a_cable_has_its_rate_for_all_that_it_carries(pair: Cluster) -> None:
    linked(pair, Link("left", "p1", rate="20Mbit"), Link("left", "p1", "p3", rate="50Mbit"))
    ip = {name: pair.ip(name, "left") for name in ("p1", "p2", "p3")}
    assert rate(pair, "p1", ip["p2"], "p2") == pytest.approx(20e6, rel=0.15)
    assert rate(pair, "p1", ip["p2"], "p2", "--reverse") == pytest.approx(20e6, rel=0.15)
    assert rate(pair, "p1", ip["p3"], "p3") == pytest.approx(50e6, rel=0.15)


def test_loss_is_what_was_asked_and_one_way_is_one_way(pair: Cluster) -> None:
    linked(pair, Link("left", "p1", "p2", loss="10%", both=False))
    assert lost(pair, "p1", pair.ip("p2", "left")) == pytest.approx(0.1, abs=0.035)
    assert lost(pair, "p1", pair.ip("p3", "left")) == 0
    linked(pair, Link("left", "p1", "p2", loss="10%"))
    assert lost(pair, "p1", pair.ip("p2", "left")) == pytest.approx(0.19, abs=0.045)
    linked(pair, Link("left", "p1", loss="10%"))
    assert lost(pair, "p1", pair.ip("p2", "left")) == pytest.approx(0.19, abs=0.045)
    linked(pair, Link("left", "p1", "p2", loss="100%", both=False))
    assert lost(pair, "p1", pair.ip("p2", "left"), 20) == 1


def test_what_is_routed_goes_by_the_routers_link() -> None:
    spec = Spec(
        (
            group("p", "left", total=1),
            group("q", "right", total=1),
            group("router", "left:10.1.0.1", "right:10.2.0.1", total=1, forward=True),
        ),
        networks=(Network("left"), Network("right")),
        links=(Link("left", "router", "p", rate="20Mbit"),),
    )
    with cluster_of(spec) as cluster:
        there = rate(cluster, "p1", cluster.ip("q1", "right"), "q1")
        back = rate(cluster, "p1", cluster.ip("q1", "right"), "q1", "--reverse")
        assert there == pytest.approx(20e6, rel=0.15)
        assert back == pytest.approx(20e6, rel=0.15)


def test_links_change_in_place_and_go_without_a_trace(pair: Cluster) -> None:
    names = ("p1", "p2")
    nodes = sorted({c.node for c in pair.plan.containers if c.name in names})
    steps: list[tuple[Link, ...]] = [
        (Link("left", "p1", "p2", rate="5Mbit"),),
        (Link("left", "p1", "p2", rate="20Mbit"), Link("left", "p1", "p3", rate="1Mbit")),
        (Link("left", "p1", rate="1Mbit"), Link("left", "p1", "p2")),
        (Link("left", "p1", rate="1Mbit"), Link("left", "p1", "p2", loss="1%")),
        (Link("left", "p1", rate="1Mbit"),),
        (Link("left", "*", "*", rate="20Mbit"),),
    ]
    if "netem" not in lacking(pair.on("node1")):  # a queue of another kind, and back
        delayed = Link("left", "p1", "p2", rate="5Mbit", delay="1ms")
        steps[1:1] = [(delayed,), (replace(delayed, delay="2ms"),)]
        steps[-1:-1] = [(Link("left", "p1", delay="1ms"),)]
    for links in steps:
        linked(pair, *links)
        linked(pair, *links)  # the same again is no harm
        assert pair.reaches("p1", pair.ip("p2", "left"))
    assert rate(pair, "p1", pair.ip("p2", "left"), "p2") == pytest.approx(20e6, rel=0.15)
    linked(pair)
    for node in nodes:
        assert qdiscs(pair, node, "htb") == []
        assert qdiscs(pair, node, "ingress") == []
        shown = pair.inside(node, "ip", "-br", "link", "show", "type", "ifb").stdout
        assert shown == ""


def round_trip(cluster: Cluster, source: str, address: str) -> list[float]:
    """Return how many milliseconds each of some pings took."""
    argv = ("ping", "-n", "-i", "0.02", "-c", "50", "-W", "3", address)
    said = cluster.inside(source, *argv, check=False).stdout
    return [float(time) for time in re.findall(r"time=([0-9.]+) ms", said)]


def test_a_delay_is_one_way_or_the_kernel_has_none(pair: Cluster) -> None:
    ip = {name: pair.ip(name, "left") for name in ("p1", "p2", "p3")}
    link = Link("left", "p1", "p2", delay="40ms", both=False)
    if "netem" in lacking(pair.on("node1")):
        with pytest.raises(CommandError, match="qdisc kind is unknown"):
            linked(pair, link)
        return
    # The least: a busy machine may take longer, and never less.
    plain = min(round_trip(pair, "p1", ip["p3"]))
    linked(pair, link)
    once = round_trip(pair, "p1", ip["p2"])
    assert len(once) == 50  # none is lost
    assert min(once) == pytest.approx(plain + 40, rel=0.15)
    assert min(round_trip(pair, "p1", ip["p3"])) < plain + 20
    linked(pair, replace(link, both=True, jitter="10ms", rate="10Mbit"))
    both = round_trip(pair, "p1", ip["p2"])
    assert len(both) == 50
    assert 60 <= min(both) < plain + 80
    assert max(both) - min(both) > 10
    # Without "to", it is the cable: both interfaces', so each way takes it twice.
    linked(pair, Link("left", "*", delay="20ms"))
    assert min(round_trip(pair, "p1", ip["p2"])) == pytest.approx(plain + 80, rel=0.2)
    # A queue with too few places would lose packets that no link asked for.
    linked(pair, Link("left", "p1", "p2", delay="100ms"))
    assert lost(pair, "p1", ip["p2"]) == 0


def test_root_inside_neither_sees_nor_changes_it(pair: Cluster) -> None:
    linked(pair, Link("left", "p1", "p2", rate="20Mbit"))
    assert "htb" not in pair.inside("p1", "tc", "qdisc", "show").stdout
    pair.inside("p1", "tc", "qdisc", "replace", "dev", "eth1", "root", "pfifo")
    assert rate(pair, "p1", pair.ip("p2", "left"), "p2") == pytest.approx(20e6, rel=0.15)


def test_without_the_internet_only_the_job_is_reached() -> None:
    spec = Spec((Group(name="vm", total=2),), main=Main(internet=False))
    with cluster_of(spec) as cluster:
        cluster.inside("lan", "ip", "address", "add", "100.65.87.1/21", "dev", "lan0")
        cluster.inside("lan", "ip", "address", "add", "203.0.113.1/32", "dev", "lo")
        for name in ("vm1", "vm2"):
            cluster.inside(name, "ip", "route", "add", "default", "via", "100.65.87.1")
        assert cluster.reaches("vm1", cluster.ip("vm2", "main"))
        assert cluster.reaches("vm1", "100.65.87.1")
        assert not cluster.reaches("vm1", "203.0.113.1", 1)
        cluster.emulate(
            replace(
                cluster.plan,
                containers=tuple(replace(c, internet=True) for c in cluster.plan.containers),
            )
        )
        assert cluster.reaches("vm1", "203.0.113.1")


def test_what_the_kernel_cannot_do_is_known_before() -> None:
    spec = Spec((group("p", "left"),), networks=(Network("left"),))
    with cluster_of(spec) as cluster:
        found = lacking(cluster.on("node1"))
        argv = ("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
        netem = cluster.inside("node1", *argv, check=False).status == 0
        assert found == (() if netem else ("netem",))
        shown = cluster.inside("node1", "ip", "-br", "link", "show", "type", "ifb").stdout
        assert shown == ""
