"""What the root side makes for a job, read from the kernel and the disk."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from oar_lxc.model.addresses import JobNetwork
from oar_lxc.model.layout import IMAGES, STATE, JobLayout
from oar_lxc.root.files import write_durably
from tests import kernel
from tests.integration.conftest import IMAGE, first_id_of_record, left, next_id, published
from tests.integration.nodes import node_side_killed_at, oar_cgroups
from tests.pretend import CGROUPS, CONTROLLERS, PYTHON, PretendJob, checkout


def owner(path: Path) -> tuple[int, int, str]:
    """Return user, group and mode of a path."""
    status = path.lstat()
    return status.st_uid, status.st_gid, oct(status.st_mode & 0o7777)


def uid(job: PretendJob) -> int:
    return pwd.getpwnam(job.user).pw_uid


def gid(job: PretendJob) -> int:
    return pwd.getpwnam(job.user).pw_gid


def ip(*arguments: str) -> list[dict[str, object]]:
    done = subprocess.run(["ip", "-json", *arguments], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout or "[]")
    assert isinstance(found, list)
    return found


def bridge_of(job: PretendJob) -> tuple[object, ...]:
    """Return which device a job's bridge is, and what it was given.

    Not what the kernel adds in its own time: the link-local address is tentative for a second.
    """
    (found,) = ip("address", "show", "dev", f"olb{job.id}")
    addresses = found["addr_info"]
    assert isinstance(addresses, list)
    given = [(x["local"], x["prefixlen"]) for x in addresses if x["scope"] != "link"]
    return found["ifindex"], found["address"], found["mtu"], given


def as_other_user(*argv: str) -> int:
    """Run a program as somebody else; return its status."""
    command = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", *argv]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_images_are_seen_under_the_jobs_ids_and_cannot_be_written(job: PretendJob) -> None:
    first_id = published(job).first_id
    rootfs = JobLayout(job.id).images / IMAGE / "rootfs"
    assert owner(rootfs / "etc/passwd")[:2] == (first_id, first_id)
    assert owner(STATE / IMAGES / IMAGE / "rootfs/etc/passwd")[:2] == (0, 0)
    with pytest.raises(OSError, match="Read-only file system"):
        (rootfs / "etc/new").touch()
    assert job.run(["cat", str(rootfs / "etc/debian_version")]).stdout.startswith("12")
    assert job.run(["cat", str(rootfs / "etc/shadow")]).status != 0
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    (line,) = [x for x in table if f" {JobLayout(job.id).images} " in x]
    assert {"ro", "nodev", "nosuid", "idmapped"} <= set(line.split()[5].split(","))


def test_directories_belong_to_whom_they_should(job: PretendJob) -> None:
    layout, first_id = JobLayout(job.id), published(job).first_id
    assert owner(layout.directory) == (0, first_id, "0o711")
    assert owner(layout.containers) == (uid(job), first_id, "0o2770")
    assert owner(layout.private) == (uid(job), gid(job), "0o700")
    assert owner(layout.published) == (0, 0, "0o644")
    assert owner(layout.record) == (0, 0, "0o600")
    assert owner(STATE / "records")[2] == "0o700"


def test_nobody_else_gets_in(job: PretendJob) -> None:
    layout = JobLayout(job.id)
    assert as_other_user("cat", str(layout.published)) == 0
    for path in (layout.directory, layout.containers, layout.private, STATE / "records"):
        assert as_other_user("ls", str(path)) != 0
    assert as_other_user("touch", str(layout.directory / "x")) != 0


def test_the_user_may_write_in_two_places_and_nowhere_else(job: PretendJob) -> None:
    layout = JobLayout(job.id)
    for path in (layout.containers, layout.private):
        assert job.run(["mkdir", str(path / "x")]).status == 0
    for path in (layout.directory, layout.images, STATE / "jobs", STATE / "records"):
        assert job.run(["mkdir", str(path / "x")]).status != 0
    assert job.run(["mv", str(layout.containers), str(layout.directory / "x")]).status != 0
    assert job.run(["rm", "-f", str(layout.published)]).status != 0


def test_cgroups_are_delegated_to_the_user_and_the_containers_root(job: PretendJob) -> None:
    first_id = published(job).first_id
    groups = [Path(path) for path in published(job).cgroups]
    mounted = kernel.read("/proc/self/mounts").splitlines()
    assert len(groups) == len({line.split()[1] for line in mounted if line.split()[2] == "cgroup"})
    for group in groups:
        assert owner(group) == (uid(job), first_id, "0o775")
        for name in ("cgroup.procs", "tasks"):
            assert owner(group / name) == (uid(job), first_id, "0o664")
        # Limits stay root's.
        limits = [p for p in group.iterdir() if p.name not in ("cgroup.procs", "tasks")]
        assert {owner(path)[0] for path in limits} == {0}


def test_delegated_cgroups_lie_in_those_of_oar_where_it_has_one(job: PretendJob) -> None:
    groups = set(published(job).cgroups)
    for controller in CONTROLLERS:
        assert str(CGROUPS / controller / job.cgroup[1:] / "lxc") in groups
    others = [path for path in groups if not path.endswith(f"{job.cgroup}/lxc")]
    assert others
    assert all(path.endswith(f"/oar-lxc/{job.user}_{job.id}") for path in others)


def test_the_cpuset_is_that_of_the_job(job: PretendJob) -> None:
    group = CGROUPS / "cpuset" / job.cgroup[1:] / "lxc"
    assert (group / "cpuset.cpus").read_text().strip() == job.cpus
    assert (group / "cpuset.mems").read_text() == (CGROUPS / "cpuset/cpuset.mems").read_text()
    assert (group / "cgroup.clone_children").read_text().strip() == "1"


def test_the_bridge_has_the_nodes_address(job: PretendJob) -> None:
    network = JobNetwork.of(job.id, [job.node])
    (link,) = ip("address", "show", "dev", f"olb{job.id}")
    (address,) = [a for a in link["addr_info"] if a["family"] == "inet"]  # type: ignore[attr-defined]
    assert f"{address['local']}/{address['prefixlen']}" == str(network.node_address(job.node))
    assert link["mtu"] == 1450
    assert "UP" in link["flags"]  # type: ignore[operator]
    assert not Path(f"/sys/class/net/olv{job.id}").exists()


def test_a_job_of_several_nodes_has_a_vxlan_to_the_others(unprepared: PretendJob) -> None:
    job = unprepared
    job.node_side("prepare", "--node", job.node, "--nodes", f"{job.node},localhost")
    (link,) = ip("-details", "link", "show", "dev", f"olv{job.id}")
    assert link["master"] == f"olb{job.id}"
    info = link["linkinfo"]["info_data"]  # type: ignore[index]
    assert (info["id"], info["port"]) == (job.id & 0xFFFFFF, 289)
    done = subprocess.run(
        ["bridge", "fdb", "show", "dev", f"olv{job.id}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "00:00:00:00:00:00 dst 127.0.0.1" in done.stdout


def test_a_job_of_a_node_with_an_unknown_address_is_not_prepared(unprepared: PretendJob) -> None:
    job = unprepared
    nodes = f"{job.node},node2.invalid"
    done = job.node_side("prepare", "--node", job.node, "--nodes", nodes, check=False)
    assert done.status == 1
    assert "the address of node node2.invalid is not known here" in done.stderr
    assert left(job, 0) == {"cgroups": oar_cgroups(job)}


def test_files_of_the_system_keep_their_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(mode=0o640)
    os.chown(path, 12345, 54321)
    write_durably(path, "text", 0o644)
    assert owner(path) == (12345, 54321, "0o644")


def test_preparing_twice_changes_nothing(job: PretendJob) -> None:
    directory = JobLayout(job.id).directory
    before = replace(published(job), prepared={}), bridge_of(job), found_of(job)
    job.prepare()
    after = replace(published(job), prepared={}), bridge_of(job), found_of(job)
    assert after == before
    found = found_of(job)
    mounts = ("", "/images", "/namespaces/net", "/namespaces/user", "/trees/0")
    assert found["mounts"] == {f"{directory}{below}" for below in mounts}


def found_of(job: PretendJob) -> dict[str, set[str]]:
    """Return what a job has here, mounts by their points.

    Services that have mount namespaces of their own, and copies of mounts in them, come and go.
    """
    found = kernel.find_all(job.id, job.user, published(job).first_id)
    points = [line.partition(": ")[2] for line in found.pop("mounts")]
    return {kind: set(names) for kind, names in {**found, "mounts": points}.items()}


def test_jobs_that_are_prepared_and_destroyed_at_once_do_not_get_mixed_up(user: str) -> None:
    jobs = [PretendJob(next_id(), user) for _ in range(6)]
    for job in jobs:
        job.make_cgroups()
    with ThreadPoolExecutor(len(jobs)) as pool:
        list(pool.map(PretendJob.prepare, jobs))
        first_ids = [published(job).first_id for job in jobs]
        assert len(set(first_ids)) == len(jobs)
        for job, first_id in zip(jobs, first_ids, strict=True):
            assert kernel.find_links(job.id, user, first_id)
        list(pool.map(PretendJob.destroy, jobs))
    for job, first_id in zip(jobs, first_ids, strict=True):
        job.remove_cgroups()
        assert left(job, first_id) == {}


def test_without_oars_cpuset_all_cgroups_are_our_own(user: str) -> None:
    job = PretendJob(next_id(), user)
    argv = [PYTHON, "-m", "oar_lxc.root.main", "prepare", "--job", str(job.id), "--user", user]
    argv += ["--node", job.node, "--nodes", job.node]
    subprocess.run(argv, env={"PYTHONPATH": str(checkout())}, check=True)
    try:
        assert not published(job).in_cpuset
        assert all(path.endswith(f"/oar-lxc/{user}_{job.id}") for path in published(job).cgroups)
    finally:
        first_id = first_id_of_record(job)
        job.destroy()
    assert left(job, first_id) == {}


@contextmanager
def stranger(name: str, address: str = "") -> Iterator[None]:
    """Make a network device that is not ours."""
    argv = ["ip", "link", "add", name, "type", "veth", "peer", "name", "oarlxcpeer0"]
    subprocess.run(argv, check=True)
    try:
        if address:
            subprocess.run(["ip", "address", "add", address, "dev", name], check=True)
        yield
    finally:
        subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)


def test_a_held_network_is_a_refusal_that_only_the_job_is_told(unprepared: PretendJob) -> None:
    job = unprepared
    network = JobNetwork.of(job.id, [job.node])
    address = network.container_address(7)
    with stranger("oarlxctest0", f"{address.ip}/32"):
        assert job.prepare().status == 0
    done = job.script()
    assert done.status == 1
    assert done.stderr == (
        f"lxc_job.py: node {job.node} refused job {job.id}: its network {network.subnet} is still "
        "held by oarlxctest0; submit the job again, its next id has another network\n"
    )
    found = left(job, 0)
    assert found.pop("cgroups") == oar_cgroups(job)
    layout = JobLayout(job.id)
    assert found == {"files": [str(layout.directory), str(layout.record)]}


def test_a_stale_device_of_the_bridges_name_does_not_stay(unprepared: PretendJob) -> None:
    # A cluster whose database was made anew counts jobs from 1 again.
    job = unprepared
    with stranger(f"olb{job.id}"):
        job.prepare()
        (link,) = ip("-details", "link", "show", "dev", f"olb{job.id}")
        assert link["linkinfo"]["info_kind"] == "bridge"  # type: ignore[index]
        (link,) = ip("address", "show", "dev", f"olb{job.id}")
        local = [a["local"] for a in link["addr_info"]]  # type: ignore[attr-defined]
        assert str(JobNetwork.of(job.id, [job.node]).node_address(job.node).ip) in local


def names_in_etc() -> list[str]:
    """Return what lies in /etc, but for what is written there at this moment."""
    return sorted(name for name in os.listdir("/etc") if not name.startswith("."))


VICTIM = Path("/tmp/oar-lxc-test-victim")


@pytest.fixture
def victim() -> Iterator[Path]:
    """Make a directory of others, in which nothing may happen."""
    VICTIM.mkdir(mode=0o700)
    yield VICTIM
    for point in kernel.read("/proc/self/mounts").splitlines():
        if point.split()[1].startswith(f"{VICTIM}/"):
            subprocess.run(["umount", "--lazy", point.split()[1]], check=True)
    shutil.rmtree(VICTIM)


def _file(layout: JobLayout) -> None:
    layout.directory.touch()


def _link(layout: JobLayout) -> None:
    layout.directory.symlink_to(VICTIM)


def _full_of_files(layout: JobLayout) -> None:
    layout.directory.mkdir()
    layout.images.touch()


@pytest.mark.parametrize("put", [_file, _link, _full_of_files])
def test_a_prepare_that_fails_half_way_undoes_itself(
    unprepared: PretendJob, victim: Path, put: Callable[[JobLayout], None]
) -> None:
    job = unprepared
    before = names_in_etc(), os.listdir(victim)
    put(JobLayout(job.id))
    done = job.node_side("prepare", "--node", job.node, "--nodes", job.node, check=False)
    assert done.status == 1
    assert done.stderr.startswith("oar-lxc-node: prepare: ")
    assert done.stderr.count("\n") == 1
    assert left(job, 0) == {"cgroups": oar_cgroups(job)}
    assert (names_in_etc(), os.listdir(victim)) == before
    # What failed once works when its cause is gone.
    job.prepare()


FULL_AT = """
import errno, os, pkgutil, sys
owner, _, name = sys.argv.pop(1).rpartition(".")
import oar_lxc.root.prepare
def full(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
setattr(pkgutil.resolve_name(owner), name, full)
from oar_lxc.root.main import main
main()
"""


@pytest.mark.parametrize("step", ["directories", "cgroups"])
def test_a_disk_that_users_filled_refuses_the_job_and_keeps_the_node_in_service(
    unprepared: PretendJob, step: str
) -> None:
    job = unprepared
    common = ["--job", str(job.id), "--user", job.user, "--cgroup", job.cgroup]
    nodes = ["--node", job.node, "--nodes", job.node]
    done = subprocess.run(
        [PYTHON, "-c", FULL_AT, STEPS[step], "prepare", *common, *nodes],
        env={"PYTHONPATH": str(checkout()), "PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert published(job).state == "refused"
    assert "is full" in published(job).reason
    # The refused job may be prepared when there is room again: with all that it needs.
    job.prepare()
    assert published(job).state == "ready"
    assert ip("link", "show", "dev", f"olb{job.id}")


def test_what_cannot_be_undone_is_told_and_goes_when_it_can(unprepared: PretendJob) -> None:
    job = unprepared
    layout = JobLayout(job.id)
    layout.directory.mkdir()
    subprocess.run(["chattr", "+i", str(layout.directory)], check=True)
    try:
        done = job.node_side("prepare", "--node", job.node, "--nodes", job.node, check=False)
        assert done.status == 1
        found = left(job, first_id_of_record(job))
        assert found.pop("cgroups") == oar_cgroups(job)
        assert found == {"files": [str(layout.directory), str(layout.record)]}
        done = job.node_side("destroy", check=False)
        assert done.status == 1
        assert str(layout.directory) in done.stderr
    finally:
        subprocess.run(["chattr", "-i", str(layout.directory)], check=True)
    assert job.destroy().status == 0


# Where a prepare can be cut off: before each of these has been done, in their order.
STEPS = {
    "directories": "oar_lxc.root.prepare.Preparation._make_directories",
    "namespaces": "oar_lxc.root.job_namespaces.make",
    "user namespace": "oar_lxc.root.job_namespaces.mount_file",
    "images": "oar_lxc.root.idmapped.mount_idmapped",
    "cgroups": "oar_lxc.root.job_cgroups.JobCgroups.delegate",
    "links": "oar_lxc.root.bridge.create",
    "published": "oar_lxc.model.published.PublishedJob.to_json",
}


@pytest.mark.parametrize("step", STEPS)
def test_a_prepare_that_is_killed_leaves_nothing_after_a_destroy(
    unprepared: PretendJob, step: str
) -> None:
    job = unprepared
    node_side_killed_at(job, STEPS[step], "prepare", "--node", job.node, "--nodes", job.node)
    first_id = first_id_of_record(job)
    assert first_id
    assert not JobLayout(job.id).published.exists()
    job.destroy()
    assert left(job, first_id) == {"cgroups": oar_cgroups(job)}


def hidden_files() -> set[str]:
    """Return what is hidden where the root side writes files."""
    places = (STATE / "records", STATE / "jobs")
    return {str(path) for place in places for path in place.glob(".*")}


@pytest.mark.parametrize("number", [1, 2])
def test_a_prepare_that_is_killed_in_a_write_leaves_no_half_of_a_file(
    unprepared: PretendJob, number: int
) -> None:
    # The record, and what is published.
    job, before = unprepared, hidden_files()
    nodes = ("--node", job.node, "--nodes", job.node)
    try:
        node_side_killed_at(job, "os.rename", "prepare", *nodes, call=number)
        job.destroy()
        assert hidden_files() == before
    finally:
        for path in hidden_files() - before:
            Path(path).unlink()


@pytest.mark.parametrize("step", ["images", "published"])
def test_a_prepare_that_was_killed_can_be_run_again(unprepared: PretendJob, step: str) -> None:
    job = unprepared
    node_side_killed_at(job, STEPS[step], "prepare", "--node", job.node, "--nodes", job.node)
    job.prepare()
    assert job.script("--wait", "running", "--", "true").status == 0


def test_a_job_that_oar_has_placed_in_no_known_way_is_one_sentence_and_nothing_is_made(
    unprepared: PretendJob,
) -> None:
    job = unprepared
    job.remove_cgroups()
    done = job.node_side("prepare", "--node", job.node, "--nodes", job.node, check=False)
    assert (done.status, done.stderr.count("\n")) == (1, 1)
    assert f"neither its cpuset {job.cgroup} nor its slice oar-u*-j{job.id}.slice" in done.stderr
    assert left(job, 0) == {}


def test_how_oar_places_the_job_is_in_the_record_and_published(job: PretendJob) -> None:
    record = json.loads(JobLayout(job.id).record.read_text())
    assert record["placement"] == published(job).placement == "v1"
