"""Jobs of users: what they may ask for, what goes wrong, and what they are told."""

from __future__ import annotations

import json
import re

import pytest

from tests.e2e.cluster import Cluster, SubmittedJob

SCRIPT = "./jobscripts/lxc_job.py"
# A job script with a container on each node, of a name, until a file tells it to end.
SESSION = """\
import os, sys, time
from oar_lxc import Group, Session
name = sys.argv[1]
with Session(Group(name=name, per_node=1), wait="ssh"):
    print(name, "is ready", flush=True)
    while not os.path.exists(f"end-{name}"):
        time.sleep(0.1)
print(name, "has ended", flush=True)
"""


def ended(cluster: Cluster, command: str, resources: str = "") -> SubmittedJob:
    """Submit a job and wait for its end."""
    job = cluster.submit(command, resources)
    job.wait_end()
    return job


def assert_clean(cluster: Cluster, job: SubmittedJob) -> None:
    """Nothing of a job is left, as far as it shows without its id range."""
    cluster.assert_nothing_left(job, dict.fromkeys(cluster.nodes, 0))


def test_one_container_for_each_core(cluster: Cluster) -> None:
    """``--per-core`` counts the nodefile's lines."""
    job = ended(cluster, f"{SCRIPT} --per-core -- hostname", "nodes=2/core=2,walltime=0:5:0")
    assert sorted(re.findall(r"^vm\d: vm\d$", job.output(), re.M)) == [
        f"vm{n}: vm{n}" for n in range(1, 5)
    ]


def test_the_checkpoint_signal_ends_the_session_in_order(cluster: Cluster) -> None:
    """OAR's signal 12 unwinds the script, which destroys its containers itself."""
    job = cluster.submit(SCRIPT)
    job.wait_output("connect from the frontend:")
    ids = cluster.first_ids(job)
    cluster.frontend("oardel", "-c", str(job.id))
    job.wait_end()
    assert job.facts()["exit_code"].startswith(str((128 + 12) << 8))
    cluster.assert_nothing_left(job, ids)


MISTAKES = {
    "--image nosuch": "image nosuch does not exist on this node; images here: debian-12",
    "--image ../../etc": "image '../../etc' is not an image name",
    "--per-node 2000": "ask for fewer containers",
    "--per-node 0": "at least 1 container a node is allowed",
    "-- nosuch-command": "oar-lxc: nosuch-command: no such command in vm1",
}


@pytest.fixture(scope="module")
def mistaken(cluster: Cluster) -> dict[str, SubmittedJob]:
    """Return a job with each mistake; OAR runs them as there are cores."""
    return {arguments: cluster.submit(f"{SCRIPT} {arguments}") for arguments in MISTAKES}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_gets_one_sentence(
    cluster: Cluster, mistaken: dict[str, SubmittedJob], arguments: str
) -> None:
    """It stands in the job's stderr, the job fails, and no node is suspected."""
    job, sentence = mistaken[arguments], MISTAKES[arguments]
    job.wait_end()
    assert sentence in job.output("stderr")
    assert "Traceback" not in job.output("stderr")
    assert not job.facts()["exit_code"].startswith("0 ")
    assert_clean(cluster, job)


def test_a_job_without_the_type_is_told_to_use_it(cluster: Cluster) -> None:
    """Nothing was prepared, as the job was not of type lxc."""
    result = cluster.frontend("oarsub", "-l", "nodes=1/core=1", SCRIPT)
    match = re.search(r"OAR_JOB_ID=(\d+)", result.stdout)
    assert match is not None
    job = SubmittedJob(cluster, int(match[1]), "alice")
    job.wait_end()
    assert "submit the job with `-t lxc`" in job.output("stderr")
    assert_clean(cluster, job)


@pytest.mark.parametrize("kind", ["deploy", "cosystem"])
def test_types_without_nodes_of_their_own_are_refused(cluster: Cluster, kind: str) -> None:
    """The admission rule says why, before anything is reserved."""
    result = cluster.frontend("oarsub", "-S", "-t", kind, SCRIPT, check=False)
    assert result.status != 0
    assert kind in result.stdout + result.stderr


def test_a_node_without_oar_lxc_is_named(cluster: Cluster) -> None:
    """The launch fails as a whole, is undone on the good node, and the bad one is named."""
    node = cluster.nodes[-1]
    package = "/usr/lib/python3/dist-packages/oar_lxc"
    cluster.on(node, "mv", package, f"{package}.away")
    cluster.on(node, "chmod", "a-x", "/usr/sbin/oar-lxc-node")
    try:
        job = ended(cluster, SCRIPT, "nodes=2/core=1,walltime=0:5:0")
    finally:
        cluster.on(node, "mv", f"{package}.away", package)
        cluster.on(node, "chmod", "a+x", "/usr/sbin/oar-lxc-node")
    assert "oar-lxc is not installed" in job.output("stderr")
    assert node in job.output("stderr")
    assert_clean(cluster, job)


def test_two_jobs_of_one_user_on_one_node_do_not_touch_each_other(cluster: Cluster) -> None:
    """Ending one leaves the other's containers as they were."""
    first = cluster.submit(SCRIPT)
    second = cluster.submit(SCRIPT)
    first.wait_output("connect from the frontend:")
    second.wait_output("connect from the frontend:")
    ids = cluster.first_ids(first)
    target = f"{second.id}/vm1"
    started = cluster.frontend("oar-lxc", "exec", target, "--", "stat", "-c", "%Y", "/proc/1")
    first.delete()
    first.wait_end()
    cluster.assert_nothing_left(first, ids)
    again = cluster.frontend("oar-lxc", "exec", target, "--", "stat", "-c", "%Y", "/proc/1")
    assert again.stdout == started.stdout
    ids = cluster.first_ids(second)
    second.delete()
    second.wait_end()
    cluster.assert_nothing_left(second, ids)


def test_systemd_leaves_the_cgroups_of_stopped_containers_alone(cluster: Cluster) -> None:
    """It removes empty ones, whose ever, when no unit needs their controller any more."""
    job = cluster.submit(SCRIPT)
    job.wait_output("connect from the frontend:")
    ids = cluster.first_ids(job)
    every = f"{job.id}/"
    cluster.frontend("oar-lxc", "stop", every)
    for node in cluster.nodes:
        unit = ("-p", "CPUWeight=200", "-p", "IOWeight=200", "true")
        cluster.on(node, "systemd-run", "--quiet", "--wait", *unit)
        cluster.on(node, "systemctl", "daemon-reload")
    cluster.frontend("oar-lxc", "start", every)
    for name in ("vm1", "vm2"):
        target = f"{job.id}/{name}"
        assert cluster.frontend("oar-lxc", "exec", target, "--", "hostname").stdout == f"{name}\n"
    job.delete()
    job.wait_end()
    cluster.assert_nothing_left(job, ids)


def test_two_sessions_of_one_job_over_two_nodes_know_each_other(cluster: Cluster) -> None:
    """All find all, ssh lands in the right one, and the end of one leaves the other."""
    cluster.frontend("sh", "-c", 'printf %s "$1" > session.py; rm -f end-*', "sh", SESSION)
    command = "sh -c 'python3 session.py left & python3 session.py right & wait'"
    job = cluster.submit(command, "nodes=2/core=1,walltime=0:10:0")
    job.wait_output("left is ready")
    job.wait_output("right is ready")
    ids = cluster.first_ids(job)

    def listed() -> dict[str, dict[str, str]]:
        done = cluster.frontend("oar-lxc", "list", str(job.id), "--json")
        return {found["name"]: found for found in json.loads(done.stdout)}

    def inside(name: str, *argv: str) -> str:
        return cluster.frontend("oar-lxc", "exec", f"{job.id}/{name}", "--", *argv).stdout

    found = listed()
    assert sorted(found) == ["left1", "left2", "right1", "right2"]
    assert {one["node"] for one in found.values()} == set(cluster.nodes[:2])
    addresses = {name: one["address"] for name, one in found.items()}
    assert len(set(addresses.values())) == 4
    for name in found:
        lines = [line.split() for line in inside(name, "cat", "/etc/hosts").splitlines()]
        hosts = {line[1]: line[0] for line in lines if len(line) > 1 and line[1] in found}
        assert hosts == addresses
        assert (
            cluster.frontend("oar-lxc", "ssh", f"{job.id}/{name}", "hostname").stdout
            == f"{name}\n"
        )
    reach = ("ssh", "-o", "BatchMode=yes", "right2", "hostname")
    assert inside("left1", *reach) == "right2\n"
    before = {name: inside(name, "stat", "-c", "%Y", "/proc/1") for name in ("right1", "right2")}
    cluster.frontend("touch", "end-left")
    job.wait_output("left has ended")
    assert sorted(listed()) == ["right1", "right2"]
    for name in ("right1", "right2"):
        assert inside(name, "stat", "-c", "%Y", "/proc/1") == before[name]
    assert inside("right1", *reach) == "right2\n"
    cluster.frontend("touch", "end-right")
    assert job.wait_end() == "Terminated"
    cluster.frontend("sh", "-c", "rm session.py end-*")
    cluster.assert_nothing_left(job, ids)
