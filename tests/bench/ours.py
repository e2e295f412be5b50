"""Our way to containers: the job script in a pretend job, as OAR would run it."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import cpu_seconds
from tests.bench.loop import all_cpus
from tests.pretend import CGROUPS, PYTHON, PretendJob, checkout, pretend_job

LONGEST = 600.0  # seconds that anything here may take


@dataclass
class Launched:
    """Containers that the job script has started, and what that took.

    Attributes:
        job: the job.
        process: the job script.
        running: seconds from the script's exec until all were RUNNING.
        ready: seconds until all answered, 0 where that was not waited for.
        cpu: processor seconds until then.
    """

    job: PretendJob
    process: subprocess.Popen[str]
    running: float
    ready: float
    cpu: float

    def end(self) -> float:
        """End the script as a batch scheduler does, by SIGTERM; return the seconds it took."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=LONGEST)
        return time.monotonic() - begin

    def destroy(self) -> float:
        """Kill the script, then let the root side destroy all; return the seconds of that.

        It reads back from the kernel and the disk that nothing is left, or fails.
        """
        self.process.kill()
        self.process.communicate(timeout=LONGEST)
        begin = time.monotonic()
        self.job.destroy()
        return time.monotonic() - begin


def launch(job: PretendJob, image: str, count: int, wait: str = "ssh") -> Launched:
    """Start containers by the job script; return once they are ready."""
    script = str(checkout() / "jobscripts/lxc_job.py")
    argv = [PYTHON, "-u", script, "--image", image, "--per-node", str(count), "--wait", wait]
    group = cgroup_of(job)
    before = cpu_seconds(group)
    begin = time.monotonic()
    process = job.start(argv)
    last: dict[str, float] = {}
    for line in process.stdout or ():
        if told := re.search(r": (started|ready)", line):
            last[told[1]] = time.monotonic() - begin
        if line.startswith("connect from"):
            cpu = cpu_seconds(group) - before
        if line.startswith("end the job"):
            running, ready = last["started"], last.get("ready", 0.0)
            return Launched(job, process, running, ready, cpu)
    process.kill()
    raise RuntimeError(process.stderr.read() if process.stderr else "the job script said nothing")


def cgroup_of(job: PretendJob) -> Path:
    """Return the cgroup that counts a job's processor time."""
    return CGROUPS / "cpuacct" / job.cgroup.lstrip("/")


@contextmanager
def our_job(job_id: int, user: str) -> Iterator[PretendJob]:
    """Make a pretend job on all CPUs; in the end it is gone."""
    with pretend_job(job_id, user, all_cpus()) as job:
        yield job


def oar_lxc(job: PretendJob, arguments: Sequence[str]) -> float:
    """Run ``oar-lxc`` in the job, which must succeed; return the seconds."""
    begin = time.monotonic()
    done = job.run([PYTHON, "-m", "oar_lxc.cli.main", *arguments], LONGEST)
    seconds = time.monotonic() - begin
    if done.status:
        raise RuntimeError(f"oar-lxc {' '.join(arguments)}: {done.stderr}")
    return seconds
