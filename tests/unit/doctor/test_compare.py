"""What does not fit between machines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oar_lxc import __version__
from oar_lxc.doctor.compare import compare, judge_clock, judge_images, judge_names
from oar_lxc.doctor.findings import Machine, Outcome, Role, well
from oar_lxc.doctor.report import Facts, Report, status_of

FACTS = Facts(
    version=__version__,
    time=1000.0,
    cpuset=True,
    prepare="stanza",
    pool="100.64.0.0/10",
    users="1000-5094",
    addresses=("10.0.0.1",),
    names={"node1": "10.0.0.1"},
    images={"debian-12": "sha256:1"},
)
SERVER = Machine(Role.SERVER, root=True, conf=None)


def found(changes: dict[str, Any], machine: Machine = SERVER) -> list[str]:
    """Return what is not well of a node that differs from two others."""
    odd = replace(FACTS, **changes)
    reports = [
        Report(name, "node", (well("x"),), facts)
        for name, facts in {"node1": odd, "node2": FACTS, "node3": FACTS}.items()
    ]
    done = compare([*reports, Report("node4", "", ())], machine)
    assert [one.findings[0] for one in done[:3]] == [well("x")] * 3
    assert done[3].findings == ()  # not reached, so not compared
    return [
        f"{report.machine}: {one.said}"
        for report in done
        for one in report.findings
        if one.outcome is not Outcome.WELL
    ]


def test_nodes_that_are_alike_are_well() -> None:
    assert found({}) == []


def test_a_node_may_have_its_own_name_on_its_loopback() -> None:
    assert found({"names": {"node1": "127.0.1.1"}}) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": "0.0.9"}, f"version is 0.0.9, and {__version__} elsewhere"),
        ({"cpuset": False}, "cpuset is off, and on elsewhere"),
        ({"prepare": "prologue"}, "prepare is prologue, and stanza elsewhere"),
        ({"pool": "10.0.0.0/8"}, "pool is 10.0.0.0/8, and 100.64.0.0/10 elsewhere"),
        ({"images": {}}, "the node lacks image debian-12"),
        ({"images": None}, "the images of node1 are not known"),
        ({"pool": ""}, "pool is not known of node1"),
    ],
)
def test_a_node_that_differs_is_told(changes: dict[str, Any], told: str) -> None:
    assert found(changes) == [f"node1: {told}"]


def test_users_are_compared_where_no_stanza_brings_the_servers() -> None:
    assert found({"users": "1000-1001"}) == []
    machine = replace(SERVER, stanza=False)
    assert "node1: users is 1000-1001, and 1000-5094 elsewhere" in found(
        {"users": "1000-1001", "prepare": "prologue"}, machine
    )


def test_images_of_one_name_are_the_same_everywhere() -> None:
    others = [{"a": "1", "b": "1"}, {"a": "2"}]
    assert judge_images("node1", others[0], others).outcome is Outcome.WELL
    odd = judge_images("node2", others[1], others)
    assert odd.said == "the node lacks image b, has another image a than other nodes"
    assert odd.mend == (
        "oar-lxc image import b ARCHIVE && oar-lxc image rm a && oar-lxc image import a ARCHIVE"
        "    # on node2"
    )
    assert "image build debian-12" in judge_images("n", {}, [{"debian-12": "1"}]).mend


def test_a_name_has_to_lead_to_an_address_of_the_node() -> None:
    facts = {"node2": replace(FACTS, addresses=("10.0.0.2", "192.0.2.2"))}
    outcomes = [
        [one.outcome.value for one in judge_names({"node2": address}, facts)]
        for address in ("10.0.0.2", "192.0.2.2", "10.0.0.9", "")
    ]
    assert outcomes == [["well"], ["well"], ["problem"], []]  # the last is the node's own finding
    assert list(judge_names({"node9": "10.0.0.9"}, facts)) == []  # not reached


@pytest.mark.parametrize(
    ("there", "outcome", "off"),
    [
        (1000.0, "well", "within"),
        (1004.0, "well", "within"),  # asked from 1000 to 1005
        (1008.0, "warning", "3 s off"),
        (990.0, "warning", "10 s off"),
        (1200.0, "problem", "195 s off"),
        (0.0, "problem", "1000 s off"),
    ],
)
def test_clocks(there: float, outcome: str, off: str) -> None:
    one = judge_clock("node1", there, 1000.0, 1005.0)
    assert (one.check, one.outcome.value, off in one.said) == ("clock", outcome, True)


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        (["well"], 0),
        (["well", "warning"], 0),
        (["well", "warning", "unknown"], 3),
        (["well", "unknown", "problem"], 1),
        ([], 3),
    ],
)
def test_the_status_is_that_of_the_worst(outcomes: list[str], status: int) -> None:
    reports = [Report("n", "node", (replace(well("x"), outcome=Outcome(o)),)) for o in outcomes]
    assert status_of(reports) == status


def test_a_report_survives_json() -> None:
    report = Report("node1", "node", (replace(well("x"), check="disk"),), FACTS)
    assert Report.from_data(report.to_data(), "node1") == report
