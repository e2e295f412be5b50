"""What is told of long work: a line after two seconds, and for as long as it lasts."""

from __future__ import annotations

import errno
import io
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from oar_lxc.cli.shared import meter as progress
from oar_lxc.cli.shared.meter import Meter


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        return True


def wait_for(stream: io.StringIO, form: str) -> str:
    """Return what was written once there is something of a form."""
    end = time.monotonic() + 10
    while not re.search(form, stream.getvalue()):
        assert time.monotonic() < end, stream.getvalue()
        time.sleep(0.01)
    return stream.getvalue()


@pytest.fixture(params=[io.StringIO, Terminal])
def stream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Return what is written to standard error, a terminal or not."""
    stream: io.StringIO = request.param()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    monkeypatch.setattr(progress, "TERMINAL", 0.02)
    monkeypatch.setattr(progress, "FILE", 0.02)
    return stream


def test_work_of_a_moment_is_not_told(stream: io.StringIO) -> None:
    with Meter("importing mine") as meter:
        meter.update(5, 10)
    assert stream.getvalue() == ""


def test_who_says_nothing_is_told_of_all_the_same(stream: io.StringIO) -> None:
    """As a build does for minutes."""
    with Meter("building mine", patience=0.05):
        wait_for(stream, r"building mine: \d+ s")
    assert stream.getvalue().endswith("\033[K" if stream.isatty() else "\n")


def test_the_last_line_of_a_program_is_told(stream: io.StringIO) -> None:
    said = ["I: first\n"]
    with Meter("building mine", patience=0.05) as meter:
        meter.follow(lambda: "".join(said))
        wait_for(stream, r"building mine: \d+ s, first")
        said.append("I: second \033[31mline\n\n")
        wait_for(stream, r"building mine: \d+ s, second \?\[31mline")
        meter.update(5_000_000, 0)
        wait_for(stream, r"building mine: \d+ s, 5 MB, ")


def test_a_line_of_a_program_that_is_cut_says_so(stream: io.StringIO) -> None:
    with Meter("building", patience=0.05) as meter:
        meter.follow(lambda: "a" * 500)
        written = wait_for(stream, r"\d s, a+…?[\n\r]")
    assert stream.isatty() or written.rstrip().endswith("a…")


def gone() -> str:
    raise OSError(errno.EBADF, "Bad file descriptor")


@pytest.mark.parametrize("last", [str, gone])
def test_a_program_that_is_gone_does_not_matter(
    stream: io.StringIO, last: Callable[[], str]
) -> None:
    with Meter("building mine", patience=0.05) as meter:
        meter.follow(last)
        wait_for(stream, r"building mine: \d+ s[\n\r]")


def test_how_much_is_done_is_told(stream: io.StringIO) -> None:
    with Meter("importing mine", patience=0.05) as meter:
        meter.update(5_000_000, 20_000_000)
        wait_for(stream, r"importing mine: \d+ s, 5 of 20 MB, \d+ MB/s")
        meter.say("took a part")
        assert "oar-lxc: took a part\n" in stream.getvalue()


def test_a_line_is_never_longer_than_a_terminal_is_wide(stream: io.StringIO) -> None:
    """Of two rows, the next line would be written over one alone."""
    with Meter("building " + "x" * 200, patience=0.05):
        written = wait_for(stream, r"x(: \d+ s)?[\n\r]")
    lines = [line for line in re.split(r"\r|\n|\033\[K", written) if line]
    assert {len(line) for line in lines} <= ({79} if stream.isatty() else {len(lines[0])})


def test_an_answer_is_on_standard_output_and_not_behind_the_line(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = io.StringIO()
    monkeypatch.setattr(f"{progress.__name__}.sys.stdout", answers, raising=False)
    with Meter("stopping 42/vm1", patience=0.05) as meter:
        wait_for(stream, "stopping 42/vm1: ")
        meter.answer("vm1 on node1 is stopped")
        assert answers.getvalue() == "vm1 on node1 is stopped\n"
    assert stream.getvalue().endswith("\033[K" if stream.isatty() else "\n")


def test_what_is_polled_is_told_of_on_a_terminal_only() -> None:
    program = (
        "import time\nfrom oar_lxc.cli.shared import meter\nmeter.TERMINAL = meter.FILE = 0.02\n"
        "from oar_lxc.cli.shared.meter import Meter\n"
        'with Meter("asking", 0.01, files=False) as told:\n'
        "    told.add(1000000); told.add(2000000); time.sleep(0.5)\n"
    )
    quiet = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert quiet.stderr == b""
    argv = ["script", "-qec", f"{shlex.quote(sys.executable)} -c '{program}'", "/dev/null"]
    told = subprocess.run(argv, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    assert re.search(rb"asking: \d s, 3 MB, \d+ MB/s", told.stdout)
