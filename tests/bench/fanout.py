"""The way to very many nodes, over a transport that only sleeps as ssh would."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.remote.agents import WIDTH
from tests.bench.figures import Figure
from tests.bench.timing import Spread

LATENCY = 0.3  # seconds that oarsh takes to log in, as measured in the sandbox
SLOW = 3.0  # seconds beside which the processor time of all these processes counts little
MANY = 1000
ANSWER = 'echo \'["", "up"]\'; read -r request; echo \'{"event": "done"}\''
# What a node does when it is reached: it leads to others, or is an agent that is done at once.
OARSH = f"""\
#!/bin/sh
sleep $LATENCY
case "$*" in *oar_lxc.remote.fanout*) for last; do :; done; exec sh -c "$last";; esac
{ANSWER}
"""
# What a node that leads to others has for a python.
PYTHON = f"""\
#!/bin/sh
[ "$3" = oar_lxc.remote.fanout ] && exec {shlex.quote(sys.executable)} "$@"
{ANSWER}
"""
# One process per measurement: its peak of memory, and that of its fan-out, are those of one call.
PROGRAM = """
import resource, sys, time
from oar_lxc.model.requests import List
from oar_lxc.remote.agents import Remote
nodes = [f"node{i}" for i in range(int(sys.argv[1]))]
begin = time.monotonic()
failed = Remote(1, nodes, "", sys.argv[2]).call(List(), lambda node, event: None)
assert not failed, failed[0]
print(time.monotonic() - begin)
kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
print(sum(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024)
"""


@dataclass(frozen=True)
class _Call:
    """What one call took: seconds, processor seconds of all processes, MB of the head."""

    seconds: float
    cpu: float
    memory: float


def measure(rounds: int, *, short: bool = False) -> list[Figure]:
    """Measure one operation of the agent on very many nodes, beside one level of them."""
    many = 2 * WIDTH if short else MANY
    one_level, all_of_them = f"{WIDTH} nodes", f"{many} nodes"
    alone = f"{many} times that transport alone"
    found: dict[tuple[str, float], list[_Call]] = {}
    with _transport() as python:
        for i in range(rounds):
            for latency in (LATENCY, SLOW) if i % 2 == 0 and not short else (LATENCY,):
                os.environ["LATENCY"] = str(latency)
                for what, argv in {
                    one_level: [sys.executable, "-c", PROGRAM, str(WIDTH), python],
                    all_of_them: [sys.executable, "-c", PROGRAM, str(many), python],
                    alone: ["sh", "-c", f"seq {many} | xargs -P {many} -n 1 oarsh"],
                }.items():
                    found.setdefault((what, latency), []).append(_call(argv))
    figures = []
    for work, field, unit, latency, peer, target in (
        ("an operation", "seconds", "s", LATENCY, one_level, "as the tree's depth"),
        ("", "seconds", "s", LATENCY, alone, ""),
        ("CPU time of all processes", "cpu", "s", LATENCY, one_level, ""),
        ("", "cpu", "s", LATENCY, alone, ""),
        ("memory of the head", "memory", "MB", LATENCY, one_level, "flat"),
        (f"{SLOW:g} s for each login", "seconds", "s", SLOW, one_level, "as the tree's depth"),
    ):
        if (all_of_them, latency) in found:
            ours, theirs = (
                Spread(tuple(getattr(call, field) for call in found[what, latency]))
                for what in (all_of_them, peer)
            )
            title = f"{all_of_them}, {work}" if work else ""
            figures.append(Figure("fanout", title, unit, ours, peer, theirs, target))
    return figures


@contextmanager
def _transport() -> Iterator[str]:
    """Let the transport be everybody's oarsh; yield what nodes have for a python."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as name:
        for program, text in {"oarsh": OARSH, "python": PYTHON}.items():
            (Path(name) / program).write_text(text)
            (Path(name) / program).chmod(0o755)
        os.environ["PATH"] = f"{name}:{before['PATH']}"
        try:
            yield f"{name}/python"
        finally:
            os.environ.clear()
            os.environ.update(before)


def _call(argv: Sequence[str]) -> _Call:
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, text=True
    )
    seconds, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told = done.stdout.split()
    if argv[0] != sys.executable:
        return _Call(seconds, cpu, 0.0)
    return _Call(float(told[0]), cpu, float(told[1]))
