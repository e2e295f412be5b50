"""What oarsh is told on a node: the name of the cpuset of the job in which it is called."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest

HOOK = Path(__file__).parents[2] / "hooks/job_cpuset"
UID = os.getuid()
NAME = pwd.getpwuid(UID).pw_name
SLICE = f"/oar.slice/oar-u{UID}.slice/oar-u{UID}-j42.slice"


def told(tmp_path: Path, cgroups: str, job: str = "42") -> tuple[int, str]:
    (tmp_path / "cgroup").write_text(cgroups)
    argv = [str(HOOK), "-fj", job, str(tmp_path / "cgroup")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "below",
    ["oar-u7-j42-p9.scope", "oar-u7-j42-t5.slice/x.scope", "oar-lxc-42.service/agent"],
)
def test_a_process_of_a_job_is_told_the_jobs_name(tmp_path: Path, below: str) -> None:
    assert told(tmp_path, f"0::{SLICE}/{below}\n") == (0, f"cpuset_name = {NAME}_42\n")
    assert told(tmp_path, f"0::{SLICE}/{below}\n", "4") == (1, "")


@pytest.mark.parametrize(
    "cgroups",
    [
        "0::/user.slice/user-0.slice/session-1.scope\n",
        "0::/\n",
        "",
        # What a user may name as she likes is below a slice of hers.
        f"0::/oar.slice/oar-u{UID}.slice/oar-u{UID}-j41.slice/oar-lxc-41.service{SLICE}/x\n",
        f"4:pids:{SLICE}/x\n",
    ],
)
def test_another_process_is_told_nothing(tmp_path: Path, cgroups: str) -> None:
    assert told(tmp_path, cgroups) == (1, "")


@pytest.mark.parametrize("job", ["", "x", "4x", "4\\.", ".*", "-1"])
def test_what_is_no_number_is_no_job(tmp_path: Path, job: str) -> None:
    assert told(tmp_path, f"0::{SLICE}/x\n", job) == (1, "")
