"""The main job, in every set-up: it runs where it should, and nothing of it is left."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pytest

from tests.e2e.cluster import ENDED, Cluster, SubmittedJob, wait_until

SCRIPT = "./jobscripts/lxc_job.py"


@dataclass(frozen=True)
class Jobs:
    """Two jobs that run beside each other, on all cores that there are.

    Attributes:
        running: one whose containers are looked at.
        expiring: one whose walltime is soon over.
        ids: the first ids of the latter's ranges, by node.
    """

    running: SubmittedJob
    expiring: SubmittedJob
    ids: dict[str, int]


@pytest.fixture(scope="package")
def jobs(any_setup: Cluster) -> Iterator[Jobs]:
    """Return the two jobs, with all their containers up."""
    expiring = any_setup.submit(SCRIPT, "nodes=2/core=1,walltime=0:0:20")
    running = any_setup.submit(f"{SCRIPT} --per-node 2")
    try:
        expiring.wait_output("connect from the frontend:")
        ids = any_setup.first_ids(expiring)
        running.wait_output("connect from the frontend:")
        yield Jobs(running, expiring, ids)
    finally:
        living = [job for job in (expiring, running) if job.state not in ENDED]
        for job in living:
            job.delete()
        for job in living:
            job.wait_end()


@pytest.fixture(scope="package")
def running(jobs: Jobs) -> SubmittedJob:
    """Return the job that runs until it is deleted, by the last test of those that look at it."""
    return jobs.running


def containers(job: SubmittedJob) -> list[dict[str, object]]:
    """Return what ``oar-lxc list --json`` tells of a job."""
    text = job.cluster.frontend("oar-lxc", "list", str(job.id), "--json").stdout
    found: list[dict[str, object]] = json.loads(text)
    return found


def test_each_node_runs_its_share_and_each_init_is_systemd(running: SubmittedJob) -> None:
    """Two containers on each node; the kernel says what their inits are."""
    found = containers(running)
    assert [c["name"] for c in found] == ["vm1", "vm2", "vm3", "vm4"]
    assert sorted(str(c["node"]) for c in found) == sorted(2 * running.cluster.nodes)
    for c in found:
        comm = running.cluster.on(str(c["node"]), "cat", f"/proc/{c['pid']}/comm").stdout
        assert comm.strip() == "systemd"


def test_containers_are_rootless_with_ids_of_the_job(running: SubmittedJob) -> None:
    """Init runs under the first id of the job's range on its node, not under root's."""
    for c in containers(running):
        node = str(c["node"])
        status = running.cluster.on(node, "cat", f"/proc/{c['pid']}/status").stdout
        uid = next(line.split()[1] for line in status.splitlines() if line.startswith("Uid:"))
        assert int(uid) == running.cluster.published(node, running)["first_id"]


def test_containers_are_inside_the_cgroups_of_the_job(running: SubmittedJob) -> None:
    """With the cpuset on, OAR's own cgroup of the job and its CPUs; else a cgroup of the job."""
    name = f"{running.user}_{running.id}"
    for c in containers(running):
        node = str(c["node"])
        on = running.cluster.on
        lines = on(node, "cat", f"/proc/{c['pid']}/cgroup").stdout.splitlines()
        paths = {line.split(":")[1]: line.split(":", 2)[2] for line in lines}
        if "" in paths and len(paths) == 1:  # cgroups have version 2 alone
            _is_in_the_service(running, node, c, paths[""])
            continue
        inside = f"/oar-lxc/{name}/"
        if running.cluster.cpuset:
            inside = f"/oar/{name}/"
            status = on(node, "cat", f"/proc/{c['pid']}/status").stdout
            allowed = next(x.split()[1] for x in status.splitlines() if "Cpus_allowed_list" in x)
            job_cpus = on(node, "cat", f"/dev/cpuset/oar/{name}/cpuset.cpus").stdout.strip()
            assert allowed == job_cpus
            assert paths["freezer"].startswith(inside)
        assert paths["cpuset"].startswith(inside)
        assert paths["pids"].startswith(f"/oar-lxc/{name}/")


def _is_in_the_service(
    running: SubmittedJob, node: str, container: dict[str, object], path: str
) -> None:
    """Check that a container is below the job's service, in OAR's slice if its cpuset is on."""
    around, _, inner = path.partition(f"/oar-lxc-{running.id}.service/")
    assert inner.startswith(f"{container['name']}/")
    if not running.cluster.cpuset:
        assert around.endswith("/oar-lxc.slice")
        return
    assert re.fullmatch(rf"/oar\.slice/oar-u\d+\.slice/oar-u\d+-j{running.id}\.slice", around)
    on = running.cluster.on
    status = on(node, "cat", f"/proc/{container['pid']}/status").stdout
    allowed = next(x.split()[1] for x in status.splitlines() if "Cpus_allowed_list" in x)
    assert allowed == on(node, "cat", f"/sys/fs/cgroup{around}/cpuset.cpus").stdout.strip()


def test_the_user_is_told_which_walls_are_missing(running: SubmittedJob) -> None:
    """One line, with the cpuset off; none with it on."""
    told = "OAR's cpuset is off" in running.output()
    assert told == (not running.cluster.cpuset)


def test_commands_run_from_the_frontend(running: SubmittedJob) -> None:
    """Exit status, both streams and standard input pass through oar-lxc exec."""
    cluster = running.cluster
    target = f"{running.id}/vm3"
    assert cluster.frontend("oar-lxc", "exec", target, "--", "hostname").stdout == "vm3\n"
    script = "echo out; echo err >&2; exit 7"
    result = cluster.frontend("oar-lxc", "exec", target, "--", "sh", "-c", script, check=False)
    assert (result.status, result.stdout) == (7, "out\n")
    assert "err" in result.stderr


# What very many nodes are reached by, with few: one node reaches one, and that one the next.
CHAIN = """
import sys
from oar_lxc.remote import agents
agents.WIDTH = 1
from oar_lxc.client.lookup import find_remote
from oar_lxc.client.commands import run_in_containers
from oar_lxc.model.requests import Exec
way = find_remote(int(sys.argv[1]))
argv = ("sh", "-c", f"hostname; sleep {sys.argv[2]}")
command = Exec(("vm1", "vm2", "vm3", "vm4"), argv=argv)
for outcome in run_in_containers(way, way.nodes, command):
    print(outcome.status, outcome.stdout, end="")
"""


def _parents(cluster: Cluster, node: str, end: str) -> set[str]:
    """Return who started the processes of a node whose command lines end so, by process id."""
    lines = cluster.on(node, "ps", "-eo", "ppid=,args=").stdout.splitlines()
    return {line.split()[0] for line in lines if line.endswith(end)}


def _leader(job: SubmittedJob) -> tuple[str, str] | None:
    """Return the node that leads to another, and the process that does."""
    for node in job.cluster.nodes:
        parents = _parents(job.cluster, node, f"oar_lxc.agent.main {job.id} exec")
        # The job script has a fan-out of its own there, which is not asked for the command.
        fanouts = job.cluster.on(
            node, "pgrep", "-f", "oar_lxc[.]remote[.]fanout$", check=False
        ).stdout
        if leaders := parents & set(fanouts.split()):
            return node, leaders.pop()
    return None


@contextmanager
def chain(job: SubmittedJob, seconds: int) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Run a command through a chain of nodes; yield it, the first of them, and what leads on."""
    frontend = job.cluster.sandbox.machine("frontend")
    argv = frontend.command(["python3", "-c", CHAIN, str(job.id), str(seconds)], user=job.user)
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            node, pid = wait_until("a node leads to another", partial(_leader, job))
            yield process, node, pid
        finally:
            process.kill()


def test_nodes_are_reached_through_each_other(running: SubmittedJob) -> None:
    """As very many are, in each set-up; oarsh gets from node to node."""
    with chain(running, 5) as (process, _, _):
        out, err = process.communicate(timeout=60)
    assert (out, err) == ("0 vm1\n0 vm2\n0 vm3\n0 vm4\n", "")


def test_nodes_behind_one_that_is_lost_are_told(running: SubmittedJob) -> None:
    """The fan-out of a node that leads to another is killed: both are named, and all is well."""
    cluster = running.cluster
    on_node = {str(c["node"]): str(c["name"]) for c in containers(running)}
    with chain(running, 60) as (process, node, pid):
        # The command runs on both.
        for each in on_node:
            wait_until("the command runs", partial(_parents, cluster, each, " sleep 60"))
        cluster.on(node, "kill", "-9", pid)
        _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert re.search(f"node {node}: (the agent failed|the connection was closed|it cannot)", err)
    for name in on_node.values():
        target = f"{running.id}/{name}"
        assert cluster.frontend("oar-lxc", "exec", target, "--", "hostname").stdout.strip() == name


def test_programs_that_want_a_terminal_get_one(running: SubmittedJob) -> None:
    """A container has pseudo terminals of its own."""
    command = ["oar-lxc", "exec", f"{running.id}/vm1", "--", "script", "-qec", "tty", "/dev/null"]
    assert running.cluster.frontend(*command).stdout.strip().startswith("/dev/pts/")


def test_nothing_is_kept_in_the_home(running: SubmittedJob) -> None:
    """LXC's locks would outlive the job there, which root must not touch; hints are no harm."""
    others = [
        x for path in ("./jobscripts*", "./.cache/oar-lxc*") for x in ("-not", "-path", path)
    ]
    found = running.cluster.frontend("find", ".", "-path", "*lxc*", *others)
    names = {line for line in found.stdout.splitlines() if not line.startswith("./OAR.lxc.")}
    assert names == set()


def test_ssh_reaches_a_container_with_the_key_of_the_job(running: SubmittedJob) -> None:
    """No prompt and no unchecked host key between the frontend and a container."""
    result = running.cluster.frontend("oar-lxc", "ssh", f"{running.id}/vm2", "hostname")
    assert result.stdout == "vm2\n"


def test_containers_of_two_nodes_reach_each_other(running: SubmittedJob) -> None:
    """By name and through the job's own network."""
    target = f"{running.id}/vm1"
    command = ["oar-lxc", "exec", target, "--", "ping", "-c1", "-W5", "vm4"]
    assert "1 received" in running.cluster.frontend(*command).stdout


def test_a_container_cannot_speak_to_the_nodes_vxlan(running: SubmittedJob) -> None:
    """What it sends there does not arrive: it could pass for a packet of another job."""
    cluster = running.cluster
    node = cluster.nodes[0]
    gateway = cluster.published(node, running)["gateway"].partition("/")[0]
    try:
        for port in (289, 290):  # the second one shows that packets arrive at all
            rule = f'add rule inet oar_lxc input iifname "olb*" udp dport {port} counter'
            cluster.on(node, "nft", rule)
            send = f"echo x > /dev/udp/{gateway}/{port}"
            cluster.frontend("oar-lxc", "exec", f"{running.id}/vm1", "--", "bash", "-c", send)
        counted = cluster.on(node, "nft", "list", "chain", "inet", "oar_lxc", "input").stdout
    finally:
        cluster.on(node, "systemctl", "restart", "oar-lxc-network")
    assert "dport 289 counter packets 0" in counted
    assert "dport 290 counter packets 1" in counted


def test_another_user_gets_nowhere(running: SubmittedJob) -> None:
    """Bob may neither list nor enter alice's containers."""
    for command in (["list", str(running.id)], ["exec", f"{running.id}/vm1", "--", "id"]):
        result = running.cluster.frontend("oar-lxc", *command, user="bob", check=False)
        assert result.status != 0
        assert "belongs to alice" in result.stderr


def test_oardel_leaves_nothing(running: SubmittedJob) -> None:
    """A running job is killed: nothing is left on any node, and OAR trusts them."""
    cluster = running.cluster
    ids = cluster.first_ids(running)
    assert all(cluster.left(node, running, first) for node, first in ids.items())
    running.delete()
    running.wait_end()
    cluster.assert_nothing_left(running, ids)


def test_a_command_runs_in_every_container(any_setup: Cluster) -> None:
    """Output carries the container's name, the job ends by itself, nothing is left."""
    job = any_setup.submit(f"{SCRIPT} --per-node 2 -- sh -c 'sleep 2; hostname'")
    job.wait_output("ready")
    ids = any_setup.first_ids(job)
    assert job.wait_end() == "Terminated"
    for number in range(1, 5):
        assert f"vm{number}: vm{number}\n" in job.output()
    any_setup.assert_nothing_left(job, ids)


def test_a_failing_script_leaves_nothing(any_setup: Cluster) -> None:
    """The worst exit status of the command is the job's, and nothing is left."""
    job = any_setup.submit(f"{SCRIPT} -- sh -c 'sleep 2; exit 3'")
    job.wait_output("ready")
    ids = any_setup.first_ids(job)
    job.wait_end()
    assert job.facts()["exit_code"].startswith("768")
    any_setup.assert_nothing_left(job, ids)


def test_walltime_leaves_nothing(jobs: Jobs) -> None:
    """A job that OAR ends at its walltime leaves nothing."""
    assert jobs.expiring.wait_end(120) == "Error"
    jobs.expiring.cluster.assert_nothing_left(jobs.expiring, jobs.ids)
