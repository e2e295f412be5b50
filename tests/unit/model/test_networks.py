"""Networks and links of a spec, and what cannot be of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.errors import SpecError
from oar_lxc.model.links import (
    Link,
    Shape,
    parse_percent,
    parse_rate,
    parse_time,
    percent_text,
    rate_text,
    time_text,
)
from oar_lxc.model.networks import Main, Membership, Network
from oar_lxc.model.spec import Group, Spec


def refused(make: Any, *values: Any, **keys: Any) -> str:
    with pytest.raises(SpecError) as caught:
        make(*values, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"name": "x" * 13}, "name is 'xxxxxxxxxxxxx'; it starts with a small letter and has"),
        ({"name": "Left"}, "name is 'Left'; it starts with a small letter"),
        ({"name": ""}, "name is ''; it starts with a small letter"),
        ({"name": 1}, "name is 1; it is a text"),
        ({"name": "main"}, "name is 'main'; the job's main network has this name"),
        ({"name": "eth1"}, "name is 'eth1'; an interface may have this name"),
        (
            {"subnet": "10.0.0.0"},
            "subnet is '10.0.0.0'; it is a subnet such as '192.168.100.0/24'",
        ),
        (
            {"subnet": "10.0.0.1/24"},
            "subnet is '10.0.0.1/24'; an address of the subnet is written",
        ),
        ({"subnet": "10.0.0.0/31"}, "subnet is '10.0.0.0/31'; its prefix is from /8 to /30"),
        ({"subnet": "0.0.0.0/0"}, "subnet is '0.0.0.0/0'; its prefix is from /8 to /30"),
        ({"subnet": "127.0.0.0/24"}, "no interface has an address of 127.0.0.0/8"),
        ({"subnet": "239.0.0.0/24"}, "no interface has an address of 224.0.0.0/3"),
        ({"subnet": "fd00::/64"}, "subnet is 'fd00::/64'; it is a subnet such as"),
        ({"subnet": 10}, "subnet is 10; it is a subnet such as"),
        ({"ipv6": 1}, "ipv6 is 1; it is true or false"),
    ],
)
def test_a_network_that_cannot_be_is_one_sentence(values: dict[str, Any], sentence: str) -> None:
    assert sentence in refused(Network, **{"name": "left", **values})


def test_a_network_without_a_subnet_has_one_by_its_number() -> None:
    assert str(Network("a").addresses(3)) == "10.3.0.0/16"
    assert str(Network("a", "10.0.0.0/30").addresses(3)) == "10.0.0.0/30"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rate": "0Mbit"}, "rate is '0Mbit'; it is from 1kbit to 1000Gbit; leave it out for no"),
        ({"rate": "10"}, "rate is '10'; it is a number of bits a second such as '10Mbit'"),
        ({"rate": 10}, "rate is 10; it is a number of bits a second"),
        ({"rate": "-1Mbit"}, "rate is '-1Mbit'; it is a number of bits"),
        ({"rate": "10mbit"}, "rate is '10mbit'; did you mean '10Mbit'?"),
        ({"rate": "10Mbit/s"}, "rate is '10Mbit/s'; did you mean '10Mbit'?"),
        ({"rate": "10mbps"}, "rate is '10mbps'; it is a number of bits a second"),
        ({"rate": "10MB"}, "rate is '10MB'; it is a number of bits a second"),
        ({"rate": "9999Gbit"}, "rate is '9999Gbit'; it is from 1kbit"),
        ({"delay": "40"}, "delay is '40'; it is a time such as '40ms', with us, ms or s"),
        ({"delay": 40}, "delay is 40; it is a time"),
        ({"delay": "2m"}, "delay is '2m'; it is a time"),
        ({"delay": "61s"}, "delay is '61s'; at most 60s is allowed"),
        ({"jitter": "5ms"}, "jitter is 5ms, and there is no delay that it could vary"),
        ({"delay": "40ms", "jitter": "50ms"}, "jitter 50ms is more than delay 40ms"),
        ({"reorder": "5%"}, "reorder is 5%, and there is no delay"),
        ({"loss": "101%"}, "loss is '101%'; more than 100% of the packets there are not"),
        ({"loss": "0.5"}, "loss is '0.5'; it is a part of the packets such as '0.5%'"),
        ({"loss": 0.5}, "loss is 0.5; it is a part"),
        ({"loss": "0.00001%"}, "loss is '0.00001%'; 0.0001% is the finest part"),
        ({"duplicate": "x"}, "duplicate is 'x'; it is a part"),
        ({"network": ""}, "network is ''; it is the name of a network"),
        ({"network": None}, "network is None; it is a text"),
        ({"from_": 1}, "from is 1; it is a text"),
        ({"to": 1}, "to is 1; it is a text"),
        ({"both": "no"}, "both is 'no'; it is true or false"),
    ],
)
def test_a_link_that_cannot_be_is_one_sentence(values: dict[str, Any], sentence: str) -> None:
    assert refused(Link, **{"network": "left", **values}).startswith(sentence)


def test_a_link_is_told_in_numbers_and_in_words() -> None:
    link = Link("left", rate="10Mbit", delay="40 ms", jitter="500us", loss="0.5%", reorder="1%")
    assert link.shape == Shape(10**7, 40000, 500, 0.5, reorder=1.0)
    assert link.shape.words() == "10Mbit 40ms±500us loss 0.5% reorder 1%"
    assert Shape().words() == "as it is"
    assert Link.from_table(link.to_data()) == link


@given(st.integers(1000, 10**12), st.integers(0, 6 * 10**7), st.integers(1, 10**6))
def test_what_is_written_of_a_link_is_read_again(rate: int, time: int, part: int) -> None:
    assert parse_time(time_text(time)) == time
    assert parse_percent(percent_text(part / 10**4)) == pytest.approx(part / 10**4)
    assert parse_rate(rate_text(rate)) == pytest.approx(rate, rel=1e-9)


LEFT = Network("left", "192.168.100.0/24")


def spec(group: dict[str, Any] | None = None, **keys: Any) -> Spec:
    changed = {"name": "p", "total": 2, "networks": ("left",), "main": False, **(group or {})}
    return Spec((Group(**changed),), **{"networks": (LEFT, Network("right")), **keys})


@pytest.mark.parametrize(
    ("group", "keys", "sentence"),
    [
        ({"networks": ["lab"]}, {}, "group p: network lab is not among left, right"),
        ({}, {"networks": ()}, "group p: network left is none of the spec, which has none: write"),
        ({"networks": ["main"]}, {}, "group p: networks has 'main', which a container has unless"),
        (
            {"total": 300},
            {},
            "network left: subnet 192.168.100.0/24 has 254 addresses, group p asks for 300",
        ),
        (
            {"networks": ["left:10.0.0.1"]},
            {},
            "group p: networks has 'left:10.0.0.1', and 10.0.0.1 is not in the network's subnet",
        ),
        (
            {"networks": ["left:192.168.100.0"]},
            {},
            "group p: networks has 'left:192.168.100.0', and 192.168.100.0 is the network address",
        ),
        (
            {"networks": ["left:192.168.100.255"]},
            {},
            "group p: networks has 'left:192.168.100.255', and 192.168.100.255 is the broadcast",
        ),
        ({}, {"wait": "ssh"}, 'group p: main is false and wait is "ssh": use "boot"'),
        ({}, {"networks": (LEFT, LEFT)}, "two networks have the name 'left': give each its own"),
        (
            {},
            {"networks": [LEFT, *(Network(f"n{i}") for i in range(8))]},
            "there are 9 networks; a job has at most 8 besides its main network",
        ),
        (
            {},
            {"networks": ["left"]},
            "networks is ['left']; it is a list such as [Network('left')]",
        ),
        ({}, {"links": "x"}, "links is 'x'; it is a list"),
        ({}, {"links": [1]}, "links is [1]; it is a list such as [Link('left', delay='40ms')]"),
        ({}, {"main": False}, "main is False; it is a Main, such as Main(internet=False)"),
        (
            {},
            {"links": [Link("lab", delay="1ms")]},
            "link 1: network lab is not among main, left, right",
        ),
        (
            {},
            {"links": [Link("left", delay="1ms"), Link("left", "q", delay="1ms")]},
            "link 2: from is 'q', which is neither '*' nor a group or container of p",
        ),
        (
            {},
            {"links": [Link("left", to="p01", delay="1ms")]},
            "link 1: to is 'p01', which is neither '*' nor a group or container of p",
        ),
        ({}, {"links": [Link("left")]}, "link 1: it changes nothing: give rate, delay, loss,"),
    ],
)
def test_parts_of_a_spec_that_do_not_fit_are_one_sentence(
    group: dict[str, Any], keys: dict[str, Any], sentence: str
) -> None:
    assert refused(spec, group, **keys).startswith(sentence)


def test_networks_may_overlap() -> None:
    both = (LEFT, Network("right", "192.168.100.0/24"))
    assert spec(networks=both).networks == both
    assert spec({"networks": ["left:192.168.100.9"]}).groups[0].networks == (
        Membership("left", "192.168.100.9"),
    )


def test_a_later_link_may_take_back_what_an_earlier_one_says() -> None:
    links = (Link("left", to="*", delay="1ms"), Link("left", "p1", "p2"))
    assert spec(links=links).links == links


def test_the_main_network_is_true_or_false_of_the_internet() -> None:
    assert refused(Main, internet="no") == "internet is 'no'; it is true or false"
    assert Spec(main=Main(internet=False)).main.internet is False
