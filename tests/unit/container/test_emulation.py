"""The commands of link emulation."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.container.emulation import (
    BFIFO,
    NETEM,
    commands,
    losses_text,
    queue_of,
    start_script,
)
from oar_lxc.linux.run import run
from oar_lxc.model.links import Shape
from oar_lxc.model.shaping import End, Shaping

ONE, TWO = End(3, "02:6d:0a:01:00:01"), End(4, "02:6d:0a:01:00:02")
FAST, SLOW = Shape(10**7), Shape(10**6, delay=40_000, jitter=5_000)
AT = Shaping("p1", "100.65.80.5/21", 1)


def test_a_pair_has_a_class_and_a_filter_by_the_sender() -> None:
    told = commands([replace(AT, pairs={ONE: FAST})])
    assert told.tc.splitlines() == [
        "qdisc add dev v1-64415005 root handle 1: htb default 1",
        "class replace dev v1-64415005 parent 1: classid 1:13 htb rate 10000000bit burst 15000 "
        "cburst 15000 quantum 12500",
        "qdisc replace dev v1-64415005 parent 1:13 handle 2013: bfifo limit 98304",
        "filter replace dev v1-64415005 parent 1: prio 1 handle 800::13 protocol all "
        "u32 match ether src 02:6d:0a:01:00:01 flowid 1:13",
    ]
    assert (told.before, told.after) == ("", "")


def test_what_an_interface_sends_passes_a_device_of_its_own() -> None:
    told = commands([replace(AT, outward=FAST, direct=(ONE,))])
    assert told.before.splitlines() == [
        "link add name u1-64415005 txqueuelen 1000 type ifb",
        "link set dev u1-64415005 up",
    ]
    lines = told.tc.splitlines()
    assert "qdisc add dev v1-64415005 ingress" in lines
    assert lines[-1].endswith("action mirred egress redirect dev u1-64415005")
    assert any("ether dst 02:6d:0a:01:00:01 flowid 1:0" in line for line in lines)
    gone = commands([], [replace(AT, outward=FAST)])
    assert gone.tc == "qdisc del dev v1-64415005 ingress\n"
    assert gone.after == "link del dev u1-64415005\n"


def test_nothing_is_done_where_nothing_changes() -> None:
    shaping = replace(AT, pairs={ONE: FAST, TWO: SLOW})
    assert commands([shaping], [shaping]).tc == ""
    assert commands([AT]).tc == ""
    assert commands([], [shaping]).tc == "qdisc del dev v1-64415005 root\n"


def test_loss_alone_needs_no_queue() -> None:
    shaping = replace(AT, pairs={ONE: Shape(loss=0.5)})
    assert commands([shaping]).tc == ""
    assert start_script(shaping) == ""
    assert "numgen random mod 1000000 < 5000 drop" in losses_text([shaping])


def test_a_start_sets_all_up_again_whatever_is_left_of_an_earlier_one(tmp_path: Path) -> None:
    script = start_script(replace(AT, outward=FAST))
    for name in ("ip", "tc"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name} $*"\nexec cat\n')
        program.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    # LXC adds arguments about the interface.
    path = tmp_path / "links.1"
    path.write_text(script)
    argv = ["sh", str(path), "p1", "net", "up", "veth", "v1-64415005"]
    lines = run(argv, env=env).stdout.splitlines()
    assert lines[:3] == [
        "ip link del dev u1-64415005",
        "ip -batch -",
        "link add name u1-64415005 txqueuelen 1000 type ifb",
    ]
    told = commands([replace(AT, outward=FAST)])
    assert "\n".join(lines).endswith(f"tc -batch -\n{told.tc.rstrip()}")


@pytest.mark.parametrize(
    ("shape", "kind", "options"),
    [
        (Shape(10**6), BFIFO, "bfifo limit 98304"),
        (Shape(10**9), BFIFO, "bfifo limit 6250000"),
        # 10 Mbit/s for 40 ms are 50,000 bytes on the way: places for packets of 500 bytes.
        (Shape(10**7, 40_000), NETEM, "netem limit 1162 delay 40000us"),
        (Shape(0, 40_000, 5_000), NETEM, "netem limit 176000 delay 40000us 5000us"),
        (
            Shape(10**7, 1000, duplicate=1, corrupt=0.5, reorder=25),
            NETEM,
            "netem limit 1064 delay 1000us duplicate 1.0000% corrupt 0.5000% reorder 25.0000%",
        ),
        (Shape(duplicate=1), NETEM, "netem limit 63500 duplicate 1.0000%"),
    ],
)
def test_a_queue_holds_all_that_is_on_the_way(shape: Shape, kind: int, options: str) -> None:
    assert queue_of(shape) == (kind, options)


def test_rules_for_loss_are_one_transaction_that_always_guards_the_underlay() -> None:
    text = losses_text([])
    assert text.startswith("table bridge oar_lxc_links\ndelete table bridge oar_lxc_links\n")
    assert 'iifname "v0-*" udp dport 290 drop' in text
    assert "vmap" not in text


def test_a_link_of_a_pair_spares_its_packets_those_of_the_cables() -> None:
    shaping = replace(
        AT,
        inward=Shape(loss=2),
        outward=Shape(loss=3),
        pairs={ONE: Shape(10**6), TWO: Shape(loss=100)},
        direct=(ONE,),
    )
    rules = [line.strip() for line in losses_text([shaping]).splitlines() if "vmap" in line]
    assert rules == [
        'oifname . ether saddr vmap { "v1-64415005" . 02:6d:0a:01:00:01 : accept, '
        '"v1-64415005" . 02:6d:0a:01:00:02 : goto loss_1000000 }',
        'iifname . ether daddr vmap { "v1-64415005" . 02:6d:0a:01:00:01 : accept }',
        'iifname vmap { "v1-64415005" : jump loss_30000 }',
        'oifname vmap { "v1-64415005" : jump loss_20000 }',
    ]


def test_who_has_no_internet_sends_to_the_main_network_alone() -> None:
    text = losses_text([], ["100.65.80.5"], "100.65.80.0/21")
    assert 'iifname { "v0-64415005" } ip daddr != 100.65.80.0/21 drop' in text


def word(pattern: str, line: str) -> str:
    """Return the word of a command that comes after another."""
    match = re.search(rf"{pattern} (\S+)", line)
    assert match, line
    return match[1]


class Kernel:
    """What tc commands make of devices: which class each end's packets pass."""

    def __init__(self) -> None:
        self.roots: set[str] = set()
        self.classes: dict[tuple[str, str], str] = {}
        self.queues: dict[tuple[str, str], str] = {}
        self.filters: dict[tuple[str, str], tuple[str, str]] = {}

    def run(self, line: str) -> None:
        """Carry out a command, or fail as the kernel would."""
        device = word(" dev", line)
        what, verb = line.split()[:2]
        if "ingress" in line or "ffff:" in line:
            return
        if what == "qdisc" and " root" in line:
            (self._add if verb == "add" else self.remove)(device)
            return
        assert device in self.roots, line
        if what == "class":
            key = (device, word("classid", line))
            if verb == "replace":
                self.classes[key] = line.partition("rate ")[2]
            else:
                assert key[1] not in {
                    target for (d, _), (_, target) in self.filters.items() if d == device
                }
                del self.classes[key]
                self.queues.pop(key, None)
        elif what == "qdisc":
            key = (device, word("parent", line))
            assert key in self.classes
            self.queues[key] = line.partition("handle ")[2]
        elif verb == "replace":
            handle = word("handle", line)
            address, target = word(r"ether \S+", line), word("flowid", line)
            assert target == "1:0" or (device, target) in self.queues
            self.filters[device, handle] = (address, target)
        else:
            del self.filters[device, word("handle", line)]

    def _add(self, device: str) -> None:
        assert device not in self.roots
        self.roots.add(device)

    def remove(self, device: str) -> None:
        """Remove the tree of a device."""
        self.roots.remove(device)
        self.classes = {key: value for key, value in self.classes.items() if key[0] != device}
        self.queues = {key: value for key, value in self.queues.items() if key[0] != device}
        self.filters = {key: value for key, value in self.filters.items() if key[0] != device}

    def passes(self, device: str, address: str) -> bool:
        """Whether packets of an end pass a class, and are not sent on unchanged."""
        for (where, _), (known, target) in self.filters.items():
            if (where, known) == (device, address):
                return target != "1:0"
        return (device, "1:1") in self.classes


shapes = st.sampled_from([Shape(), FAST, SLOW, Shape(loss=1.0)])
ends = st.lists(st.sampled_from([ONE, TWO, End(5, "02:6d:0a:01:00:03")]), unique=True)
some = st.builds(
    lambda inward, outward, pairs, direct: replace(
        AT, inward=inward, outward=outward, pairs=pairs, direct=tuple(direct) if outward else ()
    ),
    st.none() | shapes,
    st.none() | shapes,
    st.dictionaries(st.sampled_from([ONE, TWO, End(5, "02:6d:0a:01:00:03")]), shapes),
    ends,
)


@given(st.lists(some, min_size=1, max_size=5))
def test_no_packet_passes_by_the_side_while_links_change(steps: list[Shaping]) -> None:
    kernel, before = Kernel(), AT
    for step in steps:
        told = commands([step], [before])
        lines = told.tc.splitlines()
        states = [_shaped(kernel)]
        for line in lines:
            kernel.run(line)
            states.append(_shaped(kernel))
        for end in (ONE, TWO):
            way = [state[end] for state in states]
            if way[0] and way[-1]:
                assert all(way), (lines, end)
        for line in told.after.splitlines():  # a device takes its tree with it
            kernel.remove(line.split()[-1])
        before = step
    fresh = Kernel()
    for line in commands([before]).tc.splitlines():
        fresh.run(line)
    assert (kernel.classes, kernel.filters) == (fresh.classes, fresh.filters)
    assert kernel.queues == fresh.queues


def _shaped(kernel: Kernel) -> dict[End, bool]:
    return {end: kernel.passes("v1-64415005", end.hardware) for end in (ONE, TWO)}
