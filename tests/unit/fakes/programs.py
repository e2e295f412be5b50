"""Programs that stand for others, and what tests ask of processes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest


def add_program(directory: Path, name: str, body: str) -> None:
    """Write a shell script that can be run by its name where ``directory`` is on PATH."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{body}\n")
    (directory / name).chmod(0o755)


def recorder(log: Path, then: str = "") -> str:
    """Return a shell script that appends its argv to a file, for :func:`recorded`."""
    return f'printf "%s\\0" "$#" "$@" >> "{log}"\n{then}'


def recorded(log: Path) -> list[list[str]]:
    """Return the arguments of each call of a :func:`recorder`, oldest first."""
    words = log.read_text().split("\0")[:-1] if log.exists() else []
    calls = []
    while words:
        count = int(words.pop(0))
        calls.append(words[:count])
        del words[:count]
    return calls


def invoke(command: click.Command, *arguments: str) -> int:
    """Run a command of the command line; return its exit status. Its output is pytest's to catch.

    click's own runner tells the two streams apart by an option that newer versions do not have.
    """
    with pytest.raises(SystemExit) as caught:
        command.main(list(arguments), prog_name="oar-lxc")
    return caught.value.code if isinstance(caught.value.code, int) else 0


@contextmanager
def deep_tree(parent: Path, name: str, depth: int) -> Iterator[Path]:
    """Make directories of one name, one in the other; remove what is left of them.

    Python's own removal, which pytest uses, gives up at less than 1,000 levels.
    """
    top = parent / name
    fd = os.open(parent, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    try:
        yield top
    finally:
        subprocess.run(["rm", "-rf", str(top)], check=True)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def wait_until(condition: Callable[[], object], seconds: float = 30) -> bool:
    """Wait until a condition holds; return whether it does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
