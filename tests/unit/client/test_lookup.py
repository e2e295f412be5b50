"""Finding a job and its containers."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given

from oar_lxc.client import lookup
from oar_lxc.client.lookup import (
    find_container,
    find_job,
    find_keys,
    find_remote,
    list_containers,
    parse_target,
)
from oar_lxc.errors import (
    CommandError,
    ContainerError,
    JobEnvironmentError,
    JobError,
    NodeError,
    OarLxcError,
    UsageError,
)
from oar_lxc.model.layout import JobLayout, by_number
from oar_lxc.model.published import READY, PublishedJob
from oar_lxc.oar.commands import running_jobs
from tests.unit.fakes.node import FakeNode
from tests.unit.fakes.programs import add_program
from tests.unit.fakes.remote import FakeRemote
from tests.unit.strategies import hostile

# As oarstat of OAR 2.5.9 prints it.
OARSTAT = """Job_Id: 42
    job_array_id = 42
    name = my job
    project = default
    owner = {owner}
    state = {state}
    wanted_resources = -l "{{type = 'default'}}/network_address=2/core=1,walltime=1:0:0"
    types = lxc
    assigned_resources = 1+3
    assigned_hostnames = node1+node2
    command = ./jobscripts/lxc_job.py -- sh -c 'a = b'
"""


# As OAR 3 prints it, folded where no terminal tells how wide it is; and its resources.
OARSTAT_3 = """id: 42
    name = my job
    state = {state}
    user = {owner}
    command = ./jobscripts/lxc_job.py -- sh -c 'a = b'
    network_adresses = node[1-2]
"""
RESOURCES_3 = (
    "type = 'default', network_address = 'node{node}', cpuset = '{core}', "
    "besteffort = 'YES', drain = 'NO', host = 'node{node}', gpu = 'None'\n"
)


def oarstat_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str = "Running") -> None:
    """Let OAR 3 tell of job 42: two cores of node2, and one of node10."""
    (tmp_path / "facts").write_text(OARSTAT_3.format(owner=getpass.getuser(), state=state))
    cores = ((2, 0), (2, 1), (10, 0))
    text = "".join(RESOURCES_3.format(node=node, core=core) for node, core in cores)
    (tmp_path / "resources").write_text(text)
    body = f'cd {tmp_path}; case "$*" in "-fj 42") cat facts;; "-pj 42") cat resources;; esac'
    add_program(tmp_path / "bin", "oarstat", body)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


def oarstat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, status: int = 0) -> None:
    (tmp_path / "text").write_text(text)
    body = f'[ "$*" = "-fj 42" ] || exit 9; cat {tmp_path}/text; exit {status}'
    add_program(tmp_path / "bin", "oarstat", body)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


@pytest.mark.parametrize(("text", "expected"), [("vm1", (None, "vm1")), ("42/vm1", (42, "vm1"))])
def test_a_target_is_a_container_or_a_jobs_container(
    text: str, expected: tuple[int | None, str]
) -> None:
    assert parse_target(text) == expected


@pytest.mark.parametrize("text", ["", "42/", "/", "/vm1", "x/vm1", "1/2/vm1", "-1/vm1"])
def test_what_is_no_target_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_target(text)
    assert "\n" not in str(caught.value)


@given(hostile)
def test_any_text_is_a_target_or_refused(text: str) -> None:
    try:
        job_id, name = parse_target(text)
    except UsageError:
        return
    assert name
    digits, slash, rest = text.rpartition("/")
    assert (rest, int(digits) if slash else None) == (name, job_id)


def test_on_a_frontend_oar_tells_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oarstat(tmp_path, monkeypatch, OARSTAT.format(owner=getpass.getuser(), state="Running"))
    remote = find_remote(42, {})
    assert (remote.job_id, remote.nodes, remote.local) == (42, ("node1", "node2"), "")


@pytest.mark.parametrize(
    ("owner", "state", "message"),
    [
        ("mallory", "Running", "job 42 belongs to mallory, not to "),
        ("{me}", "Waiting", "job 42 is Waiting"),
        ("{me}", "Terminated", r"job 42 has ended \(Terminated\)"),
    ],
)
def test_a_job_whose_containers_cannot_be_reached_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str, state: str, message: str
) -> None:
    owner = owner.format(me=getpass.getuser())
    oarstat(tmp_path, monkeypatch, OARSTAT.format(owner=owner, state=state))
    with pytest.raises(JobError, match=message):
        find_remote(42, {})


def test_oar_3_tells_the_nodes_and_cores_of_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oarstat_3(tmp_path, monkeypatch)
    assert find_remote(42, {}).nodes == ("node2", "node10")
    assert find_job(42, {}).cores == {"node2": 2, "node10": 1}
    oarstat_3(tmp_path, monkeypatch, "Terminated")
    with pytest.raises(JobError, match=r"job 42 has ended \(Terminated\)"):
        find_remote(42, {})


def test_jobs_that_run_are_those_of_any_oar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = """
  Job_id   Job_name   Duration   State     User    System_message   Queue
 ─────────────────────────────────────────────────────────────────────────
  7        None       0:01:02    Running   alice   R=2,T=lxc        default
  8        None       -          Waiting   alice                    default
  10       my own     0:00:09    Running   alice   R=1              default
"""
    body = f'[ "$*,$COLUMNS" = -u,1000 ] || exit 9; cat <<E\n{table}\nE'
    add_program(tmp_path / "bin", "oarstat", body)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert running_jobs(5) == ["7", "10"]


def test_a_job_that_oar_does_not_know_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oarstat(tmp_path, monkeypatch, "")
    with pytest.raises(JobError, match="OAR knows no job 42"):
        find_remote(42, {})


def test_an_oarstat_that_fails_is_an_error_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oarstat(tmp_path, monkeypatch, "cannot connect to the database", 1)
    with pytest.raises(CommandError, match="cannot connect to the database"):
        find_remote(42, {})


def test_without_oarstat_it_says_why_the_job_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JobError, match=r"cannot find job 42 from here.* oarstat"):
        find_remote(42, {})


def test_without_a_job_it_says_how_to_name_one() -> None:
    with pytest.raises(JobEnvironmentError, match="name the job, as in 42/"):
        find_remote(None, {})


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the environment of job 42, on a node of it that was prepared."""
    monkeypatch.setattr(lookup, "JobLayout", lambda job_id: JobLayout(job_id, tmp_path))
    layout = JobLayout(42, tmp_path)
    layout.directory.mkdir(parents=True)
    published = PublishedJob(
        42, getpass.getuser(), "node1", ("node1", "node2"), READY, namespaces=True
    )
    layout.published.write_text(published.to_json())
    (tmp_path / "nodes").write_text("node1\nnode2\nnode2\n")
    return {"OAR_JOB_ID": "42", "OAR_NODEFILE": str(tmp_path / "nodes"), "OAR_USER": "alice"}


@pytest.mark.parametrize("named", [None, 42])
def test_inside_a_job_the_nodefile_tells_the_nodes_and_this_one_is_local(
    inside: dict[str, str], named: int | None
) -> None:
    remote = find_remote(named, inside)
    assert (remote.nodes, remote.local) == (("node1", "node2"), "node1")


def test_inside_another_job_oar_tells_the_nodes(
    inside: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oarstat(tmp_path, monkeypatch, OARSTAT.format(owner=getpass.getuser(), state="Running"))
    remote = find_remote(42, {**inside, "OAR_JOB_ID": "43"})
    assert (remote.job_id, remote.local) == (42, "")


def test_a_job_id_in_the_environment_is_enough_on_a_frontend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oarstat(tmp_path, monkeypatch, OARSTAT.format(owner=getpass.getuser(), state="Running"))
    assert find_remote(None, {"OAR_JOB_ID": "42"}).nodes == ("node1", "node2")


def test_a_damaged_nodefile_is_an_error(inside: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("")
    with pytest.raises(JobEnvironmentError, match="names no node"):
        find_remote(None, inside)


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[FakeRemote]:
    nodes = ("node1", "node2")
    remote = FakeRemote({n: FakeNode(tmp_path / n, n, nodes) for n in nodes})
    for node, name in (("node1", "vm10"), ("node2", "vm2"), ("node1", "vm1")):
        directory = remote.by_name[node].layout.containers / name
        directory.mkdir()
        (directory / "config").write_text(
            f"lxc.net.0.ipv4.address = 10.0.0.{name[2:]}/8 10.9.9.9\n"
        )
    remote.by_name["node1"].runtime.start("vm1")
    yield remote
    remote.close()


def test_containers_are_listed_by_their_names_and_numbers_wherever_they_are(
    remote: FakeRemote,
) -> None:
    found = list_containers(remote)
    assert [(c.name, c.node, c.state) for c in found] == [
        ("vm1", "node1", "RUNNING"),
        ("vm2", "node2", "STOPPED"),
        ("vm10", "node1", "STOPPED"),
    ]
    assert [c.address for c in found] == ["10.0.0.1", "10.0.0.2", "10.0.0.10"]
    assert found[0].pid == remote.by_name["node1"].runtime.init_pid("vm1")
    assert found[1].pid == 0


def test_the_order_of_a_list_depends_on_no_node(remote: FakeRemote) -> None:
    first = [c.name for c in list_containers(remote)]
    remote.nodes = remote.nodes[::-1]
    assert [c.name for c in list_containers(remote)] == first


def test_names_are_sorted_by_group_and_number() -> None:
    names = ["cache1", "vm1", "py1", "web10", "web2", "vm", "n10.b", "n9.b"]
    assert sorted(names, key=by_number) == (
        ["cache1", "n9.b", "n10.b", "py1", "vm", "vm1", "web2", "web10"]
    )


def test_a_node_that_does_not_answer_is_an_error_and_not_an_empty_list(remote: FakeRemote) -> None:
    remote.unreachable = ["node2"]
    with pytest.raises(NodeError, match="node node2"):
        list_containers(remote)


def test_inside_a_job_what_its_nodes_say_is_told_where_oar_cannot_be_asked(
    remote: FakeRemote, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a job without the type lxc, whose nodes say how to submit it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    remote.local = ""
    remote.unreachable = ["node1", "node2"]
    with pytest.raises(NodeError, match="node node1"):
        list_containers(remote)


def test_a_container_is_found_by_its_name(remote: FakeRemote) -> None:
    assert find_container(remote, "vm2").node == "node2"


def test_an_unknown_container_is_one_sentence_that_names_those_that_exist(
    remote: FakeRemote,
) -> None:
    with pytest.raises(ContainerError) as caught:
        find_container(remote, "vm3")
    assert str(caught.value) == (
        "container vm3: job 42 has no such container; it has: vm1, vm2, vm10"
    )


def test_keys_are_found_on_whichever_node_has_them(remote: FakeRemote) -> None:
    remote.by_name["node2"].layout.ssh_key.write_text("SECRET")
    assert find_keys(remote) == {"client": "SECRET"}


def test_a_job_without_keys_is_one_sentence(remote: FakeRemote) -> None:
    with pytest.raises(OarLxcError, match="job 42 has no ssh key: it has not launched"):
        find_keys(remote)
