"""Killing processes by handle: all of these are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.pidfd import Handles
from oar_lxc.linux.process import is_zombie

Spawn = Callable[[Sequence[str]], "subprocess.Popen[bytes]"]


def kill(found: Sequence[int], seconds: float = 5) -> None:
    """Kill processes as a destroy does."""
    with Handles() as handles:
        for pid in found:
            handles.hold(pid)
        handles.kill(found)
        handles.wait(Deadline.after(seconds))


def test_processes_that_ignore_signals_are_killed_all_the_same(spawn: Spawn) -> None:
    code = (
        "import signal, time\n"
        "for n in (signal.SIGTERM, signal.SIGINT): signal.signal(n, signal.SIG_IGN)\n"
        "print(flush=True); time.sleep(60)\n"
    )
    stubborn = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    stopped = spawn(["sleep", "60"])
    os.kill(stopped.pid, signal.SIGSTOP)
    kill([stubborn.pid, stopped.pid])
    assert is_zombie(stubborn.pid)
    assert is_zombie(stopped.pid)
    stubborn.stdout.close()
    stubborn.wait()


def test_killing_returns_when_they_are_dead_and_not_later(spawn: Spawn) -> None:
    found = [spawn(["sleep", "60"]).pid for _ in range(20)]
    begin = time.monotonic()
    kill(found, 30)
    assert time.monotonic() - begin < 10
    assert all(is_zombie(pid) for pid in found)


def test_only_what_is_held_is_killed(spawn: Spawn) -> None:
    held, dropped, unheld = (spawn(["sleep", "60"]).pid for _ in range(3))
    with Handles() as handles:
        handles.hold(held)
        handles.hold(dropped)
        handles.drop(dropped)
        handles.kill([held, dropped, unheld])
        handles.wait(Deadline.after(5))
    assert [is_zombie(pid) for pid in (held, dropped, unheld)] == [True, False, False]


def test_a_number_that_is_another_processs_by_now_is_not_killed(spawn: Spawn) -> None:
    process = spawn(["true"])
    with Handles() as handles:
        handles.hold(process.pid)
        process.wait()
        handles.kill([process.pid])  # whoever has the number now, the handle is of the first
        handles.wait(Deadline.after(5))


def test_what_is_gone_is_no_error() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    kill([gone.pid, 2**22 + 1])
    kill([])


def test_no_descriptor_is_left_open(spawn: Spawn) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    pid = spawn(["sleep", "60"]).pid
    kill([pid, pid])
    assert sorted(os.listdir("/proc/self/fd")) == before
