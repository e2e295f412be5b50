"""Running other programs."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oar_lxc.errors import CommandError, CommandTimeoutError, OarLxcError
from oar_lxc.linux.run import kill_group, run, running

# Starts a program that outlives it, writes that one's process id, and waits.
PARENT = "sleep 60 & echo $! > pid.new && mv pid.new pid && wait"


def test_a_result_has_status_and_both_streams() -> None:
    result = run(["sh", "-c", "echo out; echo err >&2"])
    assert (result.status, result.stdout, result.stderr) == (0, "out\n", "err\n")
    assert result.argv == ("sh", "-c", "echo out; echo err >&2")


def test_arguments_are_no_shell_line(weird_tmp_path: Path) -> None:
    name = str(weird_tmp_path)
    assert run(["printf", "%s", name, "; id", "$HOME"]).stdout == f"{name}; id$HOME"
    assert list(weird_tmp_path.iterdir()) == []


def test_a_failure_is_an_error_with_argv_status_and_what_was_said() -> None:
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", "echo no such thing >&2; exit 3"])
    error = caught.value
    assert isinstance(error, OarLxcError)
    assert (error.argv[0], error.status, error.stderr) == ("sh", 3, "no such thing\n")
    assert str(error).endswith("ended with status 3: no such thing")


def test_a_failure_that_was_told_on_stdout_is_told() -> None:
    with pytest.raises(CommandError, match="only here"):
        run(["sh", "-c", "echo only here; exit 1"])


def test_a_silent_failure_says_so() -> None:
    with pytest.raises(CommandError, match="it said nothing"):
        run(["false"])


def test_an_unchecked_failure_is_a_result() -> None:
    assert run(["sh", "-c", "exit 7"], check=False).status == 7


def test_a_signal_is_a_negative_status() -> None:
    assert run(["sh", "-c", "kill -TERM $$"], check=False).status == -signal.SIGTERM


@pytest.mark.parametrize("check", [True, False])
def test_a_program_that_does_not_exist_is_status_127(check: bool) -> None:
    with pytest.raises(CommandError, match="No such file or directory") as caught:
        run(["/nonexistent/program", "x"], check=check)
    assert caught.value.status == 127


def test_a_file_that_may_not_be_executed_is_status_127(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(CommandError, match="Permission denied") as caught:
        run([str(program)])
    assert caught.value.status == 127


def test_without_input_a_program_reads_nothing() -> None:
    assert run(["cat"], timeout=5).stdout == ""


@pytest.mark.parametrize("given", ["grüße\n", "grüße\n".encode()])
def test_input_is_text_or_bytes(given: str | bytes) -> None:
    assert run(["cat"], input=given).stdout == "grüße\n"


def test_bytes_that_are_no_text_survive_the_way_through() -> None:
    out = run(["printf", r"\377\376"]).stdout
    assert os.fsencode(out) == b"\xff\xfe"
    assert run(["cat"], input=out).stdout == out


def test_more_than_a_pipe_holds_goes_through() -> None:
    text = "x" * 1_000_000
    assert run(["cat"], input=text).stdout == text


def test_the_environment_is_replaced_where_one_is_given() -> None:
    assert run(["/usr/bin/env"], env={"A": "b c"}).stdout == "A=b c\n"


def test_the_working_directory_is_as_given(weird_tmp_path: Path) -> None:
    assert run(["pwd", "-P"], cwd=str(weird_tmp_path)).stdout == f"{weird_tmp_path}\n"


def test_a_program_has_a_session_of_its_own() -> None:
    result = run([sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())"])
    assert result.stdout == "True\n"


def test_a_timeout_kills_all_that_was_started(
    tmp_path: Path, assert_pid_gone: Callable[[int], None]
) -> None:
    begin = time.monotonic()
    with pytest.raises(CommandTimeoutError, match=r"did not end within 1 s") as caught:
        run(["sh", "-c", PARENT], timeout=1, cwd=str(tmp_path))
    assert time.monotonic() - begin < 30
    assert (caught.value.argv[0], caught.value.timeout) == ("sh", 1)
    assert_pid_gone(int((tmp_path / "pid").read_text()))


def test_the_end_of_a_program_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"it slept {seconds} s"))
    # It closes its streams long before it ends.
    assert run(["sh", "-c", "exec >&- 2>&-; sleep 0.1"]).status == 0
    with running(["sh", "-c", "sleep 0.1"]) as program:
        program.finish()


def test_a_program_that_ignores_sigterm_is_killed_too() -> None:
    begin = time.monotonic()
    with pytest.raises(CommandTimeoutError):
        run(["sh", "-c", "trap '' TERM INT; while :; do sleep 60; done"], timeout=0.2)
    assert time.monotonic() - begin < 30


def test_an_exception_in_the_caller_kills_all_that_was_started(
    tmp_path: Path, assert_pid_gone: Callable[[int], None]
) -> None:
    class Interrupt(BaseException):
        pass

    def handler(number: int, frame: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(Interrupt):
            run(["sh", "-c", PARENT], cwd=str(tmp_path))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert_pid_gone(int((tmp_path / "pid").read_text()))


def test_killing_a_group_that_is_gone_is_fine() -> None:
    result = run(["sh", "-c", "echo $$"])
    kill_group(int(result.stdout))
