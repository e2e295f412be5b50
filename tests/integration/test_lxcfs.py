"""An lxcfs that is stopped or dead, and what containers had of it."""

from __future__ import annotations

import signal
import time

import pytest

from tests.integration.conftest import left, next_id, published
from tests.integration.jobs import close, start_script, write_spec
from tests.integration.lxcfs import running_lxcfs
from tests.pretend import PYTHON, pretend_job

SPEC = """
wait = "ssh"
[[group]]
name = "vm"
per_node = 1
memory = "160M"
"""


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_no_hook_waits_for_an_lxcfs_that_does_not_answer(
    user: str, number: signal.Signals
) -> None:
    """Stopped while it has a request, it holds who asked, whom no signal reaches then."""
    with running_lxcfs() as lxcfs, pretend_job(next_id(), user) as job:
        first_id = published(job).first_id
        running = start_script(job, "--spec", write_spec(job, SPEC))
        line = "while :; do cat /proc/meminfo /proc/stat; done"
        execute = [PYTHON, "-m", "oar_lxc.cli.main", "exec", "vm1", "--", "sh", "-c", line]
        reader = job.start(execute)
        try:
            time.sleep(0.5)
            lxcfs.send_signal(number)
            time.sleep(0.5)
            begin = time.monotonic()
            assert job.node_side("leftovers", check=False).status == 1
            assert job.destroy().status == 0
            assert time.monotonic() - begin < 12
        finally:
            close(reader)
            close(running.process)
    assert left(job, first_id) == {}


def test_containers_start_where_lxcfs_is_dead(user: str) -> None:
    with running_lxcfs() as lxcfs, pretend_job(next_id(), user) as job:
        lxcfs.kill()
        lxcfs.wait()
        done = job.script("--wait", "running", "--", "head", "-1", "/proc/meminfo")
        assert (done.status, done.stderr) == (0, "")
