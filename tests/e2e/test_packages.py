"""The Debian package of a node that a job runs on: it can be upgraded, and not be removed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from oar_lxc.linux.run import Result
from tests.e2e.cluster import Cluster, SubmittedJob

SCRIPT = "./jobscripts/lxc_job.py"
PACKAGE = "/root/oar-lxc.deb"  # where the sandbox puts it


def apt(cluster: Cluster, node: str, *arguments: str) -> Result:
    """Run apt-get on a node, which asks nothing."""
    command = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", *arguments)
    return cluster.on(node, *command, check=False)


def status(cluster: Cluster, node: str) -> str:
    """Return what dpkg says of the package on a node."""
    query = ("dpkg-query", "-W", "-f", "${db:Status-Status}", "oar-lxc")
    return cluster.on(node, *query, check=False).stdout


def inits(job: SubmittedJob) -> dict[str, object]:
    """Return the process ids of the inits of a job's containers, by name."""
    text = job.cluster.frontend("oar-lxc", "list", str(job.id), "--json").stdout
    return {container["name"]: container["pid"] for container in json.loads(text)}


@pytest.fixture(scope="module")
def job(cluster: Cluster) -> Iterator[SubmittedJob]:
    """Return a job that runs on all nodes, with a container on each."""
    job = cluster.submit(SCRIPT)
    job.wait_output("connect from the frontend:")
    yield job
    job.delete()
    job.wait_end()


def test_an_upgrade_keeps_what_runs(job: SubmittedJob) -> None:
    """Containers go on, and the commands of the new package reach them."""
    before = inits(job)
    for node in job.cluster.nodes:
        done = apt(job.cluster, node, "install", "--reinstall", "--allow-downgrades", PACKAGE)
        assert done.status == 0, done.stderr
    assert inits(job) == before
    target = f"{job.id}/{next(iter(before))}"
    assert job.cluster.frontend("oar-lxc", "exec", target, "--", "echo", "here").stdout == "here\n"


@pytest.mark.parametrize("action", ["remove", "purge"])
def test_a_removal_is_refused_and_nothing_is_touched(job: SubmittedJob, action: str) -> None:
    """The reason names the job; the package stays installed and the containers run."""
    before = inits(job)
    node = job.cluster.nodes[0]
    done = apt(job.cluster, node, action, "oar-lxc")
    assert done.status != 0
    assert f"has something of {job.id} (ids of jobs)" in done.stdout + done.stderr
    assert status(job.cluster, node) == "installed"
    assert inits(job) == before


def test_after_the_end_of_the_job_nothing_is_left_and_the_package_goes(job: SubmittedJob) -> None:
    """The package that was installed under the job destroys it; a node without jobs lets it go."""
    cluster, node = job.cluster, job.cluster.nodes[0]
    ids = cluster.first_ids(job)
    job.delete()
    job.wait_end()
    cluster.assert_nothing_left(job, ids)
    try:
        done = apt(cluster, node, "remove", "oar-lxc")
        assert done.status == 0, done.stderr
        assert status(cluster, node) == "config-files"
    finally:
        done = apt(cluster, node, "install", PACKAGE)
    assert done.status == 0, done.stderr
    assert status(cluster, node) == "installed"
