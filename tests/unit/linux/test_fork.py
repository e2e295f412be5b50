"""What a fork does in the place of a program."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from oar_lxc.linux.fork import become
from oar_lxc.linux.run import running

ROOT = Path(__file__).parents[3]


def outcome(
    main: Callable[[], None], fed: str = "", environ: Mapping[str, str] | None = None
) -> tuple[int, list[str], str]:
    """Run something in a fork; return its status, and what it wrote to both streams."""
    first = partial(become, main, ["name", "x"], environ)
    with running(["no-such-program", "x"], first=first) as child:
        child.feed(fed.encode())
        with os.fdopen(child.stdout, closefd=False) as out:
            lines = out.read().splitlines()
        return child.wait(), lines, child.said()


def test_it_reads_and_writes_what_the_program_would() -> None:
    def main() -> None:
        print(sys.argv, sys.stdin.read(), end="")

    assert outcome(main, "asked ü") == (0, ["['name', 'x'] asked ü"], "")


def test_it_has_the_environment_that_it_is_given_and_the_caller_keeps_its_own() -> None:
    before = dict(os.environ)

    def main() -> None:
        print(dict(os.environ), os.getenv("WHICH"), flush=True)
        os.environ["WHICH"] = "changed"
        os.execv("/bin/sh", ["sh", "-c", "echo $WHICH"])

    told = [str({"WHICH": "given"}) + " given", "changed"]
    assert outcome(main, environ={"WHICH": "given"}) == (0, told, "")
    assert dict(os.environ) == before
    assert outcome(lambda: print(dict(os.environ) == before), environ=os.environ)[1] == ["True"]


@pytest.mark.parametrize(("code", "status"), [(0, 0), (7, 7), (None, 0), ("why", 1)])
def test_it_ends_with_the_status_of_the_program(code: object, status: int) -> None:
    def main() -> None:
        print("last words")
        raise SystemExit(code)

    assert outcome(main) == (status, ["last words"], "")


def test_what_it_does_not_catch_is_told() -> None:
    def main() -> None:
        raise RuntimeError("broken inside")

    status, lines, said = outcome(main)
    assert (status, lines) == (1, [])
    assert said.endswith("RuntimeError: broken inside\n")


def test_nothing_of_what_the_process_was_for_goes_on(tmp_path: Path) -> None:
    secret = (tmp_path / "secret").open("w")
    asked = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, frame: print("caught"))

    def main() -> None:
        print(sorted(os.listdir("/proc/self/fd"))[:-1], os.getsid(0) == os.getpid(), flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        status, lines, _ = outcome(main)
    finally:
        signal.signal(signal.SIGTERM, asked)
        secret.close()
    assert (status, lines) == (-signal.SIGTERM, ["['0', '1', '2'] True"])


def test_a_pipe_that_nobody_reads_is_an_error_not_the_end() -> None:
    def main() -> None:
        read, write = os.pipe()
        os.close(read)
        try:
            os.write(write, b"x")
        except BrokenPipeError:
            print("told")

    assert outcome(main) == (0, ["told"], "")


# In a process of its own: what runs tests side by side has threads.
THREADS = """
import threading
from oar_lxc.linux.fork import may_fork
told = [may_fork()]
done = threading.Event()
thread = threading.Thread(target=done.wait)
thread.start()
told.append(may_fork())
done.set()
thread.join()
print(told)
"""


def test_a_process_with_threads_does_not_fork() -> None:
    argv = [sys.executable, "-c", THREADS]
    told = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "[True, False]\n"


# What runs here was loaded from files that are not there any more.
UPGRADED = """
import os, shutil
from oar_lxc.linux.fork import may_fork
told = [may_fork()]
shutil.copyfile("oar_lxc/__init__.py", "new")
os.rename("new", "oar_lxc/__init__.py")
told.append(may_fork())
shutil.rmtree("oar_lxc")
print([*told, may_fork()])
"""


def test_a_process_of_a_package_that_was_upgraded_does_not_fork(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "oar_lxc", tmp_path / "oar_lxc")
    argv = [sys.executable, "-c", UPGRADED]
    told = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout == "[True, False, False]\n"
