"""What is read from LXC's log of a container."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oar_lxc.container.lxc_log import LOG_TAIL, log_size, log_tail, why_full, why_no_init


def test_the_end_of_the_log_comes_without_time_stamps(tmp_path: Path) -> None:
    (tmp_path / "vm1").mkdir()
    lines = [
        f"lxc-start vm1 20240229101112.345 WARN conf - conf.c:1 - line {i}" for i in range(20)
    ]
    lines.append("vm1 20240229101112.346 ERROR start - start.c:2 - no init")
    (tmp_path / "vm1/lxc.log").write_text("\n".join(lines) + "\n")
    tail = log_tail(tmp_path / "vm1")
    assert len(tail) == LOG_TAIL
    assert tail[0] == f"WARN conf - conf.c:1 - line {21 - LOG_TAIL}"
    assert tail[-1] == "ERROR start - start.c:2 - no init"


def test_what_only_follows_from_a_failure_does_not_hide_it(tmp_path: Path) -> None:
    why = 'ERROR start - start.c:2 - No such file or directory - Failed to exec "/sbin/init"'
    busy = "WARN cgfsng - cgfsng.c:cgfsng_monitor_destroy:926 - Device or resource busy - Failed"
    lines = [f"vm1 20240229101112.346 {line}" for line in (why, *[busy] * LOG_TAIL)]
    (tmp_path / "lxc.log").write_text("\n".join(lines) + "\n")
    assert log_tail(tmp_path) == [why]
    assert why_no_init(log_tail(tmp_path))


def test_a_log_with_any_bytes_is_read(tmp_path: Path) -> None:
    (tmp_path / "vm1").mkdir()
    (tmp_path / "vm1/lxc.log").write_bytes(b"vm1 20240229101112.346 ERROR \xff\xfe\n")
    assert log_tail(tmp_path / "vm1") == ["ERROR \ufffd\ufffd"]


FULL = "ERROR attach - attach.c:1 - Resource temporarily unavailable - Failed to clone attached\n"


@pytest.mark.parametrize(
    ("before", "after", "limit", "told"),
    [
        ("", FULL, 8, True),
        ("x\n", FULL, 8, True),
        (FULL, "", 8, False),  # it was another command that found no room
        (FULL, "ERROR attach - attach.c:2 - No such process\n", 8, False),
        ("", FULL, 0, False),  # it is the job or the node that has none left
    ],
)
def test_that_a_limit_leaves_no_room_is_read_from_the_log_and_the_plan(
    tmp_path: Path, before: str, after: str, limit: int, told: bool
) -> None:
    (tmp_path / "container.json").write_text(json.dumps({"processes": limit}))
    (tmp_path / "lxc.log").write_text(before)
    written = log_size(tmp_path)
    with (tmp_path / "lxc.log").open("a") as log:
        log.write(after)
    sentence = f"processes is {limit}, which leaves no room for a command: "
    assert why_full(tmp_path, written).startswith(sentence if told else "")
    assert bool(why_full(tmp_path, written)) == told


def test_a_container_without_a_log_is_not_full(tmp_path: Path) -> None:
    assert why_full(tmp_path, log_size(tmp_path)) == ""


def test_a_missing_log_has_no_lines(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "vm1") == []
