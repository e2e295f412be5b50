"""What netem does to packets between containers of one node, each key of a link for itself."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from oar_lxc.container.links import lacking
from oar_lxc.model.links import Link
from oar_lxc.model.networks import Membership, Network
from oar_lxc.model.spec import Group, Spec
from tests.integration.segments import Cluster, cluster_of, rate

PINGS = 60


@dataclass(frozen=True)
class Answers:
    """What came back of pings.

    Attributes:
        times: milliseconds that each answer took, the first of each ping alone.
        twice: how many answers came that were there before.
        order: the numbers of the pings in the order of their answers.
    """

    times: list[float]
    twice: int
    order: list[int]


@pytest.fixture(scope="module")
def node() -> Iterator[Cluster]:
    """Two members of a network on one node."""
    members = (Membership("left"),)
    group = Group(name="p", total=2, networks=members, main=False)
    spec = Spec((group,), networks=(Network("left"),))
    with cluster_of(spec, nodes=1) as cluster:
        yield cluster


def ping(cluster: Cluster, **keys: str) -> Answers:
    """Ping one container from the other, with a link on the way there alone."""
    link = Link("left", "p1", "p2", both=False, **keys)
    cluster.emulate(replace(cluster.plan, links=(link,)))
    argv = ("ping", "-n", "-i", "0.05", "-c", str(PINGS), "-W", "3", cluster.ip("p2", "left"))
    said = cluster.inside("p1", *argv, check=False, timeout=120).stdout
    found = re.findall(r"icmp_seq=(\d+) .*time=([0-9.]+) ms( \(DUP!\))?", said)
    first = [(int(number), float(time)) for number, time, again in found if not again]
    return Answers(
        times=[time for _, time in first],
        twice=len(found) - len(first),
        order=[number for number, _ in first],
    )


def test_the_kernel_can_do_all_of_it(node: Cluster) -> None:
    assert lacking(node.on("node1")) == ()


def test_a_delay_is_added_to_each_packet(node: Cluster) -> None:
    times = ping(node, delay="200ms").times
    assert len(times) == PINGS
    assert min(times) >= 200
    assert statistics.median(times) < 300


def test_a_jitter_varies_the_delay_up_and_down_and_no_further(node: Cluster) -> None:
    times = ping(node, delay="200ms", jitter="100ms").times
    assert len(times) == PINGS
    assert min(times) >= 100
    assert min(times) < 170
    assert max(times) > 230
    assert 130 < statistics.median(times) < 300


def test_a_loss_beside_a_delay_is_what_was_asked(node: Cluster) -> None:
    times = ping(node, delay="50ms", loss="50%").times
    assert PINGS * 0.2 < len(times) < PINGS * 0.8  # five standard deviations
    assert min(times) >= 50


def test_packets_come_twice(node: Cluster) -> None:
    answers = ping(node, duplicate="50%")
    assert len(answers.times) == PINGS
    assert PINGS * 0.2 < answers.twice < PINGS * 0.8


def test_packets_that_take_no_delay_overtake_others(node: Cluster) -> None:
    answers = ping(node, delay="500ms", reorder="50%")
    assert len(answers.times) == PINGS
    quick = sum(time < 400 for time in answers.times)
    assert PINGS * 0.2 < quick < PINGS * 0.8
    assert answers.order != sorted(answers.order)


def test_a_wrong_bit_is_noticed_by_the_checksum(node: Cluster) -> None:
    # One bit of some hundred is in the sender's hardware address, where it does no harm.
    assert len(ping(node, corrupt="100%").times) < PINGS / 2
    assert len(ping(node).times) == PINGS


def test_a_rate_with_a_delay_keeps_both(node: Cluster) -> None:
    times = ping(node, rate="10Mbit", delay="50ms").times
    assert len(times) == PINGS
    assert min(times) >= 50
    # A machine that waits for its processor loses what the link could have carried meanwhile.
    assert 2e6 < rate(node, "p1", node.ip("p2", "left"), "p2") < 11e6


def test_a_queue_becomes_one_of_another_kind_while_packets_pass(node: Cluster) -> None:
    one = Link("left", "p1", "p2")
    for link in (
        replace(one, rate="5Mbit"),
        replace(one, rate="5Mbit", delay="1ms"),
        replace(one, rate="5Mbit", delay="2ms", jitter="1ms"),
        replace(one, loss="1%"),
        replace(one, duplicate="1%"),
        Link("left", "p1", delay="1ms"),
    ):
        for _ in range(2):  # the same again is no harm
            node.emulate(replace(node.plan, links=(link,)))
        assert node.reaches("p1", node.ip("p2", "left")), link
    node.emulate(replace(node.plan, links=()))
    shown = json.loads(node.inside("node1", "tc", "-json", "qdisc", "show").stdout)
    assert {found["kind"] for found in shown} == {"noqueue"}
    assert node.inside("node1", "ip", "-br", "link", "show", "type", "ifb").stdout == ""
    assert node.reaches("p1", node.ip("p2", "left"))
