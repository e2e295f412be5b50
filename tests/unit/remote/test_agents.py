"""The way to agents on nodes: the real fan-out, with an oarsh and agents of our own."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from oar_lxc.client.lookup import find_remote
from oar_lxc.errors import NodeError, UsageError
from oar_lxc.model.wire import HEARTBEAT
from oar_lxc.remote.agents import Remote, raise_first
from tests.unit.fakes import add_program

# oarsh OPTIONS NODE COMMAND: the agent learns the node's name from the environment.
OARSH = """
while [ $# -gt 2 ]; do shift; done
echo "$1 $OAR_JOB_ID" >> "$CALLS"
[ "$1" = unreachable ] && { echo "ssh: connect to host $1: No route to host" >&2; exit 255; }
NODE=$1 exec sh -c "$2"
"""
# What every program of ours begins with.
UP_SAID = 'printf \'\\n["", "up"]\\n\''
ECHO = """
read -r request
printf '{"event": "told", "node": "%s", "argv": "%s", "request": %s}\\n' "$NODE" "$*" "$request"
echo '{"event": "done"}'
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    add_program(tmp_path / "bin", "oarsh", OARSH)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    (tmp_path / "calls").touch()
    return tmp_path / "calls"


def remote(tmp_path: Path, agent: str, *nodes: str, local: str = "", up: bool = True) -> Remote:
    add_program(tmp_path, "agent", f"{UP_SAID if up else ''}\n{agent}")
    return Remote(42, nodes, local, str(tmp_path / "agent"))


def call(
    way: Remote, request: dict[str, Any] | None = None, nodes: list[str] | None = None
) -> tuple[list[tuple[str, dict[str, Any]]], list[NodeError]]:
    events: list[tuple[str, dict[str, Any]]] = []
    errors = way.call(
        "list", request or {}, lambda node, event: events.append((node, event)), nodes
    )
    return sorted(events, key=lambda item: item[0]), errors


def test_every_node_gets_the_request_and_its_events_come_back(tmp_path: Path, calls: Path) -> None:
    way = remote(tmp_path, ECHO, "node1", "node2", local="node1")
    request = {"text": "it's \udcff, é\n"}
    events, errors = call(way, request)
    assert errors == []
    assert [(node, event["node"]) for node, event in events] == [("node1", ""), ("node2", "node2")]
    for node, event in events:
        assert event["argv"].partition("isolated.py ")[2] == "oar_lxc.agent.main 42 list"
        assert event["request"] == (request if node == "node1" else {**request, HEARTBEAT: True})


def test_other_nodes_are_reached_by_oarsh_with_the_jobs_id_and_this_one_is_not(
    tmp_path: Path, calls: Path
) -> None:
    call(remote(tmp_path, ECHO, "node1", "node2", "node3", local="node1"))
    assert sorted(calls.read_text().splitlines()) == ["node2 42", "node3 42"]


def test_a_look_at_another_job_leaves_this_job_this_job(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nodes").write_text("node1\nnode2\n")
    monkeypatch.setenv("OAR_JOB_ID", "41")
    monkeypatch.setenv("OAR_NODEFILE", str(tmp_path / "nodes"))
    before = dict(os.environ)
    assert call(remote(tmp_path, ECHO, "node2", "node3"))[1] == []
    assert sorted(calls.read_text().splitlines()) == ["node2 42", "node3 42"]
    assert dict(os.environ) == before
    here = find_remote(None)
    assert (here.job_id, here.nodes) == (41, ("node1", "node2"))


def test_the_agent_of_this_node_is_told_which_job_is_asked_about(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OAR_JOB_ID", "41")
    agent = """
    printf '{"event": "told", "job": "%s"}\\n' "$OAR_JOB_ID"; echo '{"event": "done"}'
    """
    events, errors = call(remote(tmp_path, agent, "node1", local="node1"))
    assert (events[0][1]["job"], errors) == ("42", [])


def test_only_the_nodes_asked_for_are_called(tmp_path: Path, calls: Path) -> None:
    way = remote(tmp_path, ECHO, "node1", "node2", "node3", local="node1")
    events, errors = call(way, nodes=["node3"])
    assert ([node for node, _ in events], errors) == (["node3"], [])
    assert calls.read_text() == "node3 42\n"


def test_nodes_work_at_the_same_time(tmp_path: Path, calls: Path) -> None:
    # Each waits for the file that the other one makes.
    agent = f"""
    cd {tmp_path}
    if mkdir first 2>/dev/null; then other=second; else mkdir second; other=first; fi
    while ! [ -d $other ]; do sleep 0.01; done
    echo '{{"event": "done"}}'
    """
    assert call(remote(tmp_path, agent, "node1", "node2", local="node1"))[1] == []


def test_an_event_is_told_before_the_agent_ends(tmp_path: Path, calls: Path) -> None:
    agent = f"""
    echo '{{"event": "first"}}'
    while ! [ -e {tmp_path}/told ]; do sleep 0.01; done
    echo '{{"event": "done"}}'
    """
    way = remote(tmp_path, agent, "node1", "node2", local="node1")
    errors = way.call("list", {}, lambda node, event: (tmp_path / "told").touch())
    assert errors == []


def test_a_failing_agent_says_why(tmp_path: Path, calls: Path) -> None:
    agent = 'echo \'{"event": "error", "reason": "image x does not exist"}\'; exit 1'
    _, errors = call(remote(tmp_path, agent, "node1", "node2", local="node1"))
    assert [str(error) for error in errors] == [
        "node node1: image x does not exist",
        "node node2: image x does not exist",
    ]


def test_a_node_that_cannot_be_reached_is_told_with_what_oarsh_said(
    tmp_path: Path, calls: Path
) -> None:
    events, errors = call(remote(tmp_path, ECHO, "node1", "unreachable", local="node1"))
    assert [node for node, _ in events] == ["node1"]
    (error,) = errors
    assert error.node == "unreachable"
    assert str(error) == (
        "node unreachable: it cannot be reached: ssh: connect to host unreachable: "
        "No route to host"
    )


def test_an_agent_that_ends_without_a_word_has_failed(tmp_path: Path, calls: Path) -> None:
    _, errors = call(remote(tmp_path, "exit 0", "node2"))
    assert "(status 0): it said nothing" in str(errors[0])


def test_an_agent_that_dies_half_way_has_failed(tmp_path: Path, calls: Path) -> None:
    agent = 'echo \'{"event": "first"}\'; kill -9 $$'
    events, errors = call(remote(tmp_path, agent, "node1", local="node1"))
    assert [event for _, event in events] == [{"event": "first"}]
    assert [error.node for error in errors] == ["node1"]


def test_a_traceback_is_told_by_its_last_line(tmp_path: Path, calls: Path) -> None:
    agent = 'printf "Traceback:\\n  line 1\\nMemoryError: full\\n" >&2; exit 1'
    _, errors = call(remote(tmp_path, agent, "node2"))
    assert str(errors[0]).endswith(": MemoryError: full")
    assert "\n" not in str(errors[0])


def test_what_is_no_event_is_no_event(tmp_path: Path, calls: Path) -> None:
    agent = """
    echo 'Welcome to node2!'; echo '7'; echo '{"event"'; echo '{"other": 1}'; echo '[]'
    echo '{"event": "real"}'; echo '{"event": "done"}'
    """
    events, errors = call(remote(tmp_path, agent, "node2"))
    assert [event for _, event in events] == [{"event": "real"}]
    assert errors == []


def test_what_a_login_shell_writes_is_no_event_and_its_reads_take_nothing(
    tmp_path: Path, calls: Path
) -> None:
    """Whatever it looks like, and though the end of its line is missing."""
    noise = 'echo \'{"event": "false"}\'; echo \'["", "up"\'; printf \'no end\'; read -t 0.3 x;'
    agent = f"{noise}\n{UP_SAID}\n{ECHO}"
    way = remote(tmp_path, agent, "node2", up=False)
    script = (tmp_path / "agent").read_text().replace("#!/bin/sh", "#!/bin/bash", 1)
    (tmp_path / "agent").write_text(script)
    events, errors = call(way, {"text": "x"})
    assert errors == []
    assert [event["request"]["text"] for _, event in events] == ["x"]


@pytest.mark.parametrize("status", [0, 1, 3])
def test_a_login_shell_that_ends_too_early_is_blamed(
    tmp_path: Path, calls: Path, status: int
) -> None:
    _, errors = call(remote(tmp_path, f"echo Bye; exit {status}", "node2", up=False))
    assert str(errors[0]) == (
        f"node node2: your login shell ended there (status {status}) before oar-lxc could begin, "
        "and wrote 'Bye': look at what ~/.bashrc, or your shell's file like it, does where there "
        "is no terminal"
    )


@pytest.mark.parametrize("local", ["node1", ""])
def test_a_node_without_oar_lxc_is_told_so(tmp_path: Path, calls: Path, local: str) -> None:
    # -S hides what is installed beside the interpreter, -I what lies in the working directory.
    agent = f'shift 2; exec {shlex.quote(sys.executable)} -I -S -m "$@"'
    _, errors = call(remote(tmp_path, agent, "node1", local=local, up=False))
    assert str(errors[0]) == (
        "node node1: oar-lxc is not installed there: ask the administrator to install it"
    )


def test_a_node_without_python_is_told_so(tmp_path: Path, calls: Path) -> None:
    _, errors = call(Remote(42, ["node2"], "", "/no/such/python3"))
    assert "oar-lxc is not installed there" in str(errors[0])


def test_an_interrupt_waits_for_no_agent(
    tmp_path: Path, calls: Path, request: pytest.FixtureRequest
) -> None:
    def interrupt(node: str, event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    agent = f'echo $$ > {tmp_path}/pid; echo \'{{"event": "first"}}\'; exec sleep 60'
    way = remote(tmp_path, agent, "node1", local="node1")
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        way.call("list", {}, interrupt)
    assert time.monotonic() - begin < 10
    request.addfinalizer(lambda: kill(int((tmp_path / "pid").read_text())))


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_after_an_interrupt_nodes_can_be_called_again(tmp_path: Path, calls: Path) -> None:
    def interrupt(node: str, event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    way = remote(tmp_path, ECHO, "node1", "node2", local="node1")
    with pytest.raises(KeyboardInterrupt):
        way.call("list", {}, interrupt)
    events, errors = call(way)
    assert ([node for node, _ in events], errors) == (["node1", "node2"], [])


def test_long_lines_come_whole(tmp_path: Path, calls: Path) -> None:
    text = json.dumps({"event": "long", "data": "x" * 300_000})
    (tmp_path / "line").write_text(text + "\n")
    agent = f'cat {tmp_path}/line; echo \'{{"event": "done"}}\''
    events, errors = call(remote(tmp_path, agent, "node2"))
    assert errors == []
    assert len(events[0][1]["data"]) == 300_000


def test_the_first_error_is_raised_where_there_is_one() -> None:
    raise_first([])
    with pytest.raises(UsageError, match="a"):
        raise_first([UsageError("a"), UsageError("b")])


def test_a_call_can_be_left_although_oarsh_cannot_be_killed(tmp_path: Path, calls: Path) -> None:
    # As the real one, which runs as another user; it ends when it cannot pass on what it hears.
    heard = tmp_path / "heard"
    speaker = f"trap '' PIPE; while echo; do sleep 0.05; done; touch {heard}"
    body = f'setsid sh -c "{speaker}" & sleep 600'
    add_program(tmp_path / "bin", "oarsh", body)
    way = remote(tmp_path, ECHO, "node1", "node2", local="node2")
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError))
    signal.setitimer(signal.ITIMER_REAL, 1)
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        call(way)
    assert time.monotonic() - begin < 10
    while not heard.exists() and time.monotonic() - begin < 20:
        time.sleep(0.01)
    assert heard.exists()
