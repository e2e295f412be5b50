"""So many small containers on one node that what is worse than linear would show."""

from __future__ import annotations

import time
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.ours import LONGEST, launch, oar_lxc, our_job
from tests.bench.timing import Spread
from tests.pretend import CGROUPS, PYTHON, PretendJob, ordinary_user

ROW = "many"
IMAGE = "busybox"
FIRST_JOB = 912_000


def measure(rounds: int, *, short: bool = False) -> list[Figure]:
    """Measure each step with many containers, beside the same step with a tenth of them."""
    counts = (4, 40) if short else (100, 1000)
    found: dict[int, dict[str, list[float]]] = {count: {} for count in counts}
    job_id = FIRST_JOB
    with ordinary_user() as user:
        for _ in range(max(1, rounds // 2)):
            for count in counts:
                job_id += 1
                with our_job(job_id, user) as job:
                    for work, value in _steps(job, count).items():
                        found[count].setdefault(work, []).append(value)
    few, many = counts
    figures = []
    for work, values in found[many].items():
        unit = "MB" if "memory" in work else "s"
        factor = 1 if unit == "MB" else many / few
        peer = f"{few}" + (f", times {many // few}" if unit == "s" else "")
        scaled = Spread(tuple(value * factor for value in found[few][work]))
        figures.append(
            Figure(ROW, f"{many}: {work}", unit, Spread(tuple(values)), peer, scaled, "not < 0.8")
        )
    return figures


def _steps(job: PretendJob, count: int) -> dict[str, float]:
    launched = launch(job, IMAGE, count, "running")
    steps = {"create + start": launched.running, "  its CPU": launched.cpu}
    monitors, all_of_it = _memory(job)
    steps["list"] = oar_lxc(job, ["list", "--json"])
    program = (
        "import sys; from oar_lxc.client.lookup import find_remote, list_containers; "
        "from oar_lxc.client.commands import run_in_containers as run; r = find_remote(None); "
        "names = [c.name for c in list_containers(r)]; "
        "from oar_lxc.model.requests import Exec; "
        "done = run(r, r.nodes, Exec(tuple(names), argv=('true',))); "
        "sys.exit(any(x.status for x in done) or len(done) != int(sys.argv[1]))"
    )
    steps["list, exec in all"] = _python(job, program, str(count))
    steps["destroy"] = launched.destroy()
    steps["memory of LXC's monitor, each"] = monitors / count
    steps["memory of all but the containers' own, each"] = all_of_it / count
    return steps


def _python(job: PretendJob, program: str, *arguments: str) -> float:
    begin = time.monotonic()
    done = job.run([PYTHON, "-c", program, *arguments], LONGEST)
    if done.status:
        raise RuntimeError(done.stderr)
    return time.monotonic() - begin


def _memory(job: PretendJob) -> tuple[float, float]:
    """Return MB of memory, shares counted once: of LXC's monitors, of all outside containers."""
    top = CGROUPS / "cpuset" / job.cgroup.lstrip("/")
    monitors = rest = 0.0
    for procs in top.rglob("cgroup.procs"):
        inside = "lxc.payload" in str(procs)
        if inside:
            continue
        for pid in procs.read_text().split():
            size = _pss(int(pid))
            if "lxc.monitor" in str(procs):
                monitors += size
            rest += size
    return monitors, rest


def _pss(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return sum(int(x.split()[1]) for x in text.splitlines() if x.startswith("Pss:")) / 1024
