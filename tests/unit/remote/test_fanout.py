"""The tree by which very many nodes are reached: real processes, with an oarsh of our own."""

from __future__ import annotations

import json
import os
import select
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
from oar_lxc.model.events import Event, Exit, Gone
from oar_lxc.model.requests import Exec, List, Request, Watch
from oar_lxc.model.wire import REQUESTS, UP, decode, encode
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


# The process itself, with a clock that a test moves, and a patience of a second.

CLOCK = """
import os, selectors, types
from oar_lxc.linux import deadline
from oar_lxc.remote import fanout

class Selector(selectors.DefaultSelector):
    def select(self, timeout):
        return super().select(min(timeout, 0.01))  # then it looks at the clock

fanout.selectors = types.SimpleNamespace(**vars(selectors) | {"DefaultSelector": Selector})
deadline.time = types.SimpleNamespace(monotonic=lambda: os.stat(os.environ["CLOCK"]).st_size)
fanout.UP_SECONDS = fanout.SILENT_SECONDS = 1
fanout.main()
"""


class Running:
    """A fanout that runs.

    Args:
        process: its process.
        clock: the file whose size is its time in seconds.

    Attributes:
        told: all that was read of what it has told, but the heartbeats.
    """

    def __init__(self, process: subprocess.Popen[str], clock: Path) -> None:
        self.process = process
        self.told: list[Any] = []
        self._clock = clock

    def read(self) -> str:
        """Return the next line that it tells, empty when it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line.strip():
            self.told.append(json.loads(line))
        return line

    def read_ends(self, count: int) -> None:
        """Read until it has told the end of so many nodes."""
        while len(self.ends()) < count:
            assert self.read()

    def rest(self) -> None:
        """Read all that it tells until it ends."""
        while self.read():
            pass
        assert self.process.wait() == 0
        assert self.told[0] == json.loads(UP)

    def ends(self) -> dict[str, list[Any]]:
        """Return the status of each node that has ended, and why."""
        return {node: rest for node, what, *rest in self.told[1:] if what == "end"}

    def jump(self, seconds: int) -> None:
        """Let time pass, whether it sees it or not."""
        with self._clock.open("ab") as file:
            file.write(b"s" * seconds)

    def pass_second(self) -> bool:
        """Let a second pass, and read its heartbeat; return whether there was one."""
        self.jump(1)
        while line := self.read():
            if not line.strip():
                return True
        return False

    def is_held_up(self) -> bool:
        """Whether it can write no more, as nothing is read."""
        fd = os.open(f"/proc/{self.process.pid}/fd/1", os.O_WRONLY)
        try:
            return not select.select([], [fd], [], 0)[1]
        finally:
            os.close(fd)


@contextmanager
def fanout(
    place: Path, agent: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Running]:
    interpreter = python(place, agent)
    order = Order(
        42, names(count), "", isolated("oar_lxc.agent.main", (), interpreter), interpreter, 4
    )
    clock = place / "clock"
    clock.touch()
    monkeypatch.setenv("CLOCK", str(clock))
    with subprocess.Popen(
        [sys.executable, "-c", CLOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        process.stdin.write(order.line().decode() + "{}\n")
        process.stdin.close()
        try:
            yield Running(process, clock)
        finally:
            process.kill()
            for file in place.glob("stopped.*"):
                with suppress(ProcessLookupError):
                    os.kill(int(file.read_text()), signal.SIGKILL)


def test_a_branch_whose_first_node_does_not_answer_is_reached_without_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It answers at last, and is then on its own.
    on_node(place, "node1", f"while ! [ -e {place}/go ]; do sleep 0.01; done")
    agent = f"[ $NODE = node3 ] && touch {place}/go; {DONE}"
    with fanout(place, agent, 9, monkeypatch) as running:
        running.read_ends(6)
        assert running.pass_second()
        assert running.pass_second()
        running.rest()
        assert {node: end[0] for node, end in running.ends().items()} == dict.fromkeys(names(9), 0)
        assert len(running.told) == len({str(line) for line in running.told})
    by = reached(place)
    assert [by[node] for node in ("node1", "node2", "node3")] == ["head"] * 3
    assert by["node5"] == "node4"


def test_a_first_node_that_is_not_heard_of_any_more_is_lost_with_its_branch(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = f"""
    case $NODE in
    node1) echo $PPID > {place}/stopped.node1; kill -STOP $PPID;;
    node2 | node3) while echo; do sleep 0.05; done; exit;;
    esac
    {DONE}
    """
    with fanout(place, agent, 9, monkeypatch) as running:
        running.read_ends(6)
        wait_until(lambda: (place / "stopped.node1").exists())
        while running.pass_second():
            pass
        running.rest()
        ends = running.ends()
    why = "nothing was heard of it for 1 s"
    assert ends["node1"] == [255, why]
    for node in ("node2", "node3"):
        assert ends[node] == [255, f"node1, which leads to it, is lost: {why}"]
    assert {tuple(ends[node]) for node in names(9)[3:]} == {(0, "")}


def test_who_does_not_read_for_long_loses_no_branch(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 9 MB: more than what all pipes on the way hold.
    agent = f"""
    mkdir {place}/here.$NODE
    while [ $(ls -d {place}/here.* | wc -l) -lt 9 ]; do sleep 0.05; done
    yes {"x" * 999} | head -n 1000
    touch {place}/written.$NODE; {DONE}
    """
    with fanout(place, agent, 9, monkeypatch) as running:
        wait_until(lambda: len(list(place.glob("here.*"))) == 9)
        wait_until(running.is_held_up)
        running.jump(100)
        assert not list(place.glob("written.*"))
        running.rest()
    assert running.ends() == {node: [0, ""] for node in names(9)}
    assert sum(what == "line" for _, what, *_ in running.told[1:]) == 9 * 1001


def test_it_ends_when_nobody_reads_what_it_tells(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = "trap '' PIPE; while echo; do sleep 0.05; done 2>/dev/null"
    with fanout(place, agent, 2, monkeypatch) as running:
        running.read()
        assert running.process.stdout is not None
        running.process.stdout.close()
        running.jump(1)
        assert running.process.wait(LIMIT) == 255
