"""The real way to agents, to a node with real containers, as from it and as from another one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.remote.agents import Remote
from tests.integration.conftest import next_id
from tests.integration.jobs import close, start_script
from tests.pretend import CGROUPS, CONTROLLERS, PYTHON, PretendJob, checkout, pretend_job
from tests.unit.fakes.programs import add_program
from tests.unit.remote_contract import RemoteContract, Ways

DEAD = "no-such-node"
# As oarsh: what it runs is in the job's cgroups, and is the user's.
OARSH = f"""
while [ $# -gt 2 ]; do shift; done
[ "$1" = {DEAD} ] && {{ echo "ssh: No route to host" >&2; exit 255; }}
exec sh -c "$2"
"""
# Stands for Python: it is in the job's cgroups, and has the checkout that every user may read.
IN_JOB = """
for tasks in {tasks}; do echo $$ > $tasks; done
shift 2
exec setpriv --reuid {user} --regid {user} --init-groups env HOME=/ {python} -I {program} "$@"
"""


@pytest.fixture(scope="module")
def job(user: str) -> Iterator[PretendJob]:
    """Return a job with two containers that run."""
    with pretend_job(next_id(), user) as job:
        running = start_script(job, "--per-node", "2", "--wait", "running")
        try:
            yield job
        finally:
            close(running.process)


class TestRemote(RemoteContract):
    @pytest.fixture(params=["here", "elsewhere"])
    def ways(
        self,
        job: PretendJob,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        request: pytest.FixtureRequest,
    ) -> Ways:
        tasks = " ".join(str(CGROUPS / c / job.cgroup[1:] / "tasks") for c in CONTROLLERS)
        program = checkout() / "oar_lxc/linux/isolated.py"
        add_program(tmp_path, "oarsh", OARSH)
        add_program(
            tmp_path,
            "python",
            IN_JOB.format(tasks=tasks, user=job.user, python=PYTHON, program=program),
        )
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        local = job.node if request.param == "here" else ""
        remote = Remote(job.id, (job.node, DEAD), local, str(tmp_path / "python"))
        return Ways(remote, job.node, DEAD)
