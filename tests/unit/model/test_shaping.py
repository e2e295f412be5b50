"""Interfaces and links of a plan."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.errors import SpecError
from oar_lxc.model.addresses import JobNetwork
from oar_lxc.model.interfaces import PlannedNetwork
from oar_lxc.model.job import Job
from oar_lxc.model.layout import outer_device
from oar_lxc.model.links import Link, Shape
from oar_lxc.model.networks import Main, Membership, Network
from oar_lxc.model.plan import Plan, PlannedContainer, make_plan
from oar_lxc.model.shaping import End, Shaping, shape_of_pair, shapings
from oar_lxc.model.spec import Group, Spec

JOB = Job(42, "alice", {"node1": 4, "node2": 4})
SUBNET = "192.168.100.0/24"
BOTH = (Network("left", SUBNET), Network("right", SUBNET))


def group(name: str, *networks: str, **keys: Any) -> Group:
    return Group(**{"name": name, "total": 2, "networks": networks, "main": False, **keys})


P, Q = group("p", "left"), group("q", "right:192.168.100.50")
ROUTER = group("router", "left:192.168.100.1", "right:192.168.100.1", total=1, forward=True)


def plan(*groups: Group, networks: Any = BOTH, links: tuple[Link, ...] = (), **keys: Any) -> Plan:
    return make_plan(Spec(groups, networks=networks, links=links), JOB, **keys)


def by_name(made: Plan) -> dict[str, PlannedContainer]:
    return {planned.name: planned for planned in made.containers}


def test_each_container_has_an_interface_in_each_network_of_its_group() -> None:
    made = by_name(plan(P, Q, ROUTER))
    found = {n: [(i.network, i.device, i.address) for i in c.interfaces] for n, c in made.items()}
    assert found == {
        "p1": [("left", "eth1", "192.168.100.2/24")],
        "p2": [("left", "eth1", "192.168.100.3/24")],
        "q1": [("right", "eth1", "192.168.100.50/24")],
        "q2": [("right", "eth1", "192.168.100.51/24")],
        "router1": [
            ("left", "eth1", "192.168.100.1/24"),
            ("right", "eth2", "192.168.100.1/24"),
        ],
    }
    assert [i.hardware for i in made["router1"].interfaces] == [
        "02:6d:c0:a8:64:01",
        "02:6e:c0:a8:64:01",
    ]


def test_who_has_no_eth0_leaves_by_the_first_that_forwards() -> None:
    made = by_name(plan(P, Q, ROUTER))
    assert {name: c.gateway for name, c in made.items()} == {
        "p1": "192.168.100.1",
        "p2": "192.168.100.1",
        "q1": "192.168.100.1",
        "q2": "192.168.100.1",
        "router1": "",
    }
    assert by_name(plan(group("p", "left", main=True), ROUTER))["p1"].gateway == ""


def test_eth0_is_the_main_network_where_it_is_wanted() -> None:
    made = by_name(plan(group("p", "left", main=True), Q))
    assert [(i.network, i.device) for i in made["p1"].all_interfaces] == [
        ("main", "eth0"),
        ("left", "eth1"),
    ]
    assert [(i.network, i.device) for i in made["q1"].all_interfaces] == [("right", "eth1")]
    assert len({planned.address for planned in made.values()}) == 4


def test_the_nodes_ends_of_interfaces_have_names_that_the_kernel_takes() -> None:
    assert outer_device("100.64.8.48", 2) == "v2-64400830"
    assert len(outer_device("255.255.255.255", 7)) <= 15


def test_ipv6_is_of_a_subnet_that_only_this_network_of_the_job_has() -> None:
    networks = (Network("left", ipv6=True), Network("right", ipv6=True))
    made = plan(group("p", "left", "right"), networks=networks)
    first, second = by_name(made)["p1"].interfaces
    left, right = (IPv6Network(network.ipv6) for network in made.networks)
    assert left != right
    assert left.subnet_of(IPv6Network("fd00::/8"))
    assert IPv6Address(first.ips[1]) in left
    assert IPv6Address(second.ips[1]) in right
    other = make_plan(
        Spec((group("p", "left"),), networks=networks[:1]), Job(43, "alice", {"node1": 1})
    )
    assert other.networks[0].ipv6 != made.networks[0].ipv6


@pytest.mark.parametrize(
    ("groups", "keys", "sentence"),
    [
        (
            (group("q", "right:192.168.100.50"), group("r", "right:192.168.100.51")),
            {},
            "network right: 192.168.100.51 is given to q2 and r1",
        ),
        (
            (group("p", "left:192.168.100.254"),),
            {},
            "network left: subnet 192.168.100.0/24 ends before the address of p2: group p counts "
            "up from 192.168.100.254, so let it begin lower",
        ),
        (
            (group("p", "left", total=None, per_node=200),),
            {},
            "network left: subnet 192.168.100.0/24 has 254 addresses, group p asks for 400",
        ),
        (
            (group("p", "left", total=200), group("r", "left", total=100)),
            {},
            "network left: subnet 192.168.100.0/24 has 254 addresses, and too few of them are "
            "free for the 100 containers of group r",
        ),
        (
            (group("p", "left:10.9.0.1"),),
            {"networks": (Network("left"),)},
            "group p: networks has 'left:10.9.0.1', and 10.9.0.1 is not in the network's subnet "
            "10.1.0.0/16",
        ),
        (
            (group("p", "left"),),
            {"networks": (Network("left", "100.64.0.0/10"),)},
            "network left: subnet 100.64.0.0/10 overlaps with 100.65.80.0/21, the job's main",
        ),
        (
            (P, Q),
            {"links": (Link("right", "p", "q", delay="1ms"),)},
            "link 1: network is right, and p is not in it",
        ),
        (
            (P, Q),
            {"links": (Link("main", delay="1ms"),)},
            "link 1: network is main, and no container is in it",
        ),
        (
            (P, Q),
            {"links": (Link("left", "p9", delay="1ms"),)},
            "link 1: from is 'p9', and there is no such container or group",
        ),
        (
            (P, Q),
            {"links": (Link("left", "p1", "p1", delay="1ms"),)},
            "link 1: from and to are both p1: name two containers",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    groups: tuple[Group, ...], keys: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SpecError) as caught:
        plan(*groups, **keys)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_the_last_addresses_are_given_to_nobody_twice() -> None:
    made = plan(group("p", "left", total=253), group("r", "left:192.168.100.254", total=1))
    given = [c.interfaces[0].ip for c in made.containers]
    assert len(set(given)) == 254


def test_sessions_share_networks_and_do_not_share_addresses() -> None:
    first = plan(P, Q)
    more: dict[str, Any] = {"others": first.containers, "networks": first.networks}
    spec = Spec((group("r", "left", "third"),), networks=(Network("left"), Network("third")))
    second = make_plan(spec, JOB, others=first.containers, networks=first.networks)
    assert [(n.name, n.number) for n in second.networks] == [("left", 1), ("third", 3)]
    assert second.networks[0] == first.networks[0]
    assert [c.interfaces[0].ip for c in second.containers] == ["192.168.100.3", "192.168.100.4"]
    with pytest.raises(SpecError) as caught:
        make_plan(
            Spec((group("r", "left"),), networks=(Network("left", "10.0.0.0/8"),)), JOB, **more
        )
    assert str(caught.value) == (
        "network left: another session of the job has it with subnet 192.168.100.0/24: write the "
        "same, or give it another name"
    )
    eight = tuple(PlannedNetwork(f"n{i}", i, f"10.{i}.0.0/16") for i in range(1, 9))
    with pytest.raises(SpecError, match="network left: a job has at most 8 networks, and its"):
        make_plan(Spec((group("r", "left"),), networks=(Network("left"),)), JOB, networks=eight)


def test_the_gateway_may_be_of_another_session() -> None:
    first = plan(ROUTER)
    spec = Spec((P,), networks=BOTH)
    second = make_plan(spec, JOB, others=first.containers, networks=first.networks)
    assert {planned.gateway for planned in second.containers} == {"192.168.100.1"}


def test_containers_may_have_no_internet() -> None:
    made = make_plan(Spec((Group(),), main=Main(internet=False)), JOB)
    assert {planned.internet for planned in made.containers} == {False}


def test_a_plan_with_networks_survives_json() -> None:
    links = (Link("left", "p", "router", rate="10Mbit", both=False),)
    made = plan(P, Q, ROUTER, links=links)
    assert Plan.from_data(json.loads(json.dumps(made.to_data()))) == made


def test_of_several_links_for_a_pair_the_last_counts_as_a_whole() -> None:
    links = (
        Link("left", "p", "router", rate="10Mbit", delay="1ms"),
        Link("left", "router", "p1", loss="1%", both=False),
        Link("left", "p2", "*"),
    )
    made = by_name(plan(P, Q, ROUTER, links=links))

    def way(source: str, target: str, network: str = "left") -> Shape | None:
        return shape_of_pair(links, network, made[source], made[target])

    assert way("p1", "router1") == Shape(10**7, 1000)
    assert way("router1", "p1") == Shape(loss=1.0)
    assert way("p2", "router1") == Shape()
    assert way("p1", "p2") == Shape()  # the third, with the way back
    assert way("q1", "router1", "right") is None
    assert way("q1", "router1") is None


def test_each_interface_is_told_what_is_done_to_what_comes() -> None:
    links = (Link("left", "p", rate="10Mbit"), Link("left", "p1", "router", delay="1ms"))
    made = plan(P, Q, ROUTER, links=links)
    of = {one.container: one for one in shapings(links, made.containers, made.containers)}
    cable = Shape(10**7)
    addresses = {planned.name: planned.address for planned in made.containers}
    assert [c.ip for c in made.containers if c.name in ("p1", "router1")] == [
        "100.65.80.3",
        "100.65.80.5",
    ]
    p1, router = End(3, "02:6d:c0:a8:64:02"), End(5, "02:6d:c0:a8:64:01")
    assert of == {
        "p1": Shaping(
            "p1", addresses["p1"], 1, cable, cable, {router: Shape(delay=1000)}, (router,)
        ),
        "p2": Shaping("p2", addresses["p2"], 1, cable, cable),
        "router1": Shaping(
            "router1", addresses["router1"], 1, None, None, {p1: Shape(delay=1000)}
        ),
    }
    assert [bool(one) for one in of.values()] == [True] * 3


def test_a_link_of_one_way_does_nothing_on_the_other() -> None:
    links = (Link("left", "p", rate="10Mbit", both=False),)
    made = plan(P, links=links)
    (first, _) = shapings(links, made.containers, made.containers)
    assert (first.inward, first.outward) == (None, Shape(10**7))


ends = st.sampled_from(["*", "p", "q", "p1", "q2"])
some_links = st.lists(
    st.builds(
        Link,
        st.just("left"),
        ends,
        st.none() | ends,
        rate=st.sampled_from([None, "1Mbit", "2Mbit"]),
        both=st.booleans(),
    ).filter(lambda link: len({link.from_, link.to}) > 1 or len(str(link.to)) == 1),
    max_size=5,
).map(tuple)


def end(planned: PlannedContainer) -> End:
    """Return a container as others see it, in the only network that it is in."""
    return End(int(IPv4Address(planned.ip)) & 2047, planned.interfaces[0].hardware)


@given(some_links)
def test_what_a_pair_is_told_is_what_its_interfaces_are_told(links: tuple[Link, ...]) -> None:
    made = plan(P, group("q", "left"), networks=BOTH[:1])
    told = {one.container: one for one in shapings(links, made.containers, made.containers)}
    for target in made.containers:
        for source in made.containers:
            if source == target or not links:
                continue
            shape = shape_of_pair(links, "left", source, target)
            assert told[target.name].pairs.get(end(source)) == shape
            if told[source.name].outward:
                there = end(target) in told[source.name].direct
                assert there == (shape is not None)


def test_no_container_has_an_address_that_carries_networks() -> None:
    job = Job(42, "alice", {f"node{number}": 1 for number in range(1, 9)})
    main = JobNetwork.of(job.id, job.nodes)
    group_ = Group(name="p", total=main.capacity - 8, networks=(Membership("left"),))
    spec = Spec((group_,), networks=(Network("left"),))
    given = {planned.ip for planned in make_plan(spec, job).containers}
    assert len(given) == main.capacity - 8
    assert given.isdisjoint(main.underlay.values())
    with pytest.raises(SpecError, match="ask for fewer containers"):
        make_plan(replace(spec, groups=(replace(group_, total=main.capacity - 7),)), job)
    others = make_plan(Group(name="vm", total=main.capacity), job).containers
    with pytest.raises(SpecError) as caught:
        make_plan(spec, job, others=others)
    assert str(caught.value).startswith("networks need the last addresses of 100.65.80.0/21, and")


def test_a_link_of_too_many_pairs_is_refused_and_one_of_cables_is_not() -> None:
    everybody = Group(name="p", total=300, networks=(Membership("left"),))
    networks = (Network("left"),)
    with pytest.raises(SpecError) as caught:
        plan(everybody, networks=networks, links=(Link("left", "*", "*", rate="1Mbit"),))
    assert str(caught.value) == (
        "link 1: from * to * names 90000 pairs, and at most 65536 are possible: name fewer, or "
        "leave out to for a link at each interface"
    )
    assert plan(everybody, networks=networks, links=(Link("left", "*", rate="1Mbit"),)).links
