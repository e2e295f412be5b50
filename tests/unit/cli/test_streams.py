"""Streams of programs on nodes, with programs of this machine in their place."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oar_lxc.cli.shared.tarpipe import RECEIVE
from oar_lxc.linux.error_exit import FAILED
from oar_lxc.linux.login_shell import mark_of

TOKEN = "0123456789abcdef"
# How a shell prints it.
MARK = mark_of(TOKEN).decode().replace("\x01", r"\001").replace("\n", r"\n")
# What `oar-lxc exec` does once it knows the node: run a command, and end as the program does.
EXEC = f"""
import sys
from oar_lxc.cli.shared.streams import run_through_oarsh
from oar_lxc.linux.error_exit import exit_on_error, tell_on_stderr

with exit_on_error(tell_on_stderr):
    sys.exit(run_through_oarsh(sys.argv[1:], {TOKEN!r}))
"""
# What `oar-lxc cp` does: a copy into a container, which begins and does not end by itself.
COPY = """
import subprocess
import sys
import time
from contextlib import suppress
from oar_lxc.cli.shared.attach import AttachCommand
from oar_lxc.cli.shared.tarpipe import ContainerTarget
from oar_lxc.client.copy import parse_place

def attach(argv):
    return AttachCommand((sys.executable, "-c", sys.argv[2], *argv), "node1", "")

target = ContainerTarget(parse_place(f"vm:{sys.argv[1]}"), attach, False, print)
try:
    print("copying", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    with suppress(subprocess.TimeoutExpired):
        target.process.wait(0.5)  # ends first, if it hears Ctrl-C too
    target.close()
    print("closed", flush=True)
"""
# The way to the container. As with ssh, what runs at its other end is killed where it ends early.
WAY = """
import subprocess
import sys

inside = subprocess.Popen(sys.argv[1:], start_new_session=True)
try:
    sys.exit(inside.wait())
except KeyboardInterrupt:
    inside.kill()
"""


def ended(script: str, stdout: int) -> tuple[int, str]:
    """Run a script as on a node; return our status, and our standard error."""
    begun = f"printf '{MARK}'; printf '{MARK}' >&2; {script}"
    done = subprocess.run(
        [sys.executable, "-c", EXEC, "sh", "-c", begun],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(stdout)
    return done.returncode, done.stderr


def test_output_for_which_the_disk_has_no_room_is_exit_on_error() -> None:
    full = os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
    said = "oar-lxc: cannot write to standard output: No space left on device\n"
    assert ended("seq 1000000", full) == (FAILED, said)


def test_output_that_is_lost_is_a_failure_whatever_the_program_says() -> None:
    full = os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
    status, said = ended("echo short; exit 0", full)
    assert (status, said.count("\n")) == (FAILED, 1)


def test_a_reader_that_is_gone_is_told_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert ended("seq 1000000", writer) == (141, "")


@pytest.mark.parametrize(
    ("script", "shown"),
    [
        ("printf 'Connection to node1 closed.\\r\\n'", ""),
        ("echo hi; sleep 0.2; printf 'Connection to node1 closed.\\r\\n'", "hi"),
        (
            "printf 'Connection to node1 closed.\\n'; sleep 0.2; echo hi",
            "Connection to node1 closed. hi",
        ),
        ("echo Connection to node2 closed.", "Connection to node2 closed."),
    ],
)
def test_what_ssh_says_at_the_end_on_a_terminal_is_no_output(script: str, shown: str) -> None:
    """But what a program says itself is, and all that is not the end."""
    code = EXEC.replace(f"{TOKEN!r}))", f"{TOKEN!r}, node='node1', terminal=True))")
    pid, terminal = pty.fork()
    if pid == 0:
        argv = [sys.executable, "-c", code, "sh", "-c", f"printf '{MARK}'; {script}; exit 3"]
        os.execv(sys.executable, argv)
    try:
        assert " ".join(heard(terminal, "\0").split()) == shown
    finally:
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


def test_ctrl_c_in_a_copy_leaves_time_to_tidy_up_in_the_container(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", COPY, str(target), WAY])
    try:
        assert "copying" in heard(terminal, "copying")
        assert [path.name[:12] for path in target.iterdir()] == [".oar-lxc-cp."]
        os.write(terminal, b"\x03")
        assert "closed" in heard(terminal, "closed")
    finally:
        os.close(terminal)  # ends what still runs there
        os.waitpid(pid, 0)
    assert list(target.iterdir()) == []


def test_a_copy_that_is_hung_up_twice_leaves_nothing_in_the_container(tmp_path: Path) -> None:
    """As ssh and a terminal both do: the second signal comes while the script tidies up."""
    for _ in range(20):
        copy = subprocess.Popen(
            ["sh", "-c", RECEIVE, "sh", f"{tmp_path}/", str(tmp_path), "into"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        with copy:
            assert copy.stdout is not None
            copy.stdout.readline()
            while copy.poll() is None:
                os.killpg(copy.pid, signal.SIGHUP)
                time.sleep(0.0002)
        assert list(tmp_path.iterdir()) == []


def heard(terminal: int, word: str) -> str:
    """Return what is written to a terminal up to a word, or to where nothing comes any more."""
    text = ""
    while word not in text and select.select([terminal], [], [], 30)[0]:
        try:
            text += os.read(terminal, 4096).decode()
        except OSError:  # nobody has it open any more
            break
    return text
