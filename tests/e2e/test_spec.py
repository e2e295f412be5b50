"""A spec file on a real OAR: what comes up, what it gets of its node, and what befalls it."""

from __future__ import annotations

import json
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

[[group]]
name = "db"
total = 1
memory = "200M"

[[group]]
name = "web"
per_node = 1
provision = "setup.sh"
environment = { STAGE = "test" }
"""
SETUP = '#!/bin/bash\necho "$STAGE $OAR_JOB_ID" > /root/made\n'


def write(cluster: Cluster, name: str, text: str) -> None:
    """Write a file into alice's home."""
    cluster.frontend("sh", "-c", f"cat > {name} <<'END'\n{text}END\n")


@pytest.fixture(scope="module")
def job(cluster: Cluster) -> Iterator[SubmittedJob]:
    """Return a job with the containers of the spec, which none of these tests may end."""
    write(cluster, "groups.toml", SPEC)
    write(cluster, "setup.sh", SETUP)
    job = cluster.submit(
        "./jobscripts/lxc_job.py --spec groups.toml", "nodes=2/core=1,walltime=0:9:0"
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


def inside(job: SubmittedJob, name: str, line: str, *, check: bool = True) -> str:
    """Run a shell line in a container; return what it wrote, on both streams."""
    argv = ("oar-lxc", "exec", f"{job.id}/{name}", "--", "sh", "-c", f"({line}) 2>&1")
    return job.cluster.frontend(*argv, check=check).stdout.strip()


def test_what_is_planned_is_what_comes_up(cluster: Cluster, job: SubmittedJob) -> None:
    arguments = ("groups.toml", "--job", str(job.id), "--json")
    planned = json.loads(cluster.frontend("oar-lxc", "plan", *arguments).stdout)["containers"]
    listed = json.loads(cluster.frontend("oar-lxc", "list", str(job.id), "--json").stdout)
    assert {(c["name"], c["node"], c["address"].partition("/")[0]) for c in planned} == {
        (c["name"], c["node"], c["address"]) for c in listed
    }
    assert sorted(c["name"] for c in planned) == ["db1", "vm1", "vm2", "web1", "web2"]


def test_each_was_provisioned_with_its_variables(job: SubmittedJob) -> None:
    for name in ("web1", "web2"):
        assert inside(job, name, "cat /root/made") == f"test {job.id}"
    assert inside(job, "db1", "ls /root") == ""


@pytest.mark.parametrize("name", ["vm1", "vm2"])
def test_a_container_is_told_its_share(job: SubmittedJob, name: str) -> None:
    """By what people type: nproc, free and uptime; lxcfs runs on a node that is a container.

    With OAR's cpuset off, its core is CPU time on all CPUs, and nproc counts these.
    """
    cpus = "1\n" if job.cluster.cpuset else job.cluster.on(job.cluster.nodes[0], "nproc").stdout
    assert inside(job, name, "nproc; grep -c ^processor /proc/cpuinfo") == f"{cpus}1"
    assert inside(job, name, "free -m").splitlines()[1].split()[1] == "160"
    node = float(job.cluster.on(job.cluster.nodes[0], "cat", "/proc/uptime").stdout.split()[0])
    assert float(inside(job, name, "cut -d ' ' -f 1 /proc/uptime")) < node


def test_a_fork_bomb_and_a_memory_hog_stay_inside(job: SubmittedJob) -> None:
    bomb = "bomb() { bomb | bomb & }; bomb; sleep 1"
    assert "Cannot fork" in inside(job, "vm1", bomb, check=False)
    assert "Killed" in inside(job, "vm2", "sh -c 'tail /dev/zero; true'", check=False)
    assert inside(job, "vm2", "echo well") == "well"


def test_the_home_is_the_users_on_frontend_and_in_containers(job: SubmittedJob) -> None:
    become = "setpriv --reuid=alice --regid=alice --init-groups"
    inside(job, "vm1", f"{become} sh -c 'echo inside > /home/alice/of-vm1'")
    look = ("stat", "-c", "%U %G", "of-vm1")
    assert job.cluster.frontend(*look).stdout == "alice alice\n"
    assert inside(job, "vm2", "cat /home/alice/of-vm1; id -un 2001") == "inside\nalice"
    refused = inside(job, "vm2", "touch /home/alice/of-root", check=False)
    assert "Value too large" in refused
    job.cluster.frontend("rm", "of-vm1")


def test_containers_of_both_nodes_reach_each_other_by_name_and_key(job: SubmittedJob) -> None:
    ssh = "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes"
    line = f"for name in $(cat $OAR_LXC_NODEFILE); do {ssh} $name hostname; done"
    everyone = ["db1", "vm1", "vm2", "web1", "web2"]
    assert sorted(inside(job, "web2", line).split()) == everyone
    become = "setpriv --reuid=alice --regid=alice --init-groups env HOME=/home/alice"
    assert sorted(inside(job, "web1", f"{become} sh -c '{line}'").split()) == everyone


def test_memory_that_is_full_is_told_in_the_jobs_output(job: SubmittedJob) -> None:
    inside(job, "db1", "tail /dev/zero", check=False)
    job.wait_output("db1 on node1: its memory was full, 1 process was killed", 20)
    assert inside(job, "db1", "echo alive") == "alive"


def test_a_job_that_does_not_run_cannot_be_planned_for(cluster: Cluster) -> None:
    result = cluster.frontend("oar-lxc", "plan", "groups.toml", "--job", "999999", check=False)
    assert (result.status, result.stdout) == (1, "")
    assert "OAR knows no job 999999" in result.stderr


def test_a_spec_that_asks_too_much_is_refused_before_it_is_submitted(cluster: Cluster) -> None:
    write(cluster, "big.toml", '[[group]]\nname = "big"\ncores = 9\n')
    argv = ("oar-lxc", "plan", "big.toml", "--nodes", "2", "--cores", "4")
    result = cluster.frontend(*argv, check=False)
    assert result.status == 2
    assert "container big1 would be given core number 9 of node1" in result.stderr
