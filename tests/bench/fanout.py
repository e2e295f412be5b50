"""The way to very many nodes, over a transport that only sleeps as ssh would."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.timing import Spread

LATENCY = 0.15  # seconds that ssh takes to log in
OARSH = f'#!/bin/sh\nsleep {LATENCY}\nread -r request\necho \'{{"event": "done"}}\'\n'
# One process per measurement: its peak of memory is that of one call.
PROGRAM = """
import resource, sys, time
from oar_lxc.remote import Remote
nodes = [f"node{i}" for i in range(int(sys.argv[1]))]
begin = time.monotonic()
failed = Remote(1, nodes).call("list", {}, lambda node, event: None)
assert not failed, failed[0]
print(time.monotonic() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def measure(rounds: int, *, short: bool = False) -> list[Figure]:
    """Measure one operation of the agent on very many nodes, beside 64."""
    many = 128 if short else 1000
    found: dict[int, list[tuple[float, float]]] = {64: [], many: []}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as name:
        oarsh = Path(name) / "oarsh"
        oarsh.write_text(OARSH)
        oarsh.chmod(0o755)
        environ = {**os.environ, "PATH": f"{name}:{os.environ['PATH']}"}
        for _ in range(rounds):
            for count, values in found.items():
                argv = [sys.executable, "-c", PROGRAM, str(count)]
                done = subprocess.run(
                    argv, env=environ, check=True, capture_output=True, text=True
                )
                seconds, memory = map(float, done.stdout.split())
                values.append((seconds, memory))
                time.sleep(0.1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return [
        Figure(
            "fanout",
            f"{many} nodes, {what}",
            unit,
            Spread(tuple(x[i] for x in found[many])),
            "64 nodes",
            Spread(tuple(x[i] for x in found[64])),
            target,
        )
        for i, (what, unit, target) in enumerate(
            (("an operation", "s", "as the tree's depth"), ("memory of the head", "MB", "flat"))
        )
    ]
