"""How a process becomes a command in a container."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from oar_lxc.container.command import PATH_INSIDE, environment_inside

REPOSITORY = Path(__file__).parents[3]
BECOME = (
    "import sys; from oar_lxc.container.command import become_command as become; "
    "sys.exit(become(sys.argv[2:], sys.argv[1], 'vm1'))"
)


def become(path: Path, *argv: str) -> tuple[int, str, str]:
    """Let a process become a command; return its status and what it wrote."""
    done = subprocess.run(
        [sys.executable, "-c", BECOME, str(path), *argv],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def program(path: Path, text: str, mode: int = 0o755) -> None:
    path.write_text(text)
    path.chmod(mode)


def test_a_command_is_found_in_the_path_and_has_its_own_status(tmp_path: Path) -> None:
    program(tmp_path / "greet", '#!/bin/sh\necho "$1"\nexit 5\n')
    assert become(tmp_path, "greet", "a b") == (5, "a b\n", "")
    assert become(Path("/nowhere"), str(tmp_path / "greet"), "x") == (5, "x\n", "")


def test_a_script_without_a_first_line_is_the_shells(tmp_path: Path) -> None:
    program(tmp_path / "plain", 'echo "$0 $1"\n')
    assert become(tmp_path, "plain", "x")[:2] == (0, f"{tmp_path}/plain x\n")


@pytest.mark.parametrize(
    ("text", "mode", "status", "why"),
    [
        (None, 0, 127, "no such command in vm1"),
        ("#!/no/such\n", 0o755, 126, "not executable, as what its first line names is missing"),
        ("#!/bin/sh\n", 0o644, 126, "not executable (Permission denied) in vm1"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(
    tmp_path: Path, text: str | None, mode: int, status: int, why: str
) -> None:
    if text is not None:
        program(tmp_path / "tool", text, mode)
    told = become(tmp_path, "tool")
    assert told[:2] == (status, "")
    assert told[2].startswith("oar-lxc: tool: ")
    assert why in told[2]


def test_a_command_has_the_environment_of_its_plan(tmp_path: Path) -> None:
    given = {"environment": {"LANG": "de_DE.UTF-8", "A": "b c"}}
    (tmp_path / "container.json").write_text(json.dumps(given))
    found = dict(line.split("=", 1) for line in environment_inside(tmp_path))
    assert found == {
        "PATH": PATH_INSIDE,
        "HOME": "/root",
        "USER": "root",
        "LANG": "de_DE.UTF-8",
        "A": "b c",
    }


def test_a_plan_that_the_user_spoiled_leaves_the_plain_environment(tmp_path: Path) -> None:
    (tmp_path / "container.json").write_text('{"environment": [1]}')
    assert f"PATH={PATH_INSIDE}" in environment_inside(tmp_path)
