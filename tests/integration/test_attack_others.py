"""Asking for what is another's, in every way, and what root inside a container can reach."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.linux.login_shell import pack
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.wire import UP
from tests import kernel
from tests.integration.attacks import as_root_inside
from tests.integration.conftest import containers_of, left, next_id, published
from tests.integration.jobs import Running, close, start_script
from tests.pretend import PYTHON, PretendJob, pretend_job


@pytest.fixture(scope="module")
def bobs(other_user: str) -> Iterator[Running]:
    """Return another user's job with a container, which these tests must leave as it is."""
    with pretend_job(next_id(), other_user) as job:
        first_id = published(job).first_id
        running = start_script(job, "--wait", "running")
        try:
            before = running.containers()
            yield running
            assert running.containers() == before
            assert running.process.poll() is None
            names = os.listdir(containers_of(job))
            assert [name for name in names if not name.startswith(".")] == ["vm1"]
        finally:
            close(running.process)
    assert left(job, first_id) == {}


@pytest.fixture(scope="module")
def alices(user: str) -> Iterator[Running]:
    """Return a job of the hostile user with a container."""
    with pretend_job(next_id(), user) as job:
        first_id = published(job).first_id
        running = start_script(job, "--wait", "running")
        try:
            yield running
        finally:
            close(running.process)
    assert left(job, first_id) == {}


SESSION = """
import sys, oar_lxc
try:
    with oar_lxc.Session(oar_lxc.Group()):
        print("uid=")
except oar_lxc.OarLxcError as error:
    sys.exit(str(error))
"""


def attempts(bobs: int, mine: int) -> list[tuple[str, list[str], str]]:
    """Return each way in: its name, the command, and what it reads."""
    agent = [PYTHON, "-m", "oar_lxc.agent.main"]
    job = PretendJob(bobs, "")
    cli = [PYTHON, "-m", "oar_lxc.cli.main"]
    return [
        ("list", [*agent, str(bobs), "list"], "{}"),
        ("keys", [*agent, str(bobs), "keys"], "{}"),
        ("destroy", [*agent, str(bobs), "destroy"], '{"session": null}'),
        ("exec", [*agent, str(bobs), "exec"], '{"containers": null, "argv": ["id"]}'),
        ("launch", [*agent, str(bobs), "launch"], '{"plan": {}, "keys": {}, "session": "x"}'),
        *(
            (name, [*agent, str(bobs), name], '{"containers": null, "timeout": 0}')
            for name in ("start", "stop", "restart", "freeze", "unfreeze")
        ),
        ("show", [*agent, str(bobs), "show"], '{"containers": ["vm1"]}'),
        ("log", job.attach_command("log", "vm1", "+1"), ""),
        ("console", job.attach_command("console", "vm1"), ""),
        ("attach", job.attach_command("attach", "vm1", "id"), ""),
        ("ssh", job.attach_command("ssh", "vm1"), ""),
        ("connect", job.attach_command("connect", "vm1"), ""),
        ("attach elsewhere", job.attach_command("attach", f"../../{mine}/containers/vm1"), ""),
        ("cli exec", [*cli, "exec", "vm1", "--", "id"], ""),
        ("cli list", [*cli, "list"], ""),
        ("cli exec by name", [*cli, "exec", f"{bobs}/vm1", "--", "id"], ""),
        ("library", [PYTHON, "-c", SESSION], ""),
    ]


@pytest.mark.parametrize("attempt", [name for name, _, _ in attempts(1, 2)])
def test_anothers_job_is_refused_in_one_sentence(
    alices: Running, bobs: Running, attempt: str
) -> None:
    """Also where OAR_JOB_ID says that it is one's own."""
    job = alices.job
    (found,) = [x for x in attempts(bobs.job.id, job.id) if x[0] == attempt]
    _, argv, request = found
    environ = {**job.environ(), "OAR_JOB_ID": str(bobs.job.id), "OAR_USER": bobs.job.user}
    line = ["sh", "-c", 'printf "%s\\n" "$0" | "$@"', request, *argv]
    with job.start(line, environ) as process:
        out, err = process.communicate(timeout=30)
    said = out + err
    assert process.returncode != 0 or '"error"' in out, said
    assert f"belongs to {bobs.job.user}, not to {job.user}" in said
    assert "Traceback" not in said
    assert "uid=" not in said
    assert "BEGIN OPENSSH" not in said
    lines = [x for x in said.strip().splitlines() if x.encode() != UP]
    assert len([x for x in lines if x]) == 1


@pytest.mark.parametrize("job_id", ["0", "-1", "٣", "../1", "1\n", ""])
def test_a_number_that_is_no_job_is_refused_in_one_sentence(alices: Running, job_id: str) -> None:
    for module, more in (
        ("agent.main", ["list"]),
        ("agent.attach", ["-", pack(("attach", "vm1", "id"))]),
    ):
        done = alices.job.run([PYTHON, "-m", f"oar_lxc.{module}", job_id, *more])
        assert done.status != 0
        assert "job id" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


# What would be the node's, or another job's, if root inside were root outside. Told: what worked.
# A container's own cgroup is its own: what limits it is around that, see test_limits.
INSIDE = r"""
worked=
try() { ( eval "$2" ) >/dev/null 2>&1 && worked="$worked $1"; }
try core_pattern 'echo x > /proc/sys/kernel/core_pattern'
try modprobe 'echo x > /proc/sys/kernel/modprobe'
try sysrq 'echo 1 > /proc/sys/kernel/sysrq'
try trigger 'echo x > /proc/sysrq-trigger'
try panic 'echo 1 > /proc/sys/kernel/panic'
try caches 'echo 1 > /proc/sys/vm/drop_caches'
try uevent 'echo x > /sys/kernel/uevent_helper'
try kcore 'head -c1 /proc/kcore'
try kmsg 'head -c1 /dev/kmsg'
try mem 'mknod /tmp/mem c 1 1 && head -c1 /tmp/mem'
try disk 'mknod /tmp/disk b 254 0 && head -c1 /tmp/disk'
try module 'insmod /tmp/x.ko || modprobe dummy'
try time 'date -s @0'
mkdir -p /tmp/p /tmp/s /tmp/c
try proc 'mount -t proc proc /tmp/p && echo x > /tmp/p/sys/kernel/core_pattern'
try sys 'mount -t sysfs s /tmp/s && echo x > /tmp/s/kernel/uevent_helper'
try cgroup 'mount -t cgroup -o devices c /tmp/c && echo a > /tmp/c/devices.allow'
try release 'mount -t cgroup -o pids c /tmp/c; echo x > /tmp/c/release_agent'
try disk_mount 'mount /dev/vda /mnt'
try kthreadd 'grep -q kthreadd /proc/2/comm'
try priority 'nice -n -20 sh -c "test \$(nice) = -20"'
for group in cpuset devices memory pids freezer; do
    top=/sys/fs/cgroup/$group
    try "$group.cpus" "echo 0-1 > $top/cpuset.cpus"
    try "$group.allow" "echo a > $top/devices.allow"
    try "$group.agent" "echo /x > $top/release_agent"
done
try works 'mount -t tmpfs none /tmp/c && touch /tmp/c/x'
echo "worked:$worked"
"""


def test_root_inside_a_container_changes_nothing_of_the_node(alices: Running) -> None:
    paths = [*Path("/proc/sys/kernel").glob("[chmps]*"), Path("/proc/sys/vm/drop_caches")]
    before = {path: kernel.read(str(path)) for path in paths if path.is_file()}
    assert Path("/proc/sys/kernel/core_pattern") in before
    now = time.time()
    assert alices.inside("vm1", INSIDE) == "worked: works"
    assert {path: kernel.read(str(path)) for path in before} == before
    assert abs(time.time() - now) < 60


def test_root_inside_a_container_cannot_leave_the_jobs_cpus(alices: Running) -> None:
    line = "taskset -c 0-63 grep Cpus_allowed_list /proc/self/status | cut -f2"
    assert alices.inside("vm1", line) == alices.job.cpus
    assert alices.inside("vm1", "taskset -c 1 true 2>/dev/null || echo no") == "no"


def test_a_container_sees_no_processes_but_its_own(alices: Running, bobs: Running) -> None:
    seen = alices.inside("vm1", "cat /proc/[0-9]*/comm")
    assert "kthreadd" not in seen
    pid = next(iter(bobs.containers().values()))["pid"]
    for line in (f"kill -9 {pid}", f"nsenter -t {pid} -a true", f"cat /proc/{pid}/environ"):
        assert alices.inside("vm1", f"({line}) >/dev/null 2>&1 || echo no") == "no"
    assert not kernel.is_dead(pid)


def test_containers_root_on_the_node_cannot_touch_anothers_containers(
    alices: Running, bobs: Running
) -> None:
    """With the job's own ids on the node itself, where everything can be seen."""
    pid = next(iter(bobs.containers().values()))["pid"]
    rootfs = f"/proc/{pid}/root/etc/hostname"
    theirs, private = containers_of(bobs.job), JobLayout(bobs.job.id).private
    tries = [f"kill -9 {pid}", f"nsenter -t {pid} -m true", f"nsenter -t {pid} -n true"]
    tries += [f"cat {rootfs}", f"ls {theirs}", f"cat {private}/*"]
    tries += [f"lxc-attach -P {theirs} -n vm1 -- true"]
    for before in ((), as_root_inside(alices.job)):
        for line in tries:
            done = alices.job.run([*before, "sh", "-c", line])
            assert done.status != 0, line
    own = next(iter(alices.containers().values()))["pid"]
    assert alices.job.run(["cat", f"/proc/{own}/root/etc/hostname"]).stdout == "vm1\n"
