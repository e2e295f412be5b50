"""The tree by which very many nodes are reached: real processes, with an oarsh of our own."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oar_lxc.linux.isolated import isolated
from oar_lxc.model.wire import (
    REQUESTS,
    UP,
    Event,
    Exec,
    Exit,
    Gone,
    List,
    Request,
    Watch,
    decode,
    encode,
)
from oar_lxc.remote import agents
from oar_lxc.remote.agents import Remote
from oar_lxc.remote.fanout import Order
from tests.unit.fakes.programs import add_program

# It notes who reached whom: a node's processes have its name in the environment. What a node does
# when it is reached, other than to run what it is told, is in the file of its name.
OARSH = """
while [ $# -gt 2 ]; do shift; done
echo "${NODE:-head} $1" >> "$PLACE/calls"
NODE=$1
export NODE
[ -e "$PLACE/$NODE" ] && . "$PLACE/$NODE"
exec setsid sh -c "$2"  # no signal that is sent here gets there
"""
# What nodes have for a python: the real oar_lxc.remote.fanout, and a stand-in for the agent.
PYTHON = """
[ "$3" = oar_lxc.remote.fanout ] && exec {python} "$@"
printf '\\n["", "up"]\\n'
{agent}
"""
ECHO = """
read -r request
printf '%s' "$request" > "$PLACE/request.$NODE"
printf '{"event": "gone", "container": "%s"}\\n' "$NODE"
echo '{"event": "done"}'
"""
TELL_GONE = 'echo \'{"event": "gone", "container": "vm1"}\''
DONE = 'echo \'{"event": "done"}\''
LIMIT = 30.0  # seconds in which what a test waits for has come long since


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let an oarsh be there that notes its calls; return the directory of all files."""
    add_program(tmp_path / "bin", "oarsh", OARSH)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.delenv("NODE", raising=False)
    return tmp_path


def names(count: int) -> list[str]:
    return [f"node{i}" for i in range(1, count + 1)]


def on_node(place: Path, node: str, body: str) -> None:
    """Say what a node does when it is reached, in the words of a shell."""
    (place / node).write_text(body)


def python(place: Path, agent: str) -> str:
    add_program(place, "python", PYTHON.format(python=shlex.quote(sys.executable), agent=agent))
    return str(place / "python")


Called = tuple[dict[str, list[Event]], dict[str, str]]


@pytest.fixture
def call(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Called]:
    """Return what calls an agent on nodes, four from one: events, and errors, by node."""
    monkeypatch.setattr(agents, "WIDTH", 4)

    def call(agent: str, count: int, request: Request | None = None) -> Called:
        events: dict[str, list[Event]] = {}
        way = Remote(42, names(count), "", python(place, agent))
        failed = way.call(
            request or List(), lambda node, event: events.setdefault(node, []).append(event)
        )
        return events, {error.node: str(error) for error in failed}

    return call


def reached(place: Path) -> dict[str, str]:
    """Return who reached each node, last where it was reached more than once."""
    calls = place / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    return {node: by for by, node in (line.split() for line in lines)}


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_as_many_as_one_level_holds_are_reached_from_here(
    place: Path, call: Callable[..., Called]
) -> None:
    events, errors = call(ECHO, 4)
    assert (sorted(events), errors) == (names(4), {})
    assert reached(place) == dict.fromkeys(names(4), "head")


@pytest.mark.parametrize("count", [5, 16, 17, 40])
def test_more_are_reached_by_each_other_each_of_them_once(
    place: Path, call: Callable[..., Called], count: int
) -> None:
    request = Exec(None, ("cat",), "it's \udcff, é\n")
    events, errors = call(ECHO, count, request)
    assert errors == {}
    assert events == {node: [Gone(node)] for node in names(count)}
    for node in names(count):
        line = (place / f"request.{node}").read_text()
        assert decode(line, REQUESTS, "exec") == replace(request, heartbeat=True)
    by = reached(place)
    assert len((place / "calls").read_text().splitlines()) == count == len(by)
    assert max(Counter(by.values()).values()) <= 4
    assert len(set(by.values())) > 1


def test_all_nodes_work_at_the_same_time(place: Path, call: Callable[..., Called]) -> None:
    agent = f"""
    mkdir {place}/here.$NODE
    for turn in $(seq 600); do
        [ $(ls -d {place}/here.* | wc -l) = 18 ] && break
        sleep 0.05
    done
    [ $turn != 600 ] && {DONE}
    """
    assert call(agent, 18)[1] == {}


def test_an_event_is_told_before_its_branch_ends(place: Path, call: Callable[..., Called]) -> None:
    agent = f"""
    {TELL_GONE}
    for turn in $(seq 3000); do [ -e {place}/told ] && break; sleep 0.01; done
    {DONE}
    """
    way = Remote(42, names(12), "", python(place, agent))
    told: set[str] = set()

    def take(node: str, event: Event) -> None:
        told.add(node)
        if len(told) == 12:
            (place / "told").touch()

    assert way.call(List(), take) == []


def test_a_request_that_no_pipe_holds_gets_to_all(
    place: Path, call: Callable[..., Called]
) -> None:
    agent = f'printf \'{{"event": "exit", "container": "a", "status": %s}}\\n\' $(wc -c); {DONE}'
    request = Exec(None, ("cat",), "x" * 2_000_000)
    events, errors = call(agent, 9, request)
    assert errors == {}
    length = len(encode(replace(request, heartbeat=True))) + 1
    assert events == {node: [Exit("a", length)] for node in names(9)}


def test_a_node_that_fails_is_told_and_no_other(place: Path, call: Callable[..., Called]) -> None:
    agent = 'echo \'{"event": "error", "reason": "no image x"}\'; exit 1'
    on_node(place, "node7", 'echo "ssh: No route to host" >&2; exit 255')
    _, errors = call(f"[ $NODE = node8 ] && {{ {agent}; }}; {DONE}", 9)
    assert errors == {
        "node7": "node node7: it cannot be reached: ssh: No route to host",
        "node8": "node node8: no image x",
    }


def test_a_branch_whose_first_node_is_dead_is_reached_without_it(
    place: Path, call: Callable[..., Called]
) -> None:
    on_node(place, "node1", 'echo "ssh: No route to host" >&2; exit 255')
    events, errors = call(ECHO, 16)
    assert errors == {"node1": "node node1: it cannot be reached: ssh: No route to host"}
    assert sorted(events) == sorted(names(16)[1:])
    assert [reached(place)[node] for node in ("node2", "node3", "node4")] == ["head"] * 3


def test_a_large_branch_whose_first_node_is_dead_is_parted_again(
    place: Path, call: Callable[..., Called]
) -> None:
    on_node(place, "node1", "exit 255")
    on_node(place, "node2", "exit 255")
    events, errors = call(ECHO, 40)
    assert sorted(errors) == ["node1", "node2"]
    assert sorted(events) == sorted(names(40)[2:])
    assert len(set(reached(place).values())) > 4


def test_where_no_node_has_oar_lxc_each_is_told_so(
    place: Path, call: Callable[..., Called]
) -> None:
    for node in names(9):
        on_node(place, node, f"exec {shlex.quote(sys.executable)} -I -S -m oar_lxc.remote.fanout")
    _, errors = call(ECHO, 9)
    reason = "oar-lxc is not installed there: ask the administrator to install it"
    assert errors == {node: f"node {node}: {reason}" for node in names(9)}


def test_what_a_node_writes_at_a_login_is_no_event(
    place: Path, call: Callable[..., Called]
) -> None:
    for node in names(9):
        on_node(place, node, "echo; echo 'Welcome!'; echo 7; echo '{\"other\": 1}'")
    events, errors = call(ECHO, 9)
    assert errors == {}
    assert {node: len(told) for node, told in events.items()} == dict.fromkeys(names(9), 1)


def test_nodes_behind_one_that_is_lost_are_told_unless_they_were_done(
    place: Path, call: Callable[..., Called]
) -> None:
    # Of the branch of nodes 1 to 3, the second is done when the way to the first breaks.
    agent = f"""
    case $NODE in
    node1) while ! [ -e {place}/second ]; do sleep 0.01; done; sleep 0.5; kill -9 $PPID;;
    node2) {DONE}; touch {place}/second; exit;;
    node3) while echo; do sleep 0.05; done; exit;;
    *) {DONE}; exit;;
    esac
    """
    _, errors = call(agent, 9)
    assert sorted(errors) == ["node1", "node3"]
    assert errors["node3"] == (
        "node node3: it cannot be reached: node1, which leads to it, is lost: status -9"
    )


def test_who_asks_can_leave_and_all_agents_notice(
    place: Path, call: Callable[..., Called]
) -> None:
    agent = f"""
    trap '' PIPE
    {TELL_GONE}
    while echo; do sleep 0.05; done 2>/dev/null
    touch {place}/noticed.$NODE
    """
    way = Remote(42, names(12), "", python(place, agent))
    told: set[str] = set()

    def take(node: str, event: Event) -> None:
        told.add(node)
        if len(told) == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        way.call(Watch("s1"), take)
    wait_until(lambda: len(list(place.glob("noticed.*"))) == 12)


# The process itself, with a patience of a second.


@contextmanager
def fanout(place: Path, agent: str, count: int) -> Iterator[subprocess.Popen[str]]:
    code = (
        "from oar_lxc.remote import fanout\n"
        "fanout.UP_SECONDS = fanout.SILENT_SECONDS = 1\n"
        "fanout.main()"
    )
    interpreter = python(place, agent)
    order = Order(
        42, names(count), "", isolated("oar_lxc.agent.main", (), interpreter), interpreter, 4
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(order.line().decode() + "{}\n")
        process.stdin.close()
        try:
            yield process
        finally:
            process.kill()
            for file in place.glob("stopped.*"):
                with suppress(ProcessLookupError):
                    os.kill(int(file.read_text()), signal.SIGKILL)


def told(process: subprocess.Popen[str]) -> list[Any]:
    """Return all that it tells until it ends."""
    assert process.stdout is not None
    lines = [json.loads(line) for line in process.stdout.read().splitlines() if line]
    assert process.wait() == 0
    assert lines.pop(0) == json.loads(UP)
    return lines


def test_a_branch_whose_first_node_does_not_answer_is_reached_without_it(place: Path) -> None:
    # It answers at last, and is then on its own.
    on_node(place, "node1", f"while ! [ -e {place}/go ]; do sleep 0.01; done")
    agent = f"[ $NODE = node3 ] && touch {place}/go; {DONE}"
    with fanout(place, agent, 9) as process:
        ends = [(node, rest[0]) for node, what, *rest in told(process) if what == "end"]
    assert sorted(ends) == [(node, 0) for node in names(9)]
    by = reached(place)
    assert [by[node] for node in ("node1", "node2", "node3")] == ["head"] * 3
    assert by["node5"] == "node4"


def test_a_first_node_that_is_not_heard_of_any_more_is_lost_with_its_branch(place: Path) -> None:
    agent = f"""
    case $NODE in
    node1) echo $PPID > {place}/stopped.node1; kill -STOP $PPID;;
    node2 | node3) while echo; do sleep 0.05; done; exit;;
    esac
    {DONE}
    """
    with fanout(place, agent, 9) as process:
        ends = {node: rest for node, what, *rest in told(process) if what == "end"}
    why = "nothing was heard of it for 1 s"
    assert ends["node1"] == [255, why]
    for node in ("node2", "node3"):
        assert ends[node] == [255, f"node1, which leads to it, is lost: {why}"]
    assert {tuple(ends[node]) for node in names(9)[3:]} == {(0, "")}


def test_who_does_not_read_for_long_loses_no_branch(place: Path) -> None:
    # 9 MB: more than what all pipes on the way hold.
    agent = f"""
    mkdir {place}/here.$NODE
    while [ $(ls -d {place}/here.* | wc -l) -lt 9 ]; do sleep 0.05; done
    yes {"x" * 999} | head -n 1000
    touch {place}/written.$NODE; {DONE}
    """
    with fanout(place, agent, 9) as process:
        wait_until(lambda: len(list(place.glob("here.*"))) == 9)
        time.sleep(4)
        assert not list(place.glob("written.*"))
        lines = told(process)
    assert {node for node, what, *rest in lines if what == "end" and rest == [0, ""]} == set(
        names(9)
    )
    assert sum(what == "line" for _, what, *_ in lines) == 9 * 1001


def test_it_ends_when_nobody_reads_what_it_tells(place: Path) -> None:
    agent = "trap '' PIPE; while echo; do sleep 0.05; done 2>/dev/null"
    with fanout(place, agent, 2) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(LIMIT) == 255
