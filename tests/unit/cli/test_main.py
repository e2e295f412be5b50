"""The command line, whatever its standard streams are."""

from __future__ import annotations

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
