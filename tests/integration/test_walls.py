"""Walls between a job's containers, and around what is the job's: root inside is the attacker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.model.layout import BRIDGE_INSIDE, UPLINK_INSIDE, JobLayout
from tests import kernel
from tests.integration.attacks import attack, in_network
from tests.integration.conftest import containers_of, left, next_id, published
from tests.integration.jobs import Running, close, start_script
from tests.pretend import PretendJob, pretend_job


@pytest.fixture(scope="module", params=[True, False], ids=["cpuset", "no cpuset"])
def running(request: pytest.FixtureRequest, user: str) -> Iterator[Running]:
    """Return a job with two containers, in a cpuset of OAR and where that is off."""
    with pretend_job(next_id(), user, in_cpuset=request.param) as job:
        first_id = published(job).first_id
        running = start_script(job, "--per-node", "2", "--wait", "ssh")
        try:
            yield running
            assert running.process.poll() is None  # nothing inside was the job's end
            assert running.inside("vm2", "hostname") == "vm2"
        finally:
            close(running.process)
    assert left(job, first_id) == {}


def init(running: Running, name: str) -> int:
    return int(running.containers()[name]["pid"])


# A program of the user's opens all that it may, and becomes root of a container. It keeps the
# node's processes and files in sight, as no container has them, and tells what it can do there.
BECOME = """
import fcntl, resource
own, other, *files = sys.argv[1:]
KINDS = ("user", "mnt", "net", "pid", "ipc", "uts", "cgroup")
def opened(pid): return {kind: os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in KINDS}
handles = {"own": opened(own), "other": opened(other)}
handles["job"] = {os.path.basename(path): os.open(path, os.O_RDONLY) for path in files}
assert libc.setns(handles["own"]["user"], 0) == 0, ctypes.get_errno()
os.setgroups([])
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
done = []
def attempt(name, act):
    if (child := os.fork()) == 0:
        try:
            os._exit(act() == -1)
        except OSError:
            os._exit(1)
    if os.waitpid(child, 0)[1] == 0: done.append(name)
"""
HANDED = """
for whose, found in handles.items():
    for kind, handle in found.items():
        attempt(f"{whose}:{kind}", lambda: libc.setns(handle, 0))
tell("done", *done)
"""
REACH = """
for whose, pid in (("own", own), ("other", other)):
    proc = f"/proc/{pid}"
    attempt(f"{whose}:ptrace", lambda: libc.ptrace(0x4206, int(pid), None, None))
    attempt(f"{whose}:mem", lambda: open(f"{proc}/mem", "r+b").close())
    attempt(f"{whose}:environ", lambda: open(f"{proc}/environ", "rb").close())
    attempt(f"{whose}:root", lambda: os.listdir(f"{proc}/root"))
    attempt(f"{whose}:cwd", lambda: os.stat(f"{proc}/cwd/."))
    attempt(f"{whose}:fd", lambda: os.readlink(f"{proc}/fd/0") and None)
    attempt(f"{whose}:map_files", lambda: os.listdir(f"{proc}/map_files"))
    for kind in KINDS:
        attempt(f"{whose}:{kind}", lambda: os.open(f"{proc}/ns/{kind}", os.O_RDONLY))
tell("done", *done)
"""
KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def attack_from(running: Running, code: str) -> set[str]:
    """Attack vm2 as root of vm1; return what worked."""
    layout = JobLayout(running.job.id)
    pids = (str(init(running, name)) for name in ("vm1", "vm2"))
    files = (str(layout.user_namespace), str(layout.network_namespace))
    with attack(running.job, BECOME + code, *pids, *files) as (_, line):
        return set(line.split()[1:])


def test_no_namespace_of_the_job_or_of_another_container_can_be_entered(running: Running) -> None:
    """Not even if somebody hands it over."""
    entered = attack_from(running, HANDED)
    assert entered == {f"own:{kind}" for kind in KINDS if kind != "user"}  # which it is in


def test_no_process_of_another_container_can_be_looked_into(running: Running) -> None:
    words = ("ptrace", "mem", "environ", "root", "cwd", "fd", "map_files", *KINDS)
    assert attack_from(running, REACH) == {f"own:{word}" for word in words}


def test_a_container_shows_no_process_mount_or_socket_of_another(running: Running) -> None:
    running.inside("vm2", "setsid sleep 4711 >/dev/null 2>&1 &")
    pid = init(running, "vm2")
    assert running.inside("vm1", "cat /proc/[0-9]*/comm | grep -c -x systemd") == "1"
    assert "4711" not in running.inside("vm1", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    for table in ("mountinfo", "mounts", "cgroup"):
        assert "vm2" not in running.inside("vm1", f"cat /proc/[0-9]*/{table}")
    assert running.inside("vm1", "grep -c containers/ /proc/net/unix || :") == "0"
    running.inside("vm1", "kill -9 -1; :")
    assert init(running, "vm2") == pid
    assert running.inside("vm2", "pgrep -f -x 'sleep 4711' | wc -l") == "1"


CONNECT = """
use IO::Socket::UNIX;
print IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => "\\0$ARGV[0]") ? "reached" : "no";
"""


def test_the_names_where_lxc_listens_are_known_in_the_jobs_network_alone(running: Running) -> None:
    address = f"{containers_of(running.job)}/vm2/command"
    line = f"perl -e '{CONNECT}' {address}"
    assert running.inside("vm1", line) == "no"
    assert running.job.run(["perl", "-e", CONNECT, address]).stdout == "no"
    assert running.job.run([*in_network(running.job), "perl", "-e", CONNECT, address]).stdout == (
        "reached"
    )
    assert address not in kernel.read("/proc/net/unix")


def links(job: PretendJob) -> dict[str, int]:
    """Return the devices in the job's network namespace, with their numbers."""
    listed = job.run([*in_network(job), "ip", "-o", "link"]).stdout.splitlines()
    return {x.split(": ")[1].partition("@")[0]: int(x.split(":")[0]) for x in listed}


def outer_end(running: Running, name: str) -> str:
    """Return the other end of a container's network device, in the job's network namespace."""
    number = int(running.inside(name, "cat /sys/class/net/eth0/iflink"))
    (found,) = [link for link, other in links(running.job).items() if other == number]
    return found


def test_devices_of_the_jobs_network_are_out_of_reach(running: Running) -> None:
    """By the number that names the job's network namespace inside, as that of the outer end."""
    before = links(running.job)
    assert {BRIDGE_INSIDE, UPLINK_INSIDE, outer_end(running, "vm2")} < before.keys()
    assert "link-netnsid 0" in running.inside("vm1", "ip -o link show eth0")
    for number in before.values():
        for line in (
            f"ip link add m1 link if{number} link-netnsid 0 type macvlan",
            f"ip link add m2 link if{number} link-netnsid 0 type ipvlan",
            f"ip link add m3 link if{number} link-netnsid 0 type vxlan id 5 dstport 9",
            "ip link set eth0 netns /proc/self/ns/user",
        ):
            assert running.cli("exec", "vm1", "--", "sh", "-c", line).status != 0, line
    shown = running.inside("vm1", "ls /sys/class/net").split()
    assert shown == ["eth0", "lo"]
    assert links(running.job) == before


def test_who_shapes_a_containers_link_is_not_seen_inside(running: Running) -> None:
    job, end = running.job, outer_end(running, "vm1")
    shape = f"tc qdisc add dev {end} root tbf rate 8mbit burst 16kb latency 50ms".split()
    done = job.run([*in_network(job), *shape])
    assert (done.status, done.stderr) == (0, "")
    try:
        show = [*in_network(job), "tc", "qdisc", "show", "dev", end]
        before = job.run(show).stdout
        assert "tbf" in before
        assert "tbf" not in running.inside("vm1", "tc qdisc show")
        running.inside("vm1", "tc qdisc add dev eth0 root pfifo; tc qdisc del dev eth0 root")
        assert job.run(show).stdout == before
    finally:
        job.run([*in_network(job), "tc", "qdisc", "del", "dev", end, "root"])


# Root of a container mounts all hierarchies again, and lifts what it finds at the top or deeper.
LIFT = r"""
mkdir -p /run/lift
for kind in memory pids cpu,cpuacct cpuset blkio devices freezer; do
    mkdir -p /run/lift/$kind
    mount -t cgroup -o $kind none /run/lift/$kind && mounted="$mounted $kind"
done
echo mounted$mounted
find /sys/fs/cgroup /run/lift -name 'vm[12]*'
for found in $(find /sys/fs/cgroup /run/lift -name memory.limit_in_bytes -o -name pids.max \
    -o -name cpuset.cpus -o -name cpu.cfs_quota_us -o -name cpu.shares); do
    for value in -1 max 0-1 4711; do echo $value > $found; done
done
umount /run/lift/*
"""
LIMITS = ("memory.limit_in_bytes", "pids.max", "cpuset.cpus", "cpu.cfs_quota_us", "cpu.shares")


def limits(running: Running) -> dict[str, str]:
    """Return what limits the containers, from outside of what they have themselves."""
    groups = [
        Path(group) / name
        for group in published(running.job).cgroups
        for name in ("", "vm1", "vm2")
    ]
    files = [group / name for group in groups for name in LIMITS]
    return {str(path): path.read_text() for path in files if path.exists()}


def test_cgroups_of_another_container_and_of_the_job_are_out_of_reach(running: Running) -> None:
    before = limits(running)
    assert len(before) >= 3 * 4
    done = running.cli("exec", "vm1", "--", "sh", "-c", f"({LIFT}) 2>/dev/null")
    assert "memory pids" in done.stdout
    assert len(done.stdout.splitlines()) == 1  # no name of a container
    assert limits(running) == before
