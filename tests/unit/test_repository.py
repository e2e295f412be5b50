"""The files that are no modules: they parse, and hold nothing of the machine they came from."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
HOOKS = sorted(path for path in (REPOSITORY / "hooks").iterdir() if path.is_file())
JOB_SCRIPTS = sorted(path for path in (REPOSITORY / "jobscripts").iterdir() if path.is_file())
NOT_OURS = {"mutants", ".git", ".venv", "dist", "build", "_build", "__pycache__"}


def texts() -> Iterator[tuple[Path, str]]:
    """Yield the repository's text files and what they hold."""
    for directory, names, files in os.walk(REPOSITORY):
        names[:] = [
            n for n in names if n not in NOT_OURS and not n.endswith(("_cache", ".egg-info"))
        ]
        for name in files:
            path = Path(directory, name)
            if path.is_file():
                yield path.relative_to(REPOSITORY), path.read_text(errors="replace")


def parser_of(path: Path) -> list[str]:
    """Return the command that checks the syntax of a hook."""
    first = path.read_text().partition("\n")[0]
    if path.suffix == ".pl" or "perl" in first:
        return ["perl", "-c"]
    if first in ("#!/bin/sh", "#!/bin/bash"):
        return [first[2:], "-n"]
    raise AssertionError(f"{path} starts with {first!r}: neither a shell's file nor Perl's")


def test_the_hooks_are_there() -> None:
    names = {path.name for path in HOOKS}
    assert {"prologue", "epilogue", "job_resource_manager_stanza.pl"} <= names


@pytest.mark.parametrize("hook", HOOKS, ids=lambda path: path.name)
def test_a_hook_parses(hook: Path) -> None:
    done = subprocess.run(
        [*parser_of(hook), str(hook)], capture_output=True, text=True, check=False, timeout=10
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("hook", HOOKS, ids=lambda path: path.name)
def test_a_hook_that_names_its_interpreter_may_be_executed(hook: Path) -> None:
    assert hook.read_bytes().startswith(b"#!") == os.access(hook, os.X_OK)


@pytest.mark.parametrize(
    "script", [p for p in JOB_SCRIPTS if p.suffix == ".py"], ids=lambda path: path.name
)
def test_a_job_script_may_be_executed_and_parses(script: Path) -> None:
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env python3\n")
    assert os.access(script, os.X_OK)
    ast.parse(text, script.name, feature_version=(3, 11))


def test_the_example_job_script_is_short_enough_to_copy() -> None:
    assert len((REPOSITORY / "jobscripts/lxc_job.py").read_text().splitlines()) < 110


def test_no_file_names_the_place_of_the_checkout() -> None:
    place = str(REPOSITORY)
    if place.count("/") < 2:
        pytest.fail(f"{place} is too short a path to look for: check out in a directory below")
    assert [str(path) for path, text in texts() if place in text] == []


def test_every_text_ends_with_one_newline_and_has_no_trailing_blanks() -> None:
    for path, text in texts():
        if not text or path.name == "LICENSE":
            continue
        assert text.endswith("\n"), path
        assert not text.endswith("\n\n"), path
        for number, line in enumerate(text.splitlines(), 1):
            assert line == line.rstrip(), f"{path}:{number}"
