"""One job on four nodes beside one node: real OAR, in the sandbox, on this machine's CPUs."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from dataclasses import astuple, dataclass
from pathlib import Path

from oar_lxc.sandbox.homes import USERS
from oar_lxc.sandbox.state import SandboxError
from tests.bench.figures import Figure, cpu_seconds
from tests.bench.sandboxed import brought_up
from tests.bench.timing import Spread
from tests.e2e.cluster import Cluster, wait_until

ROW = "nodes"
NODES = 4
PER_NODE = 25
IMAGE = "busybox"
USER = "alice"
LONGEST = 120.0  # seconds that one step of a job may take
# A job: each round waits until it may begin, and until it may end, and tells the seconds of both.
SCRIPT = f"""\
import os, sys, time
from pathlib import Path
from oar_lxc import Group, Session

place = Path(sys.argv[0]).parent

def tell(what, seconds=0.0):
    (place / "half").write_text(str(seconds))
    os.rename(place / "half", place / what)

def wait(what):
    while not (place / what).exists():
        time.sleep(0.01)

for i in range(int(sys.argv[1])):
    tell(f"ready{{i}}")
    wait(f"begin{{i}}")
    begin = time.monotonic()
    with Session(Group(image="{IMAGE}", per_node={PER_NODE}), wait="running"):
        tell(f"launched{{i}}", time.monotonic() - begin)
        wait(f"end{{i}}")
        begin = time.monotonic()
    tell(f"ended{{i}}", time.monotonic() - begin)
"""


@dataclass(frozen=True)
class _Round:
    """What one round took: seconds, and processor seconds of all nodes."""

    launch: float
    launch_cpu: float
    end: float
    end_cpu: float


def measure(rounds: int, *, short: bool = False) -> list[Figure]:
    """Measure the launch and the end of a session; nothing where it shall be short."""
    if short:
        return []
    try:
        with brought_up(NODES) as cluster:
            cluster.sandbox.add_image(IMAGE)
            found = {count: _job(cluster, count, rounds) for count in (1, NODES)}
    except SandboxError as error:
        print(f"{ROW}: not measured, for {error}", file=sys.stderr)
        return []
    one, many = (
        [Spread(values) for values in zip(*map(astuple, found[count]), strict=True)]
        for count in (1, NODES)
    )
    figures = []
    for i, (work, target) in enumerate(
        (
            ("create + start", "at most 1.5 times it"),
            ("  CPU time of all nodes", "at most 4.6 times it"),
            ("destroy, at the session's end", ""),
            ("  CPU time of all nodes", ""),
        )
    ):
        work = f"{NODES} nodes × {PER_NODE}: {work}"
        figures.append(Figure(ROW, work, "s", many[i], f"1 node × {PER_NODE}", one[i], target))
    return figures


def _job(cluster: Cluster, nodes: int, rounds: int) -> list[_Round]:
    """Run a job with so many rounds, and one before that is not counted."""
    place = cluster.sandbox.state.homes / USER / f"bench-{nodes}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "job.py").write_text(SCRIPT)
    os.chown(place, USERS[USER], USERS[USER])
    command = f"python3 {place.name}/job.py {rounds + 1}"
    job = cluster.submit(command, f"nodes={nodes},walltime=0:20:0", USER)
    try:
        found = [_round(cluster, place, i) for i in range(rounds + 1)]
    except TimeoutError as error:
        raise RuntimeError(f"{error}; it said: {job.output('stderr')}") from error
    finally:
        with contextlib.suppress(Exception):
            job.delete()
        job.wait_end()
        shutil.rmtree(place)
    return found[1:]


def _round(cluster: Cluster, place: Path, number: int) -> _Round:
    seconds: list[float] = []
    for first, go, last in (("ready", "begin", "launched"), ("launched", "end", "ended")):
        _told(place / f"{first}{number}")
        before = _cpu(cluster)
        (place / f"{go}{number}").touch()
        seconds += (_told(place / f"{last}{number}"), _cpu(cluster) - before)
    return _Round(*seconds)


def _told(path: Path) -> float:
    wait_until(f"the job writes {path.name}", path.exists, LONGEST)
    return float(path.read_text())


def _cpu(cluster: Cluster) -> float:
    """Return the processor time of all nodes."""
    return sum(
        cpu_seconds(group)
        for node in cluster.nodes
        for group in cluster.sandbox.machine(node).cgroups()
        if group.parent.name == "cpuacct" and "payload" in group.name
    )
