"""The addresses of a job."""

from __future__ import annotations

import random
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.errors import SpecError
from oar_lxc.model.addresses import POOL, PREFIX, JobNetwork
from tests.unit.strategies import job_ids, nodes


@given(job_ids, st.lists(nodes, min_size=1, max_size=8))
def test_every_node_computes_the_same_network(job_id: int, names: list[str]) -> None:
    shuffled = names * 2
    random.Random(0).shuffle(shuffled)
    assert JobNetwork.of(job_id, names) == JobNetwork.of(job_id, shuffled)


@given(job_ids, st.sampled_from([str(POOL), "172.16.0.0/12", "192.168.0.0/16", "10.0.0.0/21"]))
def test_a_jobs_network_is_part_of_the_pool(job_id: int, pool: str) -> None:
    assert JobNetwork.of(job_id, ["node1"], IPv4Network(pool)).subnet.subnet_of(IPv4Network(pool))


@given(job_ids, st.integers(1, (POOL.num_addresses >> (32 - PREFIX)) - 1))
def test_jobs_with_near_ids_have_networks_of_their_own(job_id: int, distance: int) -> None:
    one, other = JobNetwork.of(job_id, ["n"]), JobNetwork.of(job_id + distance, ["n"])
    assert not one.subnet.overlaps(other.subnet)
    assert one.vni != other.vni


def test_nodes_and_containers_share_no_address() -> None:
    network = JobNetwork.of(7, ["b", "a", "c"])
    given_out = [network.node_address(n) for n in "abc"]
    given_out += [network.container_address(i) for i in range(network.capacity)]
    assert {address.ip for address in given_out} == set(network.subnet.hosts())


def test_there_is_no_address_beyond_the_capacity() -> None:
    network = JobNetwork.of(7, ["a"])
    with pytest.raises(SpecError, match="has 2045 addresses for containers"):
        network.container_address(network.capacity)


def test_the_identifier_of_the_vxlan_has_24_bits() -> None:
    assert JobNetwork.of(2**31 - 1, ["a"]).vni == 2**24 - 1
