"""`make test`, with something in the place of what it runs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.unit.fakes.programs import add_program

REPOSITORY = Path(__file__).parents[2]
# Tells what it was asked for. One of the words may fail, one may last until it is interrupted.
STEP = """#!/bin/bash
echo begun
[ "$1" != "$FAILS" ] || exit 1
if [ "$1" = "$LASTS" ]; then
    sleep 60 &
    trap 'echo interrupted; kill $!; exit 1' INT
    kill -INT -- "-$(cat "$CALLS.make")"  # to the group in the foreground, as a terminal does
    wait
fi
echo done
"""
SANDBOX = """#!/bin/sh
echo "$@" >>"$CALLS"
[ "$*" != "sandbox status" ] || exit "$STATUS"
"""


def own_environ() -> dict[str, str]:
    """Return the environment without what a `make` that runs these tests was told itself."""
    return {name: text for name, text in os.environ.items() if not name.startswith("MAKE")}


def make_test(
    tmp_path: Path, fails: str = "", lasts: str = "", was_up: bool = False
) -> tuple[int, list[str]]:
    """Run it; return its status, and sorted, the lines that are not the steps' beginnings."""
    commands = {"SUBMAKE": STEP, "OAR_LXC": SANDBOX}
    for name, text in commands.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environ = own_environ()
    environ |= {"FAILS": fails, "LASTS": lasts, "CALLS": str(tmp_path / "calls")}
    environ |= {"STATUS": "0" if was_up else "1"}
    argv = ["make", "-s", "-o", "need-host", "-o", "setup", "test"]
    argv += [f"{name}={tmp_path / name}" for name in commands]
    with subprocess.Popen(
        ["sh", "-c", 'echo $$ >"$CALLS.make"; exec "$@"', "sh", *argv],
        cwd=REPOSITORY,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        out, _ = process.communicate(timeout=60)
    lines = [re.sub(r" after \d+ s$", "", line) for line in out.splitlines()]
    return process.returncode, sorted(line for line in lines if not line.endswith(": begun"))


def told(passed: list[str], failed: list[str] | None = None) -> list[str]:
    """Return what it prints of steps that pass and that fail."""
    lines = [line for name in passed for line in (f"{name}: done", f"make test: {name} passed")]
    return sorted([*lines, *(f"make test: {name} FAILED" for name in failed or [])])


def calls(tmp_path: Path) -> list[str]:
    """Return how the sandbox was called."""
    return (tmp_path / "calls").read_text().splitlines()


STEPS = ["lint", "unit", "docs", "deb", "integration", "e2e"]


def test_every_line_tells_what_it_is_of(tmp_path: Path) -> None:
    assert make_test(tmp_path) == (0, told(STEPS))
    assert calls(tmp_path) == ["sandbox status", "sandbox down"]


def test_a_sandbox_that_was_up_stays(tmp_path: Path) -> None:
    assert make_test(tmp_path, was_up=True)[0] == 0
    assert calls(tmp_path) == ["sandbox status"]


@pytest.mark.parametrize("fails", STEPS[1:])
def test_what_fails_is_told_and_keeps_nothing_from_its_turn(tmp_path: Path, fails: str) -> None:
    status, lines = make_test(tmp_path, fails)
    assert status != 0
    assert lines == told([step for step in STEPS if step != fails], [fails])
    assert calls(tmp_path)[-1] == "sandbox down"


def test_nothing_is_tested_after_a_mistake_of_style(tmp_path: Path) -> None:
    status, lines = make_test(tmp_path, "lint")
    assert status != 0
    assert lines == told([], ["lint"])


def test_what_runs_ends_with_it(tmp_path: Path) -> None:
    """A step gets Ctrl-C, and the time to tidy up."""
    status, lines = make_test(tmp_path, lasts="e2e")
    assert status != 0
    assert "e2e: interrupted" in lines
    assert calls(tmp_path)[-1] == "sandbox down"


def make(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make with the programs of a directory in the place of the system's."""
    environ = own_environ()
    environ["PATH"] = f"{tmp_path / 'bin'}:{environ['PATH']}"
    return subprocess.run(
        ["make", "-s", *arguments],
        cwd=REPOSITORY,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_an_installation_that_lasts_is_told(tmp_path: Path) -> None:
    second = tmp_path / "second"
    add_program(tmp_path / "bin", "id", "echo 0")
    add_program(tmp_path / "bin", "dpkg-query", "")
    add_program(
        tmp_path / "bin", "sleep", f"[ ! -e {second}.once ] || touch {second}; touch {second}.once"
    )
    add_program(tmp_path / "bin", "apt-get", f"until [ -e {second} ]; do /bin/sleep 0.01; done")
    done = make(tmp_path, "setup", "APT_PACKAGES=lxc")
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first == "installing lxc"
    assert re.fullmatch(r"… \d+ s", rest[0])


@pytest.mark.parametrize("target", ["demo", "test", "e2e"])
@pytest.mark.parametrize(
    ("python", "told"),
    [
        ("exit 1", "make: this machine is not Debian 12 or later"),
        (
            '[ "$1" = -c ] || { echo "make: no cgroups, but trixie can" >&2; exit 1; }',
            "trixie can",
        ),
    ],
)
def test_a_host_that_cannot_do_it_is_told_before_anything_is_installed(
    tmp_path: Path, target: str, python: str, told: str
) -> None:
    bin_directory = tmp_path / "bin"
    add_program(bin_directory, "apt-get", f"touch {tmp_path / 'installed'}")
    add_program(bin_directory, "python3", python)
    done = make(tmp_path, "-o", "need-root", target, f"PYTHON={bin_directory / 'python3'}")
    assert done.returncode != 0
    assert told in done.stderr
    assert not (tmp_path / "installed").exists()


def test_a_host_without_python_gets_it_and_nothing_else_before_it_is_looked_at(
    tmp_path: Path,
) -> None:
    python, asked = tmp_path / "python3", tmp_path / "asked"
    look = 'echo "it was looked at" >&2; exit 1'
    add_program(tmp_path, "coming", f'[ "$1" = -c ] || {{ {look}; }}')
    for name, body in {
        "id": "echo 0",
        "dpkg-query": "",
        "apt-get": f'echo "$@" >>{asked}; cp {tmp_path}/coming {python}',
    }.items():
        add_program(tmp_path / "bin", name, body)
    done = make(tmp_path, "demo", f"PYTHON={python}")
    assert done.returncode != 0
    assert "it was looked at" in done.stderr
    told = asked.read_text().splitlines()
    assert told == ["-qq update", "-qq install -y --no-install-recommends python3"]
