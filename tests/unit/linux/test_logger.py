"""What the package logs: to whoever has configured structlog, and never to standard output."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from oar_lxc.cli.main import log_to_stderr
from oar_lxc.linux.logger import get_logger
from oar_lxc.linux.node_log import NodeLog

PACKAGE = Path(__file__).parents[3] / "oar_lxc"
# Programs, which write what they are asked for; the command line is one as a whole.
PROGRAMS = {"agent/forward.py", "agent/main.py", "linux/node_log.py", "remote/fanout.py"}
PROGRAMS |= {"sandbox/check_host.py", "setup/deb.py"}
# What job scripts choose to print with, and what empties buffers before a fork.
CHOSEN = {"client/progress.py", "linux/fork.py"}


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def log_all() -> None:
    log = get_logger(job=42)
    log.debug("running a program", command="true")
    log.bind(node="node1").info("asking nodes")
    with log.step("launch"):
        pass
    log.warning("not destroyed yet", reason="no\nway")


def test_unconfigured_only_a_warning_is_written_and_not_to_standard_output(
    capfd: pytest.CaptureFixture[str],
) -> None:
    log_all()
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "oar-lxc: warning: not destroyed yet: job=42 reason=no?way\n"


def test_structlog_is_not_loaded_by_those_that_log() -> None:
    code = (
        "import sys; from oar_lxc.linux.logger import get_logger; get_logger().info('x')\n"
        "import oar_lxc.client.session, oar_lxc.image.importing, oar_lxc.setup.steps\n"
        "import oar_lxc.oar.sweep, oar_lxc.sandbox.report\n"
        "assert 'structlog' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=True)


def test_where_a_program_has_configured_structlog_its_own_is_used() -> None:
    with structlog.testing.capture_logs() as logs:
        structlog.configure()
        log_all()
    assert [event["event"] for event in logs] == [
        "running a program",
        "asking nodes",
        "step begun",
        "step done",
        "not destroyed yet",
    ]
    assert {event["job"] for event in logs} == {42}
    assert logs[1]["node"] == "node1"
    assert logs[4]["log_level"] == "warning"


def test_a_step_that_fails_is_told_and_raises() -> None:
    with structlog.testing.capture_logs() as logs:
        structlog.configure()
        with pytest.raises(OSError, match="no"), get_logger().step("x", job=1):
            raise OSError("no")
    assert logs[1].pop("seconds") >= 0
    assert logs[1] == {
        "event": "step failed",
        "step": "x",
        "error": "no",
        "job": 1,
        "log_level": "info",
    }


def test_lines_of_json_have_the_keys_of_the_nodes_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr(as_json=True)
    with get_logger(job=42).step("ids"):
        pass
    out, err = capfd.readouterr()
    assert out == ""
    _, done = map(json.loads, err.splitlines())
    with NodeLog(tmp_path / "log").bind(job=42).step("ids"):
        pass
    of_node = json.loads((tmp_path / "log").read_text())
    for line in (done, of_node):
        line.pop("seconds")
        assert len(line.pop("timestamp")) == len("2026-01-02T03:04:05.000006Z")
    assert done == of_node
    assert list(done)[0:2] == list(of_node)[0:2]


def test_lines_for_people_tell_what_is_done_and_when(capfd: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    log_all()
    out, err = capfd.readouterr()
    assert out == ""
    assert "asking nodes" in err
    assert "node=node1" in err
    assert "after=" in err
    assert len(err.splitlines()) >= 5


def test_no_part_of_the_library_names_standard_output() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if ast.unparse(node) in ("sys.stdout", "print")
    }
    found = {name for name in found if not name.startswith("cli/")}
    assert found <= PROGRAMS | CHOSEN
