"""What an administrator allows the service that runs jobs, no job can leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.linux.run import run
from tests.integration.attacks import PROLOGUE
from tests.integration.conftest import left, published
from tests.integration.nodes import oar_cgroups
from tests.pretend import CGROUPS, PYTHON, PretendJob, checkout

PROCESSES, MEMORY = 60, 64 << 20
LIMITS = {
    "pids": ("pids.max", str(PROCESSES), "max"),
    "memory": ("memory.limit_in_bytes", str(MEMORY), "-1"),
}
# Tells how many processes it can have, and whether it can have so much memory: in the service's
# cgroups, where it begins, and in those that the job's user was given.
LEAVE = """
def processes():
    made = []
    try:
        while len(made) < 200:
            if (pid := os.fork()) == 0: signal.pause()
            made.append(pid)
    except OSError: pass
    for pid in made:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(made)
def memory():
    if (pid := os.fork()) == 0:
        bytearray(100 << 20)
        os._exit(0)
    return os.waitpid(pid, 0)[1]
tell(processes(), memory())
for path in sys.argv[1:]:
    with open(f"{path}/cgroup.procs", "w") as file: file.write(str(os.getpid()))
tell(processes(), memory())
"""


@pytest.fixture
def service() -> Iterator[list[Path]]:
    """Return the cgroups of a service with limits, and give those of jobs none afterwards."""
    made = [CGROUPS / name / "oar-lxc-test.service" for name in LIMITS]
    for path, (file, limit, _) in zip(made, LIMITS.values(), strict=True):
        path.mkdir()
        (path / file).write_text(limit)
    yield made
    for path, (file, _, unlimited) in zip(made, LIMITS.values(), strict=True):
        path.rmdir()
        (path.parent / "oar-lxc" / file).write_text(unlimited)


def test_limits_of_the_service_hold_for_what_a_job_moves_into_its_own_cgroups(
    unprepared: PretendJob, service: list[Path]
) -> None:
    job = unprepared
    enter = "; ".join(f"echo $$ >{path}/cgroup.procs" for path in service)
    node_side = [PYTHON, "-IS", str(checkout() / "oar-lxc-node"), "prepare"]
    node_side += ["--job", str(job.id), "--user", job.user, "--cgroup", job.cgroup]
    node_side += ["--node", job.node, "--nodes", job.node]
    run(["sh", "-ec", f'{enter}; exec "$@"', "sh", *node_side])
    assert published(job).state == "ready"
    first_id = published(job).first_id
    own = [path for path in published(job).cgroups if path.split("/")[4] in LIMITS]
    assert len(own) == len(LIMITS)
    become = ["setpriv", "--reuid", job.user, "--regid", job.user, "--init-groups", "--"]
    argv = [*become, PYTHON, "-c", PROLOGUE + LEAVE, *own]
    done = run(["sh", "-ec", f'{enter}; exec "$@"', "sh", *argv])
    before, after = done.stdout.splitlines()
    for line in (before, after):
        number, killed = map(int, line.split())
        assert 0 < number <= PROCESSES
        assert killed == 9
    assert job.destroy().status == 0
    assert left(job, first_id) == {"cgroups": oar_cgroups(job)}
