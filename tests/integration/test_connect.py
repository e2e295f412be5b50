"""Getting into containers of a real job, on the node itself: streams, signals, copies, control."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import kernel
from tests.integration.conftest import left, left_of_containers, next_id, published
from tests.integration.jobs import Running, close, start_script
from tests.pretend import PYTHON, PretendJob, pretend_job


@pytest.fixture(scope="module")
def running(user: str) -> Iterator[Running]:
    """Return a job with two containers that have booted."""
    with pretend_job(next_id(), user) as job:
        first_id = published(job).first_id
        running = start_script(job, "--per-node", "2")
        try:
            yield running
        finally:
            close(running.process)
    assert left(job, first_id) == {}


def cli(*arguments: str) -> str:
    """Return a shell's words for ``oar-lxc`` with arguments."""
    return f"{PYTHON} -m oar_lxc.cli.main {' '.join(arguments)}"


def test_bytes_pass_where_only_some_streams_are_a_terminal(running: Running) -> None:
    """lxc-attach would make line ends of them, and take 0x04 for the end."""
    line = (
        "head -c 300000 /dev/urandom > ~/sent; "
        f"script -qec '{cli('exec', 'vm1', '--', 'cat')} < ~/sent > ~/back' /dev/null;"
        f"script -qec '{cli('exec', 'vm1', '--', 'cat', '/dev/null')} < ~/sent' /dev/null;"
        "cmp ~/sent ~/back && echo same; rm -f ~/sent ~/back"
    )
    assert running.job.run(["bash", "-c", line]).stdout == "same\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_reaches_the_command_and_all_it_started(running: Running, number: int) -> None:
    seconds = 5000 + number
    script = f"sh -c 'sleep {seconds}; true'; true"
    process = running.job.start(running.job.attach_command("attach", "vm1", "sh", "-c", script))
    try:
        sleeping = ["pgrep", "-f", f"^sleep {seconds}"]
        end = time.monotonic() + 30
        while running.cli("exec", "vm1", "--", *sleeping).status and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(number)
        process.communicate(timeout=10)
    finally:
        close(process)
    assert process.returncode == 128 + number
    assert running.cli("exec", "vm1", "--", *sleeping).status == 1


def test_a_container_is_stopped_and_started_with_what_it_had(running: Running) -> None:
    running.inside("vm2", "echo mine > /srv/kept")
    before = running.containers()["vm2"]
    done = running.cli("stop", "vm2")
    assert (done.status, done.stdout) == (0, f"vm2 on {running.job.node} is stopped\n")
    assert kernel.is_dead(before["pid"])
    assert "it is STOPPED, not RUNNING: start it" in running.cli("exec", "vm2", "--", "id").stderr
    assert running.cli("logs", "--lxc", "vm2").status == 0
    for _ in range(2):  # the second time it runs already
        assert running.cli("start", "vm2").status == 0
    after = running.containers()["vm2"]
    assert (after["state"], after["address"]) == ("RUNNING", before["address"])
    assert after["cgroup"] == before["cgroup"]
    assert running.inside("vm2", "cat /srv/kept") == "mine"
    assert running.cli("restart", "vm2").status == 0
    assert running.containers()["vm2"]["pid"] != after["pid"]
    assert running.inside("vm2", "cat /srv/kept") == "mine"


def test_an_init_that_does_not_end_is_killed(running: Running) -> None:
    """Its halt signal is blocked while all it has is stopped."""
    line = "mkdir -p /run/systemd/system; systemd-run -p TimeoutStopSec=60 -p KillSignal=SIGCONT"
    running.inside("vm2", f"{line} sh -c 'trap \"\" TERM; sleep 600; sleep 600'")
    begin = time.monotonic()
    done = running.cli("stop", "--timeout", "1", "vm2")
    assert done.stdout.endswith("is stopped: killed, as it took longer than 1 s\n")
    assert time.monotonic() - begin < 8
    assert running.cli("start", "vm2").status == 0


def test_a_frozen_container_answers_nothing_until_it_is_thawed(running: Running) -> None:
    assert running.cli("freeze", "vm1").status == 0
    shown = json.loads(running.cli("show", "vm1", "--json").stdout)
    assert shown["state"] == "FROZEN"
    assert "thaw it with" in running.cli("exec", "vm1", "--", "true").stderr
    assert running.cli("unfreeze", "vm1").status == 0
    assert running.inside("vm1", "hostname") == "vm1"


def test_what_a_container_uses_is_read_from_its_cgroups(running: Running) -> None:
    shown = json.loads(running.cli("show", "vm1", "--json").stdout)
    assert shown["image"] == "debian-12"
    assert shown["pid"] == running.containers()["vm1"]["pid"]
    assert shown["processes"] >= 3
    assert shown["memory"] > 1 << 20
    assert shown["cpu_seconds"] > 0
    assert 22 in shown["listens"]
    assert abs(shown["started"] - shown["launched"]) < 60


def test_the_cpus_that_are_told_are_those_that_are_allowed(running: Running) -> None:
    """As hwloc, and so every mpirun, compares them."""
    line = "cat /sys/devices/system/cpu/online; getconf _NPROCESSORS_ONLN; nproc"
    assert running.inside("vm1", line).split() == [running.job.cpus, "1", "1"]


def test_a_hardware_address_stays(running: Running) -> None:
    look = "cat /sys/class/net/eth0/address"
    before = running.inside("vm2", look)
    running.cli("restart", "--kill", "vm2")
    assert running.inside("vm2", look) == before
    assert before.startswith("02:6c:64:")


def test_a_tree_goes_in_and_comes_out(running: Running) -> None:
    line = (
        "cd; rm -rf t o; mkdir -p t/d; echo x > t/d/f; ln -s f t/d/l; chmod 4750 t/d/f;"
        f"{cli('cp', 't', 'vm1:/srv')} && {cli('cp', 'vm1:/srv/t', 'vm2:')} &&"
        f"{cli('cp', 'vm2:t/.', 'o')} && diff -r t o && stat -c %a o/d/f; rm -rf t o"
    )
    done = running.job.run(["bash", "-c", line])
    assert done.stdout == "750\n"
    assert "copied without its set-id bits" in done.stderr
    assert running.inside("vm1", "stat -c '%U:%G %a' /srv/t/d/f") == "root:root 4750"


def test_the_end_of_a_session_destroys_what_is_frozen_or_stopped(job: PretendJob) -> None:
    running = start_script(job, "--per-node", "2")
    try:
        assert running.cli("freeze", "vm1").status == 0
        assert running.cli("stop", "--kill", "vm2").status == 0
        running.process.terminate()
        running.process.communicate(timeout=30)
    finally:
        close(running.process)
    assert left_of_containers(job) == []


def test_the_files_for_ssh_work_and_end_with_the_session(job: PretendJob) -> None:
    running = start_script(job)
    home = Path(f"/home/{job.user}/.ssh/oar-lxc/{job.id}")
    try:
        # There is no oarsh on this machine: what it would run is run at once.
        made = running.cli("ssh-config")
        assert made.stdout == f"vm1.{job.id}\n"
        config = home / "config"
        text = re.sub(rf"oarsh .*{job.node} ", "sh -c ", config.read_text())
        config.write_text(text)
        done = job.run(["ssh", "-F", str(config), f"vm1.{job.id}", "hostname"])
        assert (done.stdout, done.stderr) == ("vm1\n", "")
        inventory = running.cli("inventory").stdout
        assert f"        vm1.{job.id}:\n" in inventory
        running.process.terminate()
        running.process.communicate(timeout=30)
    finally:
        close(running.process)
    assert not home.exists()
    for path in (home.parent, home.parent.parent):
        if path.is_dir() and not os.listdir(path):
            path.rmdir()


# In an agent that is a fork, nothing collects garbage.
LOOK = """
import gc, os, sys
from oar_lxc.agent.prepared import environ_here
from oar_lxc.container.job_namespaces import JobNamespaces
from oar_lxc.container.lxc_runtime import LxcRuntime
from oar_lxc.model.layout import JobLayout
gc.disable()
layout = JobLayout(int(sys.argv[1]))
os.environ.update(environ_here(layout))
namespaces = JobNamespaces(layout)
namespaces.enter()
runtime = LxcRuntime(layout.containers, namespaces)
count = []
for _ in range(20):
    assert (runtime.state("vm1"), runtime.init_pid("vm1") > 0) == ("RUNNING", True)
    count.append(len(os.listdir("/proc/self/fd")))
print(count[-1] - count[0])
"""


def test_looking_at_a_container_leaves_nothing_open(running: Running) -> None:
    told = running.job.run([PYTHON, "-c", LOOK, str(running.job.id)])
    assert (told.status, told.stdout) == (0, "0\n"), told.stderr
