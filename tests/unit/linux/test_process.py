"""Facts of processes, as the kernel tells them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from oar_lxc.linux.process import (
    ancestry,
    identity,
    ids_of,
    is_zombie,
    owner,
    parent,
    start_time,
    state,
    status_words,
    threads,
)
from tests.unit.fakes.programs import wait_until

Spawn = Callable[[Sequence[str]], "subprocess.Popen[bytes]"]


def test_the_owner_of_a_process_is_told(spawn: Spawn) -> None:
    process = spawn(["sleep", "60"])
    assert owner(process.pid) == os.getuid()
    assert owner(2**22 + 1) == -1


def test_a_name_with_brackets_and_newlines_confuses_nobody(spawn: Spawn, tmp_path: Path) -> None:
    program = tmp_path / "x) Z 1\n(y"
    program.symlink_to("/bin/sleep")
    process = spawn([str(program), "60"])
    assert wait_until(lambda: "Z 1" in Path(f"/proc/{process.pid}/comm").read_text())
    assert not is_zombie(process.pid)
    assert owner(process.pid) == os.getuid()


def test_a_process_whose_first_thread_has_ended_is_not_dead() -> None:
    code = "import ctypes, threading, time\n"
    code += "threading.Thread(target=time.sleep, args=(60,)).start()\n"
    code += "print('up', flush=True)\nctypes.CDLL(None).pthread_exit(None)\n"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        end = time.monotonic() + 10
        while " Z " not in Path(f"/proc/{process.pid}/stat").read_text():
            assert time.monotonic() < end
            time.sleep(0.01)
        assert not is_zombie(process.pid)
    finally:
        process.kill()
        process.communicate()


def test_facts_of_a_process_are_those_of_another_reader(spawn: Spawn) -> None:
    pid = spawn(["sleep", "60"]).pid
    told = psutil.Process(pid)
    assert wait_until(lambda: state(pid) == b"S")
    assert parent(pid) == told.ppid() == os.getpid()
    assert threads(pid) == told.num_threads() == 1
    ticks = (told.create_time() - psutil.boot_time()) * os.sysconf("SC_CLK_TCK")
    assert abs(start_time(pid) - ticks) < 200
    assert [int(one) for one in ids_of(f"/proc/{pid}/status")[:3]] == list(told.uids())
    allowed = b"".join(status_words(f"/proc/{pid}/status", b"Cpus_allowed_list"))
    assert len(allowed) > 0
    assert {os.getpid(), os.getppid()} <= ancestry()
    assert pid not in ancestry()


def test_a_stopped_process_and_its_thread_have_that_state(spawn: Spawn) -> None:
    pid = spawn(["sleep", "60"]).pid
    os.kill(pid, signal.SIGSTOP)
    assert wait_until(lambda: state(pid) == state(pid, str(pid)) == b"T")


def test_of_what_is_gone_nothing_is_told() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    path = f"/proc/{gone.pid}/status"
    assert (owner(gone.pid), parent(gone.pid), start_time(gone.pid), threads(gone.pid)) == (
        -1,
        0,
        0,
        0,
    )
    assert (ids_of(path), status_words(path, b"Threads"), state(gone.pid)) == ([], [], b"")
    assert is_zombie(gone.pid)
    assert identity(gone.pid) == [str(gone.pid), ""]


def test_a_process_is_told_from_an_earlier_one_with_its_number(spawn: Spawn) -> None:
    pid = spawn(["sleep", "60"]).pid
    assert identity(pid) == identity(pid) == [str(pid), str(start_time(pid))]
    assert identity(pid) != identity(os.getpid())
