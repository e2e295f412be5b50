"""`make test`, with something in the place of what it runs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.unit.fakes.programs import add_program

REPOSITORY = Path(__file__).parents[2]
# Tells what it was asked for; one of the words may fail, all that come after it are not done.
STEP = """#!/bin/sh
for word in "$@"; do
    echo "$word: begun"
    [ "$word" != "$FAILS" ] || exit 1
    echo "$word: done"
done
"""
SANDBOX = """#!/bin/sh
echo "$@" >>"$CALLS"
[ "$*" != "sandbox status" ] || exit "$STATUS"
"""


def make_test(tmp_path: Path, fails: str = "", was_up: bool = False) -> tuple[int, list[str]]:
    """Run it; return its status, and what it printed without the steps' beginnings."""
    commands = {"SUBMAKE": STEP, "OAR_LXC": SANDBOX}
    for name, text in commands.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    # A `make` that runs these tests passes on what it was told itself.
    environ = {name: text for name, text in os.environ.items() if not name.startswith("MAKE")}
    environ |= {"FAILS": fails, "CALLS": str(tmp_path / "calls")}
    environ |= {"STATUS": "0" if was_up else "1"}
    argv = ["make", "-s", "-o", "need-root", "-o", "setup", "test"]
    argv += [f"{name}={tmp_path / name}" for name in commands]
    done = subprocess.run(
        argv, cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=False
    )
    lines = (line.partition(": ") for line in done.stdout.splitlines())
    return done.returncode, [word for word, _, what in lines if what == "done"]


def calls(tmp_path: Path) -> list[str]:
    """Return how the sandbox was called."""
    return (tmp_path / "calls").read_text().splitlines()


def test_every_part_runs_and_what_ran_beside_is_told_as_a_whole(tmp_path: Path) -> None:
    everything = ["lint", "integration", "unit", "docs", "deb", "e2e"]
    assert make_test(tmp_path) == (0, everything)
    assert calls(tmp_path) == ["sandbox status", "sandbox up", "sandbox down"]


def test_a_sandbox_that_was_up_stays(tmp_path: Path) -> None:
    assert make_test(tmp_path, was_up=True)[0] == 0
    assert calls(tmp_path) == ["sandbox status", "sandbox up"]


@pytest.mark.parametrize(
    ("fails", "others"),
    [
        ("lint", []),
        ("unit", ["lint", "integration", "e2e"]),
        ("docs", ["lint", "integration", "unit", "e2e"]),
        ("integration", ["lint", "unit", "docs", "deb", "e2e"]),
        ("e2e", ["lint", "integration", "unit", "docs", "deb"]),
    ],
)
def test_what_fails_is_told_and_hides_nothing_beside_it(
    tmp_path: Path, fails: str, others: list[str]
) -> None:
    status, told = make_test(tmp_path, fails)
    assert status != 0
    assert told == others
    assert calls(tmp_path)[-1] == "sandbox down"


def test_an_installation_that_lasts_is_told(tmp_path: Path) -> None:
    second = tmp_path / "second"
    add_program(tmp_path / "bin", "id", "echo 0")
    add_program(tmp_path / "bin", "dpkg-query", "")
    add_program(
        tmp_path / "bin", "sleep", f"[ ! -e {second}.once ] || touch {second}; touch {second}.once"
    )
    add_program(tmp_path / "bin", "apt-get", f"until [ -e {second} ]; do /bin/sleep 0.01; done")
    environ = {name: text for name, text in os.environ.items() if not name.startswith("MAKE")}
    environ["PATH"] = f"{tmp_path / 'bin'}:{environ['PATH']}"
    done = subprocess.run(
        ["make", "-s", "setup", "APT_PACKAGES=lxc"],
        cwd=REPOSITORY,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    first, *rest = done.stdout.splitlines()
    assert first == "installing lxc"
    assert re.fullmatch(r"… \d+ s", rest[0])
