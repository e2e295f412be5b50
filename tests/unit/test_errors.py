"""Errors: fields for programs, a sentence for people."""

from __future__ import annotations

import inspect
import pickle

import pytest

from oar_lxc import errors
from oar_lxc.errors import (
    CommandError,
    CommandTimeoutError,
    ContainerError,
    LaunchError,
    NodeError,
    OarLxcError,
)

CONTAINER = ContainerError("vm1", "node1", "LXC could not start it", ["WARN a", "ERROR b"])
EXAMPLES = [
    OarLxcError("x"),
    CONTAINER,
    NodeError("node2", "no route"),
    LaunchError([CONTAINER, NodeError("node2", "no route")]),
    CommandError(["ip", "link"], 2, "no device\n"),
    CommandTimeoutError(["ip"], 1.5),
]


def test_every_error_has_the_same_root_and_a_status_that_is_a_failure() -> None:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    found = [c for c in classes if issubclass(c, Exception)]
    assert len(found) > 10
    for error in found:
        assert issubclass(error, OarLxcError)
        assert 0 < error.exit_status < 126


def test_a_containers_error_says_which_where_why_and_ends_with_the_log() -> None:
    assert str(CONTAINER) == (
        "container vm1 on node node1: LXC could not start it\n    WARN a\n    ERROR b"
    )
    assert str(ContainerError("vm1", "", "gone")) == "container vm1: gone"


def test_a_launch_error_tells_every_failure() -> None:
    error = EXAMPLES[3]
    assert str(CONTAINER) in str(error)
    assert "node node2: no route" in str(error)


def test_an_error_of_many_containers_shows_the_logs_of_few() -> None:
    log = [f"line {number}" for number in range(20)]
    late = [ContainerError(f"vm{n}", "node1", "it is late", log) for n in range(1, 101)]
    other = ContainerError("db1", "node2", "it is broken", log)
    lines = str(LaunchError([*late, other, NodeError("node3", "no route")])).splitlines()
    assert len(lines) == 1 + 3 * 21 + 3
    assert lines[1:3] == ["container vm1 on node node1: it is late", "    line 0"]
    assert lines[-3].startswith("97 more containers, vm4, vm5, ")
    assert lines[-3].endswith(", vm100: it is late")
    assert lines[-2:] == ["1 more container, db1: it is broken", "node node3: no route"]


def test_a_commands_error_says_what_ran_how_it_ended_and_what_it_said() -> None:
    assert str(EXAMPLES[4]) == "ip link ended with status 2: no device"
    assert str(EXAMPLES[5]) == "ip did not end within 1.5 s and was killed"


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_an_error_can_cross_to_another_process(error: OarLxcError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
