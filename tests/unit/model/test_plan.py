"""A spec and a job make a plan."""

from __future__ import annotations

import json
from ipaddress import IPv4Interface, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.errors import SpecError
from oar_lxc.model.addresses import JobNetwork
from oar_lxc.model.job import Job
from oar_lxc.model.plan import Plan, make_plan
from oar_lxc.model.spec import Group, Mount, Port, Spec
from tests.unit.strategies import job_ids, nodes

JOB = Job(42, "alice", {"node2": 2, "node1": 1})

specs = st.one_of(
    st.builds(Group, per_node=st.integers(1, 5)),
    st.just(Group(per_core=True)),
)
jobs = st.builds(
    Job,
    id=job_ids,
    user=st.just("alice"),
    cores=st.dictionaries(nodes, st.integers(1, 8), min_size=1, max_size=6),
)


def test_containers_are_numbered_node_by_node_in_the_order_of_the_nodefile() -> None:
    plan = make_plan(Group(per_node=2), JOB)
    assert [(c.name, c.node) for c in plan.containers] == [
        ("vm1", "node2"),
        ("vm2", "node2"),
        ("vm3", "node1"),
        ("vm4", "node1"),
    ]


def test_per_core_counts_the_cores_of_each_node() -> None:
    plan = make_plan(Group(per_core=True), JOB)
    assert [c.node for c in plan.containers] == ["node2", "node2", "node1"]


def test_a_nodes_share_is_what_is_on_it() -> None:
    plan = make_plan(Group(per_node=2), JOB)
    assert [c.name for c in plan.on("node1")] == ["vm3", "vm4"]
    assert plan.on("node9") == ()


def test_names_and_image_are_those_of_the_spec() -> None:
    (first, second) = make_plan(Group("my-image", name="web"), JOB).containers
    assert (first.name, second.name) == ("web1", "web2")
    assert first.image == "my-image"


@pytest.mark.parametrize("number", [1023, 10**9])
def test_more_containers_than_addresses_are_one_sentence_at_once(number: int) -> None:
    with pytest.raises(SpecError) as caught:
        make_plan(Group(per_node=number), JOB)
    assert str(caught.value) == (
        f"group vm: per_node is {number}; the job's network has 2044 addresses for containers; "
        "container number 2045 would have none: ask for fewer containers"
    )


def test_as_many_containers_as_addresses_fit() -> None:
    assert len(make_plan(Group(per_node=1022), JOB).containers) == 2044


def test_more_containers_than_a_bridge_has_ports_are_one_sentence() -> None:
    job = Job(42, "alice", {"node1": 1})
    session = make_plan(Group(per_node=1000), job).containers
    fits, one_more = Group(per_node=22, name="b"), Group(per_node=23, name="b")
    assert len(make_plan(fits, job, others=session).containers) == 22
    with pytest.raises(SpecError) as caught:
        make_plan(one_more, job, others=session)
    assert str(caught.value) == (
        "node node1 would have 1023 containers of the job, and the job's bridge there has ports "
        "for 1022: ask for fewer containers, or for more nodes"
    )


@given(specs, jobs)
def test_no_address_is_given_twice_and_all_are_in_the_jobs_network(spec: Group, job: Job) -> None:
    plan = make_plan(spec, job)
    network = JobNetwork.of(job.id, job.nodes)
    given_out = [c.ip for c in plan.containers]
    given_out += [str(network.node_address(node).ip) for node in job.nodes]
    assert len(set(given_out)) == len(given_out)
    hosts = network.subnet
    for planned in plan.containers:
        address = IPv4Interface(planned.address)
        assert address.network == hosts
        assert address.ip not in (hosts.network_address, hosts.broadcast_address)


def test_addresses_come_from_the_clusters_pool() -> None:
    plan = make_plan(Group(), JOB, IPv4Network("192.168.0.0/16"))
    assert [c.ip for c in plan.containers] == ["192.168.80.3", "192.168.80.4"]


@given(specs, jobs)
def test_each_node_gets_what_the_spec_says(spec: Group, job: Job) -> None:
    plan = make_plan(spec, job)
    for node, cores in job.cores.items():
        assert len(plan.on(node)) == (cores if spec.per_core else spec.per_node)
    assert sum(len(plan.on(node)) for node in job.nodes) == len(plan.containers)


counts: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(dict, per_node=st.integers(1, 5), cores=st.none() | st.integers(1, 3)),
    st.builds(dict, total=st.integers(1, 20), cores=st.none() | st.integers(1, 3)),
    st.just({"per_core": True}),
)
more = st.fixed_dictionaries(
    {},
    optional={
        "image": st.sampled_from(["debian-12", "mine:2"]),
        "memory": st.integers(2**25, 2**40),
        "processes": st.integers(4, 1000),
        "environment": st.dictionaries(st.sampled_from("AB"), st.sampled_from(["", "é x"])),
        "mounts": st.just((Mount("/home/alice/data", "/data", True),)),
        "provision": st.just("#!/bin/sh\ntrue\n"),
        "ssh_keys": st.just(("ssh-ed25519 AAAA a@b",)),
    },
)
wholes = st.lists(
    st.builds(
        lambda name, count, rest: Group(name=name, **count, **rest),
        st.sampled_from("abcd"),
        counts,
        more,
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda group: group.name,
).map(lambda groups: Spec(tuple(groups)))


def plan_or_none(spec: Spec, job: Job) -> Plan | None:
    """Return a plan, None where the job has too few cores for it."""
    try:
        return make_plan(spec, job)
    except SpecError as error:
        if "ask for fewer containers" not in str(error):
            raise
        return None


@given(wholes, jobs)
def test_a_plan_survives_json(spec: Spec, job: Job) -> None:
    plan = plan_or_none(spec, job)
    if plan:
        assert Plan.from_data(json.loads(json.dumps(plan.to_data()))) == plan


@given(wholes)
def test_a_spec_survives_json(spec: Spec) -> None:
    assert Spec.from_data(json.loads(json.dumps(spec.to_data()))) == spec


@given(wholes, jobs)
def test_no_core_is_given_twice_and_none_that_the_job_does_not_have(spec: Spec, job: Job) -> None:
    plan = plan_or_none(spec, job)
    given_out = [
        (c.node, core)
        for c in (plan.containers if plan else ())
        for core in range(c.first_core, c.first_core + c.cores)
    ]
    assert len(set(given_out)) == len(given_out)
    assert all(core < job.cores[node] for node, core in given_out)


@given(st.integers(1, 60), st.lists(nodes, min_size=1, max_size=6, unique=True), st.integers(1, 8))
def test_a_total_is_the_same_on_like_nodes_but_for_one(
    total: int, names: list[str], cores: int
) -> None:
    plan = make_plan(Group(total=total), Job(42, "alice", dict.fromkeys(names, cores)))
    numbers = [len(plan.on(node)) for node in names]
    assert sum(numbers) == total
    assert max(numbers) - min(numbers) <= 1


@given(st.integers(1, 60), jobs)
def test_no_node_could_give_one_of_a_total_away_and_all_have_more(total: int, job: Job) -> None:
    plan = make_plan(Group(total=total), job)
    numbers = {node: len(plan.on(node)) for node in job.nodes}
    # What a container has of its node's cores, and what one more would have on another node.
    least = min(job.cores[node] / number for node, number in numbers.items() if number)
    assert all(job.cores[node] / (number + 1) <= least for node, number in numbers.items())


@given(st.data(), jobs)
def test_as_many_containers_with_cores_fit_as_the_job_has_cores(
    data: st.DataObject, job: Job
) -> None:
    total = data.draw(st.integers(1, sum(job.cores.values())))
    assert len(make_plan(Group(total=total, cores=1), job).containers) == total


def test_groups_count_their_containers_over_the_whole_job() -> None:
    plan = make_plan(Spec((Group(name="a", per_node=2), Group(name="b"))), JOB)
    assert [(c.name, c.node) for c in plan.containers] == [
        ("a1", "node2"),
        ("a2", "node2"),
        ("b1", "node2"),
        ("a3", "node1"),
        ("a4", "node1"),
        ("b2", "node1"),
    ]


def test_cores_are_given_out_once() -> None:
    job = Job(42, "alice", {"node1": 5})
    plan = make_plan(Spec((Group(name="a", cores=2), Group(name="b", per_node=3, cores=1))), job)
    assert [(c.name, c.first_core, c.cores) for c in plan.containers] == [
        ("a1", 0, 2),
        ("b1", 2, 1),
        ("b2", 3, 1),
        ("b3", 4, 1),
    ]


def test_more_cores_than_reserved_are_one_sentence() -> None:
    with pytest.raises(SpecError) as caught:
        make_plan(Group(name="a", per_node=2, cores=1), JOB)
    assert str(caught.value) == (
        "group a: per_node is 2 and cores is 1; container a4 would be given core number 2 of "
        "node1, and the job has 1 there: ask for fewer containers or cores, or reserve more"
    )


def test_a_total_goes_where_most_room_is() -> None:
    job = Job(42, "alice", {"node1": 2, "node2": 4})
    assert [len(make_plan(Group(total=n), job).on("node2")) for n in (1, 2, 3, 6)] == [1, 1, 2, 4]
    spec = Spec((Group(name="a", cores=2, per_node=1), Group(name="b", total=2, cores=1)))
    assert [c.node for c in make_plan(spec, job).containers if c.group == "b"] == ["node2"] * 2


def test_totals_leave_room_for_each_other() -> None:
    job = Job(42, "alice", {"node1": 2, "node2": 2})
    spec = Spec((Group(name="a", total=1, cores=2), Group(name="b", total=2, cores=1)))
    assert [(c.name, c.node, c.first_core) for c in make_plan(spec, job).containers] == [
        ("a1", "node1", 0),
        ("b1", "node2", 0),
        ("b2", "node2", 1),
    ]


def test_totals_without_cores_leave_room_for_each_other() -> None:
    job = Job(42, "alice", {"node1": 2, "node2": 2, "node3": 2})
    spec = Spec(tuple(Group(name=name, total=1) for name in ("a", "b", "c", "d")))
    assert [(c.name, c.node) for c in make_plan(spec, job).containers] == [
        ("a1", "node1"),
        ("d1", "node1"),
        ("b1", "node2"),
        ("c1", "node3"),
    ]


def test_a_total_without_cores_keeps_away_from_those_that_have_some() -> None:
    job = Job(42, "alice", {"node1": 2, "node2": 2})
    spec = Spec((Group(name="a", total=1, cores=2), Group(name="b", total=1)))
    assert [c.node for c in make_plan(spec, job).containers] == ["node1", "node2"]
    spec = Spec((Group(name="b", total=1), Group(name="a", total=1, cores=2)))
    assert [c.node for c in make_plan(spec, job).containers] == ["node1", "node2"]


def test_a_total_counts_what_is_on_each_node_by_the_spec_itself() -> None:
    job = Job(42, "alice", {"node1": 4, "node2": 1})
    spec = Spec((Group(name="a", per_core=True), Group(name="b", total=2)))
    assert [c.node for c in make_plan(spec, job).containers if c.group == "b"] == ["node1"] * 2


def test_other_sessions_keep_their_addresses_cores_and_room() -> None:
    job = Job(42, "alice", {"node1": 3, "node2": 2})
    others = make_plan(Spec((Group(name="a", total=1, cores=1),)), job).containers
    spec = Spec((Group(name="b", total=2, cores=1), Group(name="c", total=1)))
    plan = make_plan(spec, job, others=others)
    assert [(c.name, c.node, c.first_core, c.ip) for c in plan.containers] == [
        ("b1", "node1", 1, "100.65.80.4"),
        ("c1", "node1", 0, "100.65.80.5"),
        ("b2", "node2", 0, "100.65.80.6"),
    ]


def test_cores_between_those_of_others_are_given_out() -> None:
    job = Job(42, "alice", {"node1": 4})
    of_all = make_plan(Group(name="a", total=4, cores=1), job).containers
    others = (of_all[0], of_all[2])
    plan = make_plan(Group(name="b", total=2, cores=1), job, others=others)
    assert [c.first_core for c in plan.containers] == [1, 3]
    with pytest.raises(SpecError) as caught:
        make_plan(Group(name="b", total=1, cores=2), job, others=others)
    assert str(caught.value) == (
        "group b: total is 1 and cores is 2; container b1 would be given core number 5 of "
        "node1, and the job has 4 there, of which other sessions have 2: ask for fewer containers "
        "or cores, or reserve more"
    )


def test_addresses_are_counted_on_and_come_round() -> None:
    job = Job(42, "alice", {"node1": 1})
    network = JobNetwork.of(job.id, job.nodes)
    last = network.capacity - 1
    others = make_plan(Group(name="a"), job).containers
    plan = make_plan(Group(name="b", per_node=2), job, others=others, first=last)
    numbers = [IPv4Interface(c.address) for c in plan.containers]
    assert numbers == [network.container_address(last), network.container_address(1)]
    with pytest.raises(SpecError, match="ask for fewer containers"):
        make_plan(Group(name="b", per_node=last + 1), job, others=others)


def test_names_and_ports_of_other_sessions_are_refused() -> None:
    others = make_plan(Group(ports=(Port(8080, 80),)), JOB).containers
    with pytest.raises(SpecError) as caught:
        make_plan(Group(), JOB, others=others)
    assert str(caught.value) == (
        "group vm: another session of the job has a container vm1, on node2: give the group "
        "another name, such as vm-b"
    )
    with pytest.raises(SpecError, match=r"b: ports has 8080, which on node2 leads into vm1 of an"):
        make_plan(Group(name="b", ports=(Port(8080, 81),)), JOB, others=others)


@pytest.mark.parametrize("total", [2045, 10**12])
def test_a_total_beyond_all_addresses_is_refused_at_once(total: int) -> None:
    with pytest.raises(SpecError, match="ask for fewer containers"):
        make_plan(Group(total=total), JOB)


def test_groups_whose_containers_would_have_one_name_are_refused() -> None:
    with pytest.raises(SpecError, match="groups a1 and a both have a container a11"):
        make_plan(Spec((Group(name="a1"), Group(name="a", per_node=11))), Job(1, "", {"n": 1}))


def test_a_port_of_a_node_leads_into_one_container() -> None:
    ports = (Port(8080, 80),)
    assert make_plan(Group(ports=ports), JOB).containers[1].ports == ports
    with pytest.raises(SpecError) as caught:
        make_plan(Group(ports=ports, per_node=2), JOB)
    assert str(caught.value) == (
        "group vm: ports has 8080, which on node2 leads into vm1 and cannot lead into vm2 too: a "
        "group with ports has one container on each node"
    )
    with pytest.raises(
        SpecError, match="b: ports has 8080, which on node2 leads into a1 of group"
    ):
        make_plan(Spec((Group(name="a", ports=ports), Group(name="b", ports=ports))), JOB)


def test_the_nodefile_has_a_line_for_each_core() -> None:
    job = Job(42, "alice", {"node1": 3, "node2": 3})
    spec = Spec((Group(name="a", cores=2), Group(name="b")))
    assert make_plan(spec, job).nodefile() == "a1\na1\nb1\na2\na2\nb2\n"


def test_a_rich_plan_survives_json() -> None:
    group = Group(
        memory="1G",
        processes=100,
        home=True,
        mounts=(Mount("/data", "/data"),),
        ports=(Port(8080, 80),),
        environment={"A": "b"},
        provision="true",
        ssh_keys=("ssh-ed25519 AAAA x",),
    )
    plan = make_plan(group, JOB)
    assert Plan.from_data(json.loads(json.dumps(plan.to_data()))) == plan


def test_what_an_older_version_does_not_write_of_a_container_is_none() -> None:
    data = make_plan(Group(), JOB).to_data()
    for container in data["containers"]:
        for key in ("mounts", "ports", "ssh_keys"):
            del container[key]
    assert Plan.from_data(data) == make_plan(Group(), JOB)


def test_cores_are_taken_where_most_are_free_however_many_share_the_others() -> None:
    job = Job(42, "alice", {"node1": 4, "node2": 3})
    others = make_plan(Group(name="a", per_node=3), Job(42, "alice", {"node1": 4})).containers
    plan = make_plan(Group(name="b", total=1, cores=1), job, others=others)
    assert [container.node for container in plan.containers] == ["node1"]
