"""The command line, whatever its standard streams are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CLOSED = ("<&-", ">&-", "2>&-", "<&- >&- 2>&-")


@pytest.mark.parametrize("closed", CLOSED)
def test_a_command_does_its_work_with_closed_streams(tmp_path: Path, closed: str) -> None:
    spec = tmp_path / "vms.toml"
    spec.write_text('[[group]]\nname = "db"\n')
    argv = [sys.executable, "-m", "oar_lxc.cli", "plan", str(spec), "--nodes", "1", "--cores", "1"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *argv], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert ("db1" in done.stdout) == (closed in ("<&-", "2>&-"))
    assert "mistake" not in done.stderr


@pytest.mark.parametrize("closed", CLOSED)
def test_a_mistake_has_its_status_with_closed_streams(closed: str) -> None:
    argv = [sys.executable, "-m", "oar_lxc.cli", "exec", "/", "--", "true"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *argv], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr


@pytest.mark.parametrize(("before", "status"), [("", 130), ("trap '' INT; ", 7)])
def test_an_interrupt_while_python_imports_is_no_traceback(
    tmp_path: Path, before: str, status: int
) -> None:
    """Nor does it end what is to ignore it, as under nohup."""
    interrupt = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(7)\n"
    (tmp_path / "click.py").write_text(interrupt)
    done = subprocess.run(
        ["sh", "-c", f'{before}exec "$@"', "sh", sys.executable, "-m", "oar_lxc.cli", "list"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
