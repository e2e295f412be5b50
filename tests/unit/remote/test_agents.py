"""The way to agents on nodes: the real fan-out, with an oarsh and agents of our own."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from oar_lxc.client.lookup import find_remote
from oar_lxc.errors import ContainerError, NodeError, UsageError
from oar_lxc.linux.background import in_background
from oar_lxc.model.events import Changed, Event, Gone, Output
from oar_lxc.model.requests import Exec, Freeze, List, Request
from oar_lxc.model.wire import REQUESTS, decode, encode
from oar_lxc.remote.agents import LateRequest, Remote, raise_first
from tests.unit.fakes.programs import add_program, wait_until

# oarsh OPTIONS NODE COMMAND: the agent learns the node's name from the environment.
OARSH = """
while [ $# -gt 2 ]; do shift; done
echo "$1 $OAR_JOB_ID" >> "$CALLS"
[ "$1" = unreachable ] && { echo "ssh: connect to host $1: No route to host" >&2; exit 255; }
NODE=$1 exec sh -c "$2"
"""
# What every program of ours begins with.
UP_SAID = 'printf \'\\n["", "up"]\\n\''
# An agent that tells what it was asked, as what a command wrote to a stream with the node's name.
ECHO = """
read -r request
printf '%s' "$request" > "$CALLS.request.$NODE"
printf '{"event": "output", "container": "vm1", "stream": "%s", "data": "%s"}\\n' "$NODE" "$*"
echo '{"event": "done"}'
"""
GONE = Gone("vm1")
TELL_GONE = 'echo \'{"event": "gone", "container": "vm1"}\''


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
    way: Remote, request: Request | None = None, nodes: list[str] | None = None
) -> tuple[list[tuple[str, Event]], list[NodeError]]:
    events: list[tuple[str, Event]] = []
    errors = way.call(request or List(), lambda node, event: events.append((node, event)), nodes)
    return sorted(events, key=lambda item: item[0]), errors


def test_every_node_gets_the_request_and_its_events_come_back(tmp_path: Path, calls: Path) -> None:
    way = remote(tmp_path, ECHO, "node1", "node2", local="node1")
    request = Exec(("vm1",), ("cat",), "it's \udcff, é\n")
    events, errors = call(way, request)
    assert errors == []
    for (node, event), where in zip(events, ("", "node2"), strict=True):
        assert isinstance(event, Output)
        assert event.stream == where
        assert event.data.partition("isolated.py ")[2] == "oar_lxc.agent.main 42 exec"
        line = Path(f"{calls}.request.{where}").read_text()
        assert decode(line, REQUESTS, "exec") == replace(request, heartbeat=node == "node2")


def test_a_request_can_be_made_while_the_agents_come_up(tmp_path: Path, calls: Path) -> None:
    way = remote(tmp_path, f"touch {tmp_path}/up\n{ECHO}", "node1", local="node1")

    def make() -> Request:
        while not (tmp_path / "up").exists():
            time.sleep(0.01)
        return Freeze(("vm1",))

    assert way.call(LateRequest(Freeze, make), lambda node, event: None) == []
    line = Path(f"{calls}.request.").read_text()
    assert decode(line, REQUESTS, "freeze") == Freeze(("vm1",))


def test_events_of_one_kind_are_collected_with_their_nodes(tmp_path: Path, calls: Path) -> None:
    agent = f"{TELL_GONE}; {ECHO}"
    way = remote(tmp_path, agent, "node1", "node2", local="node1")
    assert sorted(way.collect(List(), Gone)) == [("node1", GONE), ("node2", GONE)]
    assert way.collect(List(), Gone, ["node2"]) == [("node2", GONE)]
    assert way.collect(List(), Changed) == []


def test_what_failed_is_raised_instead_of_what_is_collected(tmp_path: Path, calls: Path) -> None:
    failed = 'echo \'{"event": "failed", "container": "vm2", "reason": "no", "log": ["x"]}\''
    with pytest.raises(ContainerError, match="container vm2 on node node2: no\n    x"):
        remote(tmp_path, f"{TELL_GONE}; {failed}; {ECHO}", "node2").collect(List(), Gone)
    with pytest.raises(NodeError, match="it said nothing"):
        remote(tmp_path, f"{TELL_GONE}; exit 0", "node2").collect(List(), Gone)


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
    printf '{"event": "gone", "container": "%s"}\\n' "$OAR_JOB_ID"; echo '{"event": "done"}'
    """
    events, errors = call(remote(tmp_path, agent, "node1", local="node1"))
    assert (events, errors) == ([("node1", Gone("42"))], [])


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
    {TELL_GONE}
    while ! [ -e {tmp_path}/told ]; do sleep 0.01; done
    echo '{{"event": "done"}}'
    """
    way = remote(tmp_path, agent, "node1", "node2", local="node1")
    errors = way.call(List(), lambda node, event: (tmp_path / "told").touch())
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
    agent = f"{TELL_GONE}; kill -9 $$"
    events, errors = call(remote(tmp_path, agent, "node1", local="node1"))
    assert [event for _, event in events] == [GONE]
    assert [error.node for error in errors] == ["node1"]


def test_a_traceback_is_told_by_its_last_line(tmp_path: Path, calls: Path) -> None:
    agent = 'printf "Traceback:\\n  line 1\\nMemoryError: full\\n" >&2; exit 1'
    _, errors = call(remote(tmp_path, agent, "node2"))
    assert str(errors[0]).endswith(": MemoryError: full")
    assert "\n" not in str(errors[0])


def test_what_is_no_event_is_no_event(tmp_path: Path, calls: Path) -> None:
    agent = f"""
    echo 'Welcome to node2!'; echo '7'; echo '{{"event"'; echo '{{"other": 1}}'; echo '[]'
    echo '{{"event": "gone"}}'
    {TELL_GONE}; echo '{{"event": "done"}}'
    """
    events, errors = call(remote(tmp_path, agent, "node2"))
    assert [event for _, event in events] == [GONE]
    assert errors == []


def test_events_of_a_newer_version_are_left_alone(tmp_path: Path, calls: Path) -> None:
    agent = f"""
    echo '{{"event": "sung", "container": "vm1"}}'; {TELL_GONE}; echo '{{"event": "done"}}'
    """
    assert call(remote(tmp_path, agent, "node2")) == ([("node2", GONE)], [])


def test_what_a_login_shell_writes_is_no_event_and_its_reads_take_nothing(
    tmp_path: Path, calls: Path
) -> None:
    """Whatever it looks like, and though the end of its line is missing."""
    noise = 'echo \'{"event": "done"}\'; echo \'["", "up"\'; printf \'no end\'; read -t 0.3 x;'
    agent = f"{noise}\n{UP_SAID}\n{ECHO}"
    way = remote(tmp_path, agent, "node2", up=False)
    script = (tmp_path / "agent").read_text().replace("#!/bin/sh", "#!/bin/bash", 1)
    (tmp_path / "agent").write_text(script)
    request = Exec(None, ("x",), heartbeat=True)
    events, errors = call(way, request)
    assert (len(events), errors) == (1, [])
    assert decode(Path(f"{calls}.request.node2").read_text(), REQUESTS, "exec") == request


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
    def interrupt(node: str, event: Event) -> None:
        raise KeyboardInterrupt

    agent = f"echo $$ > {tmp_path}/pid; {TELL_GONE}; exec sleep 60"
    way = remote(tmp_path, agent, "node1", local="node1")
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        way.call(List(), interrupt)
    assert time.monotonic() - begin < 10
    request.addfinalizer(lambda: kill(int((tmp_path / "pid").read_text())))


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_after_an_interrupt_nodes_can_be_called_again(tmp_path: Path, calls: Path) -> None:
    def interrupt(node: str, event: Event) -> None:
        raise KeyboardInterrupt

    way = remote(tmp_path, ECHO, "node1", "node2", local="node1")
    with pytest.raises(KeyboardInterrupt):
        way.call(List(), interrupt)
    events, errors = call(way)
    assert ([node for node, _ in events], errors) == (["node1", "node2"], [])


def test_long_lines_come_whole(tmp_path: Path, calls: Path) -> None:
    long = Output("vm1", "stdout", "x" * 300_000)
    (tmp_path / "line").write_bytes(encode(long) + b"\n")
    agent = f'cat {tmp_path}/line; echo \'{{"event": "done"}}\''
    events, errors = call(remote(tmp_path, agent, "node2"))
    assert (events, errors) == ([("node2", long)], [])


def test_the_first_error_is_raised_where_there_is_one() -> None:
    raise_first([])
    with pytest.raises(UsageError, match="a"):
        raise_first([UsageError("a"), UsageError("b")])


def test_a_call_can_be_left_although_oarsh_cannot_be_killed(tmp_path: Path, calls: Path) -> None:
    # As the real one, which runs as another user; it ends when it cannot pass on what it hears.
    begun, heard = tmp_path / "begun", tmp_path / "heard"
    speaker = f"trap '' PIPE; touch {begun}; while echo; do sleep 0.05; done; touch {heard}"
    body = f'setsid sh -c "{speaker}" & sleep 600'
    add_program(tmp_path / "bin", "oarsh", body)
    way = remote(tmp_path, ECHO, "node1", "node2", local="node2")
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError))

    def leave() -> None:
        wait_until(begun.exists)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    with in_background(leave), pytest.raises(TimeoutError):
        call(way)
    assert wait_until(heard.exists)
