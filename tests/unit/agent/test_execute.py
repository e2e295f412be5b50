"""One command in many containers at once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.agent.execute import execute
from oar_lxc.model.events import Event, Exit, Failed, Output
from oar_lxc.model.requests import Exec
from tests.unit.fakes.programs import alive, wait_until
from tests.unit.fakes.runtime import FakeRuntime


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[FakeRuntime]:
    directory = tmp_path / "containers"
    for name in ("vm1", "vm2", "stopped"):
        (directory / name).mkdir(parents=True)
        (directory / name / "config").touch()
    runtime = FakeRuntime(directory, "node1")
    runtime.start("vm1")
    runtime.start("vm2")
    yield runtime
    runtime.close()


def run(
    runtime: FakeRuntime,
    *argv: str,
    names: tuple[str, ...] = ("vm1",),
    stdin: bytes = b"",
    timeout: float | None = 20,
) -> list[Event]:
    events: list[Event] = []
    text = stdin.decode("utf-8", "surrogateescape")
    command = Exec(names, argv=argv, stdin=text, timeout=timeout)
    execute(runtime, command, events.append)
    return events


def text(events: list[Event], name: str, stream: str) -> str:
    return "".join(
        e.data
        for e in events
        if isinstance(e, Output) and (e.container, e.stream) == (name, stream)
    )


def statuses(events: list[Event]) -> dict[str, int]:
    return {e.container: e.status for e in events if isinstance(e, Exit)}


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -9 $$", 137)],
)
def test_the_status_is_that_of_the_command(runtime: FakeRuntime, script: str, status: int) -> None:
    assert run(runtime, "sh", "-c", script) == [Exit("vm1", status)]


def test_the_streams_are_apart(runtime: FakeRuntime) -> None:
    events = run(runtime, "sh", "-c", "echo out; echo err >&2")
    assert text(events, "vm1", "stdout") == "out\n"
    assert text(events, "vm1", "stderr") == "err\n"


def test_a_missing_command_has_status_127_and_is_named(runtime: FakeRuntime) -> None:
    events = run(runtime, "no-such-command")
    assert statuses(events) == {"vm1": 127}
    assert text(events, "vm1", "stderr") == "oar-lxc: no-such-command: no such command in vm1\n"


@pytest.mark.parametrize("status", [126, 127])
def test_a_command_that_leaves_with_127_itself_is_not_called_missing(
    runtime: FakeRuntime, status: int
) -> None:
    for said in ("", "my own words\n"):
        events = run(runtime, "sh", "-c", f"printf '{said}' >&2; exit {status}")
        assert text(events, "vm1", "stderr") == said


def test_what_cannot_be_executed_is_told_with_why(runtime: FakeRuntime, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    (tmp_path / "script").write_text("#!/no/such/program\n")
    (tmp_path / "script").chmod(0o755)
    events = run(runtime, str(tmp_path / "script"))
    assert statuses(events) == {"vm1": 126}
    assert "what its first line names is missing in vm1" in text(events, "vm1", "stderr")
    if os.geteuid():
        assert "(Permission denied)" in text(run(runtime, str(tmp_path)), "vm1", "stderr")


def test_arguments_need_not_be_utf_8(runtime: FakeRuntime) -> None:
    events = run(runtime, "printf", "%s", "caf\udce9")
    assert text(events, "vm1", "stdout") == "caf\udce9"


def test_all_bytes_come_back(runtime: FakeRuntime) -> None:
    data = bytes(range(256)) * 1000
    events = run(runtime, "cat", stdin=data)
    assert text(events, "vm1", "stdout").encode("utf-8", "surrogateescape") == data


def test_a_character_that_lies_across_two_reads_stays_whole(runtime: FakeRuntime) -> None:
    events = run(runtime, "sh", "-c", r"printf '\303'; sleep 0.1; printf '\251'")
    assert text(events, "vm1", "stdout") == "é"


def test_a_long_input_reaches_every_container(runtime: FakeRuntime) -> None:
    data = b"0123456789abcdef" * 65536
    events = run(runtime, "sh", "-c", "wc -c", names=("vm1", "vm2"), stdin=data)
    assert [int(text(events, name, "stdout")) for name in ("vm1", "vm2")] == [len(data)] * 2


def test_input_that_nobody_reads_holds_nothing_up(runtime: FakeRuntime) -> None:
    begin = time.monotonic()
    assert statuses(run(runtime, "true", stdin=b"x" * 1_000_000)) == {"vm1": 0}
    assert time.monotonic() - begin < 30


def test_without_input_a_command_reads_nothing(runtime: FakeRuntime) -> None:
    assert statuses(run(runtime, "cat")) == {"vm1": 0}


def test_commands_run_at_the_same_time(runtime: FakeRuntime, tmp_path: Path) -> None:
    # Each waits for the file that the other one makes.
    script = f"""
    cd {tmp_path}
    if mkdir first 2>/dev/null; then other=second; else mkdir second; other=first; fi
    while ! [ -d $other ]; do sleep 0.01; done
    """
    assert statuses(run(runtime, "sh", "-c", script, names=("vm1", "vm2"))) == {"vm1": 0, "vm2": 0}


def test_a_command_whose_time_is_up_is_killed(runtime: FakeRuntime, tmp_path: Path) -> None:
    begin = time.monotonic()
    script = f"echo $$ > {tmp_path}/pid; echo begun; exec sleep 60"
    events = run(runtime, "sh", "-c", script, timeout=1.0)
    assert time.monotonic() - begin < 30
    assert statuses(events) == {"vm1": 124}
    assert text(events, "vm1", "stdout") == "begun\n"
    assert not alive(int((tmp_path / "pid").read_text()))


def test_what_a_command_leaves_behind_holds_nothing_up_for_longer_than_the_time(
    runtime: FakeRuntime, tmp_path: Path
) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/pid"
    begin = time.monotonic()
    events = run(runtime, "sh", "-c", script, timeout=1.0)
    os.kill(int((tmp_path / "pid").read_text()), 9)
    assert time.monotonic() - begin < 30
    assert statuses(events) == {"vm1": 0}


def test_a_container_that_does_not_run_fails_and_the_others_run(runtime: FakeRuntime) -> None:
    events = run(runtime, "echo", "here", names=("stopped", "vm2"))
    why = (
        "it is STOPPED, not RUNNING: start it with `oar-lxc start`; `oar-lxc logs --lxc` has "
        "LXC's log of it"
    )
    assert events[0] == Failed("stopped", why)
    assert statuses(events) == {"vm2": 0}
    assert text(events, "vm2", "stdout") == "here\n"


def test_no_descriptor_is_left_open(runtime: FakeRuntime) -> None:
    before = descriptors()
    run(runtime, "cat", names=("vm1", "stopped", "vm2"), stdin=b"x" * 100_000)
    run(runtime, "sleep", "60", timeout=0.1)
    assert descriptors() == before


def test_when_nobody_takes_the_events_the_commands_are_killed(
    runtime: FakeRuntime, tmp_path: Path
) -> None:
    def refuse(event: Event) -> None:
        raise BrokenPipeError

    before = descriptors()
    script = f"echo $$ > {tmp_path}/$$; echo x; exec sleep 60"
    with pytest.raises(BrokenPipeError):
        execute(runtime, Exec(("vm1", "vm2"), argv=("sh", "-c", script)), refuse)
    assert descriptors() == before
    pids = [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]
    assert pids
    assert wait_until(lambda: not any(alive(pid) for pid in pids))
