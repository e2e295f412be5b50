"""A command in a container, from the sandbox's frontend, beside one on the container's node."""

from __future__ import annotations

import contextlib
import json
import sys

from oar_lxc.sandbox.state import SandboxError
from tests.bench.figures import Figure
from tests.bench.sandboxed import brought_up
from tests.bench.timing import Spread
from tests.e2e.cluster import Cluster

ROW = "reach"
NODES = 2
EACH = 4  # times of each in a round: one takes less than a second
LONGEST = 10.0  # seconds that one of them may take
JOB = "./jobscripts/lxc_job.py"
# Runs commands in turn, so often, and once before that is not counted; prints their seconds.
TIMES = """\
import json, subprocess, sys, time
count, commands = int(sys.argv[1]), json.loads(sys.argv[2])
taken = [[] for _ in commands]
for number in range(count + 1):
    for command, seconds in zip(commands, taken):
        begin = time.monotonic()
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
        if number:
            seconds.append(time.monotonic() - begin)
print(json.dumps(taken))
"""


def measure(rounds: int, *, short: bool = False) -> list[Figure]:
    """Measure ``oar-lxc exec`` and ``ssh`` beside ``oarsh``; nothing where it shall be short."""
    if short:
        return []
    try:
        with brought_up(NODES) as cluster:
            login, ran, opened = _times(cluster, rounds * EACH)
    except SandboxError as error:
        print(f"{ROW}: not measured, for {error}", file=sys.stderr)
        return []
    figures = []
    for work, ours, most in (("exec", ran, 1.5), ("ssh", opened, 2.0)):
        target = f"at most {most:g} times it: {1 / most:.2f}"
        work = f"oar-lxc {work} JOB/vm1 -- true"
        figures.append(Figure(ROW, work, "s", ours, "oarsh NODE true", login, target))
    return figures


def _times(cluster: Cluster, count: int) -> list[Spread]:
    """Return what oarsh, exec and ssh took, in a job of their own."""
    job = cluster.submit(JOB, f"nodes={NODES}/core=1,walltime=0:20:0")
    try:
        job.wait_output("connect from the frontend:")
        listed = cluster.frontend("oar-lxc", "list", str(job.id), "--json").stdout
        node = next(c["node"] for c in json.loads(listed) if c["name"] == "vm1")
        commands = [
            ["env", f"OAR_JOB_ID={job.id}", "oarsh", node, "true"],
            ["oar-lxc", "exec", f"{job.id}/vm1", "--", "true"],
            ["oar-lxc", "ssh", f"{job.id}/vm1", "--", "true"],
        ]
        argv = ("python3", "-c", TIMES, str(count), json.dumps(commands))
        most = LONGEST * len(commands) * (count + 1)
        taken = json.loads(cluster.frontend(*argv, timeout=most).stdout)
        return [Spread(tuple(seconds)) for seconds in taken]
    finally:
        with contextlib.suppress(Exception):
            job.delete()
        job.wait_end()
