"""The log of the root side."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.linux.node_log import NodeLog, print_result, say


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_is_an_object_with_time_level_event_and_keys(tmp_path: Path) -> None:
    log = NodeLog(tmp_path / "log").bind(job=42)
    log.write("left", "error", left="a\nb", path=Path("/x"))
    (line,) = lines(tmp_path / "log")
    stamp = datetime.fromisoformat(str(line.pop("timestamp")))
    assert abs((datetime.now(UTC) - stamp).total_seconds()) < 60
    assert line == {"level": "error", "event": "left", "job": 42, "left": "a\nb", "path": "/x"}


KEYS = st.text().filter(lambda key: key not in ("self", "event", "level", "timestamp"))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
VALUES = st.recursive(
    PLAIN | st.just(Path("/var/lib")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FACTS = st.dictionaries(KEYS, VALUES, max_size=3)
LEVELS = st.sampled_from(["info", "warning", "error"])


def write_with_structlog(
    level: str, event: str, bound: dict[str, object], keys: dict[str, object]
) -> str:
    """Return what structlog itself writes; its keys in our order, the time first."""

    def in_our_order(
        logger: object, method: str, facts: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        first = {key: facts[key] for key in ("timestamp", "level", "event")}
        return {**first, **facts}

    out = io.StringIO()
    log = structlog.wrap_logger(
        structlog.PrintLogger(out),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            in_our_order,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.BoundLogger,
    )
    getattr(log.bind(**bound), level)(event, **keys)
    return out.getvalue()


@given(LEVELS, st.text(), FACTS, FACTS)
def test_a_line_is_the_one_that_structlog_writes(
    tmp_path: Path,
    level: str,
    event: str,
    bound: dict[str, object],
    keys: dict[str, object],
) -> None:
    (tmp_path / "log").unlink(missing_ok=True)
    NodeLog(tmp_path / "log").bind(**bound).write(event, level, **keys)
    ours = (tmp_path / "log").read_text()
    theirs = write_with_structlog(level, event, bound, keys)
    stamp = r'^{"timestamp": "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]{6})?Z", '
    assert re.match(stamp, ours)
    assert re.match(stamp, theirs)
    assert re.sub(stamp, "", ours) == re.sub(stamp, "", theirs)


def test_bound_keys_do_not_leak_into_other_logs(tmp_path: Path) -> None:
    log = NodeLog(tmp_path / "log")
    log.bind(job=42)
    log.write("x")
    assert "job" not in lines(tmp_path / "log")[0]


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    NodeLog(tmp_path / "missing/log").write("x")
    with NodeLog(tmp_path).step("x"):
        pass


def test_a_fifo_in_its_place_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    NodeLog(tmp_path / "log").write("x")


@pytest.mark.parametrize("end", ["exec >&-", "exec >/dev/full", "true"])
def test_nobody_has_to_read_what_is_told(end: str) -> None:
    code = (
        "from oar_lxc.linux.node_log import print_result\n"
        "for _ in range(9): print_result('\\udcff' * 9999)\n"
        "exit(7)"
    )
    script = f'{end}; "$@"; echo $? >&2'
    argv = ["sh", "-c", script, "sh", sys.executable, "-c", code]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"7\n"


def test_a_log_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("victim")
    NodeLog(tmp_path / "log").write("x")
    assert not (tmp_path / "victim").exists()


def test_lines_of_many_writers_stay_whole(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for _ in range(20):
            NodeLog(tmp_path / "log").write("x" * 500, number=number)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(tmp_path / "log")) == 160


def test_a_step_tells_how_long_it_took(tmp_path: Path) -> None:
    with NodeLog(tmp_path / "log").step("links"):
        pass
    (line,) = lines(tmp_path / "log")
    assert (line["event"], line["step"]) == ("step done", "links")
    assert isinstance(line["seconds"], float)


def test_a_step_that_fails_is_logged_and_the_error_goes_on(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), NodeLog(tmp_path / "log").step("files"):
        raise OSError("disk full")
    (line,) = lines(tmp_path / "log")
    assert (line["event"], line["level"], line["error"]) == ("step failed", "error", "disk full")


def test_what_is_said_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    say("job 42 left")
    assert capsys.readouterr() == ("", "oar-lxc-node: job 42 left\n")


def test_what_is_said_does_not_act_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("left: /tmp/\x1b[2J\r\udcff\nit is kept")
    print_result('{\n "files": []\n}')
    told = capsys.readouterr()
    assert told.err == "oar-lxc-node: left: /tmp/?[2J?\\udcff\nit is kept\n"
    assert told.out == '{\n "files": []\n}\n'
