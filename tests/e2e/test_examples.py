"""The job scripts that users copy, each as it is submitted."""

from __future__ import annotations

import re

import pytest

from tests.e2e.cluster import Cluster, SubmittedJob
from tests.e2e.conftest import MPI_IMAGE, MPI_PACKAGES


def submit(cluster: Cluster, command: str) -> SubmittedJob:
    """Submit a script with what its own #OAR lines ask for."""
    return cluster.submit(f"./jobscripts/{command}")


def assert_ended_well(cluster: Cluster, job: SubmittedJob) -> str:
    """Wait for the end of a job that needs no help; return what it wrote."""
    state = job.wait_end()
    output = job.output()
    assert (state, job.output("stderr")) == ("Terminated", ""), output
    cluster.assert_nothing_left(job, dict.fromkeys(cluster.nodes, 0))
    return output


def test_one_vm_says_how_to_connect_and_stays(cluster: Cluster) -> None:
    job = submit(cluster, "one_vm.py")
    told = job.wait_output("end:")
    match = re.search(r"^a shell: +(oar-lxc ssh [0-9]+/vm1)$", told, re.M)
    assert match is not None, told
    assert cluster.frontend(*match[1].split(), "hostname").stdout == "vm1\n"
    (node,) = re.findall(r"^vm1 is on (node[0-9]+), ", told, re.M)
    ids = {node: cluster.published(node, job)["first_id"]}
    job.delete()
    job.wait_end()
    cluster.assert_nothing_left(job, ids)


def test_one_for_each_core_runs_the_command(cluster: Cluster) -> None:
    """As nproc counts, which with OAR's cpuset off sees all CPUs of the node."""
    output = assert_ended_well(cluster, submit(cluster, "per_core.py"))
    cores = "1" if cluster.cpuset else cluster.on(cluster.nodes[0], "nproc").stdout.strip()
    assert output.splitlines() == [f"vm{n} has {cores} core" for n in range(1, 5)]


def test_the_status_of_the_command_is_the_jobs(cluster: Cluster) -> None:
    job = submit(cluster, "per_core.py false")
    job.wait_end()
    assert job.facts()["exit_code"].startswith(str(1 << 8))


@pytest.mark.usefixtures("mpi_image")
def test_mpi_spans_the_nodes_with_a_process_for_each_core(cluster: Cluster) -> None:
    """Each rank adds its own, so that their messages went from VM to VM."""
    output = assert_ended_well(cluster, submit(cluster, "mpi_over_vms.py"))
    ranks = re.findall(r"^rank ([0-9]) of 4 is on (mpi[12])$", output, re.M)
    assert sorted(ranks) == [("0", "mpi1"), ("1", "mpi1"), ("2", "mpi2"), ("3", "mpi2")]
    assert "the ranks add up to 6\n" in output


def test_the_image_of_the_mpi_example_is_the_one_that_it_tells_to_build(cluster: Cluster) -> None:
    text = cluster.frontend("cat", "jobscripts/mpi_over_vms.py").stdout
    assert f"oar-lxc image build {MPI_IMAGE} --packages {','.join(MPI_PACKAGES)}\n" in text


def test_a_spec_file_makes_its_groups(cluster: Cluster) -> None:
    command = "lxc_job.py --spec jobscripts/vms.toml -- sh -c 'echo $STAGE; nproc; free -m'"
    output = assert_ended_well(cluster, submit(cluster, command))
    assert sorted(set(re.findall(r"^(\w+): ", output, re.M))) == ["db1", "web1", "web2"]
    assert output.count(": test\n") == 2  # STAGE, of the web servers
    assert re.search(r"^web1: Mem: +256 ", output, re.M)
    assert re.search(r"^db1: Mem: +512 ", output, re.M)
