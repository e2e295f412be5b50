"""Every program of ours ends in one sentence and a status, whatever goes wrong in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oar_lxc.errors import JobError
from oar_lxc.linux.error_exit import sentence
from oar_lxc.linux.login_shell import pack

# Module → what of it fails, its arguments, and what it reads.
PROGRAMS = {
    "oar_lxc.agent.main": ("open_job", ["42", "list"], "{}\n"),
    "oar_lxc.agent.attach": ("open_job", ["42", "-", pack(["attach", "vm1"])], ""),
    "oar_lxc.remote.fanout": ("Order", [], "{}\n"),
    "oar_lxc.agent.forward": ("Forward", ["1:100.64.0.1:2"], ""),
    "oar_lxc.cli.main": ("import_module", ["list"], ""),
    "oar_lxc.oar.hook": ("run_hook", ["prologue", "42", "alice", "/nodes"], ""),
    "oar_lxc.root.main": ("_forget_caller", ["reap"], ""),
}
FAIL = """
import importlib, os, sys
os.geteuid = lambda: 0
module, name, error, *arguments = sys.argv[1:]
sys.argv = [module, *arguments]

class Fails:
    def __getattr__(self, name):
        return self
    def __call__(self, *arguments, **options):
        raise eval(error)

program = importlib.import_module(module)
setattr(program, name, Fails())
program.main()
"""
FULL = "OSError(28, 'No space left on device', '/x')"


def run(module: str, error: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program in which something raises an error."""
    name, arguments, stdin = PROGRAMS[module]
    return subprocess.run(
        [sys.executable, "-c", FAIL, module, name, error, *arguments],
        env={**os.environ, **environ},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.mark.parametrize("module", PROGRAMS)
@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (FULL, 1, "/x: No space left on device"),
        ("PermissionError(13, 'Permission denied', '/x')", 1, "/x: Permission denied"),
        ("ValueError('what nobody thought of')", 1, "what nobody thought of (<string>:"),
        ("KeyboardInterrupt()", 130, ""),
    ],
    ids=["full", "unreadable", "mistake", "interrupted"],
)
def test_a_program_ends_in_one_sentence(module: str, error: str, status: int, said: str) -> None:
    done = run(module, error)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "up" not in line]
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert [said in line for line in lines if line] == ([True] if said else [])


@pytest.mark.parametrize("module", PROGRAMS)
def test_who_asks_for_it_gets_the_traceback(module: str) -> None:
    done = run(module, FULL, OAR_LXC_DEBUG="1")
    assert "Traceback (most recent call last)" in done.stderr
    assert "/x: No space left on device" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(2, "No such file or directory", "a", None, "b"),
            "a: b: No such file or directory",
        ),
        (OSError(2, "No such file or directory"), "No such file or directory"),
        (FileNotFoundError(2, "No such file or directory", b"\xff"), "\udcff: No such"),
        (JobError("job 42 has ended"), "job 42 has ended"),
    ],
)
def test_the_words_are_the_systems_or_our_own(error: Exception, said: str) -> None:
    assert sentence(error).startswith(said)
    assert sentence(error, "node1").startswith(
        said if isinstance(error, JobError) else "node node1"
    )


@pytest.mark.parametrize("arguments", [["--help"], ["image", "list", "--json"]])
def test_an_output_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, arguments: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "oar_lxc.cli.main", *arguments],
        env={**os.environ, "HOME": str(tmp_path)},
        stdout=os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if "no images" not in line]
    assert (done.returncode, len(lines)) == (1, 1)
    assert lines[0].startswith("oar-lxc: ")
    assert lines[0].endswith("No space left on device")
