"""What containers get of their node, and that they and the user's home know it, on a real OAR."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.cluster import ENDED, Cluster, SubmittedJob

SPEC = """
wait = "ssh"
[[group]]
name = "vm"
per_node = 1
cores = 1
memory = "160M"
processes = 150
home = true
"""


@pytest.fixture(scope="module")
def job(cluster: Cluster) -> Iterator[SubmittedJob]:
    """Return a job of two nodes with a container on each, which none of these tests may end."""
    write = ("sh", "-c", f"cat > vms.toml <<'END'\n{SPEC}END\n")
    cluster.frontend(*write)
    job = cluster.submit(
        "./jobscripts/lxc_job.py --spec vms.toml", "nodes=2/core=1,walltime=0:9:0"
    )
    try:
        job.wait_output("connect from the frontend:")
        ids = cluster.first_ids(job)
        yield job
        assert job.state not in ENDED
    finally:
        job.delete()
        job.wait_end()
    cluster.assert_nothing_left(job, ids)


def inside(job: SubmittedJob, line: str, name: str = "vm1", *, check: bool = True) -> str:
    """Run a shell line in a container; return what it wrote, on both streams."""
    argv = ["oar-lxc", "exec", f"{job.id}/{name}", "--", "sh", "-c", f"({line}) 2>&1"]
    return job.cluster.frontend(*argv, user=job.user, check=check).stdout.strip()


@pytest.mark.parametrize("name", ["vm1", "vm2"])
def test_a_container_is_told_its_share(job: SubmittedJob, name: str) -> None:
    """By what people type: nproc, free and uptime; lxcfs runs on a node that is a container."""
    assert inside(job, "nproc; grep -c ^processor /proc/cpuinfo", name) == "1\n1"
    assert inside(job, "free -m", name).splitlines()[1].split()[1] == "160"
    node = float(job.cluster.on(job.cluster.nodes[0], "cat", "/proc/uptime").stdout.split()[0])
    assert float(inside(job, "cut -d ' ' -f 1 /proc/uptime", name)) < node


def test_a_fork_bomb_and_a_memory_hog_stay_inside(job: SubmittedJob) -> None:
    bomb = "bomb() { bomb | bomb & }; bomb; sleep 1"
    assert "Cannot fork" in inside(job, bomb, check=False)
    assert "Killed" in inside(job, "sh -c 'tail /dev/zero; true'", "vm2", check=False)
    assert inside(job, "echo well", "vm2") == "well"


def test_the_home_is_the_users_on_frontend_and_in_containers(job: SubmittedJob) -> None:
    become = "setpriv --reuid=alice --regid=alice --init-groups"
    inside(job, f"{become} sh -c 'echo inside > /home/alice/of-vm1'", "vm1")
    look = ("stat", "-c", "%U %G", "of-vm1")
    assert job.cluster.frontend(*look).stdout == "alice alice\n"
    assert inside(job, "cat /home/alice/of-vm1; id -un 2001", "vm2") == "inside\nalice"
    refused = inside(job, "touch /home/alice/of-root", "vm2", check=False)
    assert "Value too large" in refused
    job.cluster.frontend("rm", "of-vm1")


def test_containers_on_two_nodes_let_each_other_in(job: SubmittedJob) -> None:
    ssh = "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes"
    assert inside(job, f"{ssh} vm2 hostname", "vm1") == "vm2"
    become = "setpriv --reuid=alice --regid=alice --init-groups env HOME=/home/alice"
    assert inside(job, f"{become} {ssh} vm1 id -un", "vm2") == "alice"
