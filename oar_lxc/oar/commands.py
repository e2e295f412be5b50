"""Ask OAR for jobs and nodes, with its commands ``oarstat`` and ``oarnodes``."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterable

from oar_lxc.errors import CommandError, JobError
from oar_lxc.linux.run import run

ENDED = ("Error", "Terminated")  # a job's last states
ENDING = ("toError", "Finishing")
TIMEOUT = 30.0  # seconds for oarstat to answer about one job
JOBS_AT_ONCE = 100  # jobs in the arguments of one oarstat at most
UNFOLDED = "1000"  # characters in a line: OAR 3 folds what is longer, where it knows no terminal


class NoOarstatError(JobError):
    """This machine has no oarstat, as a node."""


def job_facts(job_id: int) -> dict[str, str]:
    """Return what ``oarstat -f`` tells of a job; empty if OAR does not know the job.

    OAR 3 has the key ``user`` for what is ``owner`` in OAR 2, and here; it names no nodes.

    Raises:
        NoOarstatError: this machine has no oarstat.
        CommandError: oarstat did not answer.
    """
    facts = {}
    for line in _oarstat(job_id, "-f").splitlines():
        key, separator, value = line.partition(" = ")
        if separator:
            facts[key.strip()] = value.strip()
    if "user" in facts:
        facts.setdefault("owner", facts["user"])
    return facts


def job_resources(job_id: int) -> list[str]:
    """Return what ``oarstat -p`` tells of a job: a line of properties for each resource.

    Raises:
        NoOarstatError: this machine has no oarstat.
        CommandError: oarstat did not answer.
    """
    return [line.strip() for line in _oarstat(job_id, "-p").splitlines()]


def _oarstat(job_id: int, option: str) -> str:
    try:
        return _run(f"{option}j", str(job_id), timeout=TIMEOUT)
    except CommandError as error:
        if error.status == 127:
            raise NoOarstatError(
                f"cannot find job {job_id} from here, as this machine has no oarstat and this is "
                "not the job's own environment: run it on a frontend, or in the job"
            ) from error
        raise


def _run(*options: str, timeout: float) -> str:
    environ = os.environ | {"COLUMNS": UNFOLDED}
    return run(["oarstat", *options], env=environ, timeout=timeout).stdout


def running_jobs(timeout: float) -> list[str]:
    """Return the numbers of the caller's running jobs; only running jobs have containers.

    Args:
        timeout: seconds for OAR to answer.
    """
    rows = [line.split() for line in _run("-u", timeout=timeout).splitlines()]
    # OAR 2 has a letter after the number, and OAR 3 the word in one of the columns that follow.
    return [
        row[0]
        for row in rows
        if row and row[0].isdigit() and (row[1:2] == ["R"] or "Running" in row[1:])
    ]


def ended_jobs(jobs: Collection[int]) -> set[int]:
    """Return the jobs among the given ones that have ended, as OAR says."""
    ended = set()
    numbers = sorted(jobs)
    for start in range(0, len(numbers), JOBS_AT_ONCE):
        options = [f"-j{job}" for job in numbers[start : start + JOBS_AT_ONCE]]
        for line in run(["oarstat", "-s", *options]).stdout.splitlines():
            match = re.fullmatch(r"\s*([0-9]+)\s*:\s*(\w+)\s*", line)
            if match and match[2] in ENDED:
                ended.add(int(match[1]))
    return ended & set(numbers)


def has_oarnodes() -> bool:
    """Whether this machine has ``oarnodes``: the server and frontends do."""
    return shutil.which("oarnodes") is not None


def node_words() -> Iterable[str]:
    """Return OAR's names of the cluster's nodes, each once."""
    return dict.fromkeys(run(["oarnodes", "-l"]).stdout.split())
