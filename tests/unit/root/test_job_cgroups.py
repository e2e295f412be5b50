"""Cgroups of a job: which are ours, and what is done to them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.errors import OarLxcError, TooLateError, UsageError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.model.placement import NONE
from oar_lxc.root import job_cgroups, units
from oar_lxc.root.job_cgroups import JobCgroups, check_oar_cgroup
from oar_lxc.root.placement import Hierarchy, hierarchies
from tests.unit.strategies import hostile, job_ids, users

# From Debian 12 with the hybrid set-up; the second mount of the cpuset is OAR's old style.
MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 22 0:28 / /sys/fs/cgroup rw,relatime shared:9 - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:10 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset,clone_children
40 31 0:37 / /sys/fs/cgroup/systemd rw shared:11 master:1 - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
50 22 0:31 / /dev/oar\\040cgroups rw,relatime - cgroup none rw,cpuset,clone_children
"""


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Hierarchy, Hierarchy]:
    """Return two hierarchies of plain directories, a cpuset with OAR's cgroup and one without."""
    found = (
        Hierarchy(tmp_path / "cpuset", ("cpuset",), False),
        Hierarchy(tmp_path / "pids", ("pids",), False),
    )
    for hierarchy in found:
        hierarchy.path.mkdir()
    (tmp_path / "cpuset/oar/alice_42").mkdir(parents=True)
    monkeypatch.setattr(job_cgroups, "hierarchies", lambda: list(found))
    return found


def test_each_mounted_hierarchy_is_found_once(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTINFO)
    assert hierarchies(tmp_path / "mountinfo") == [
        Hierarchy(Path("/sys/fs/cgroup/cpu,cpuacct"), ("cpu", "cpuacct"), False),
        Hierarchy(Path("/sys/fs/cgroup/cpuset"), ("cpuset",), False),
        Hierarchy(Path("/sys/fs/cgroup/systemd"), ("name=systemd",), False),
        Hierarchy(Path("/sys/fs/cgroup/unified"), (), True),
    ]


def test_escapes_of_the_kernel_are_undone(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTINFO.splitlines()[-1])
    assert [h.path for h in hierarchies(tmp_path / "mountinfo")] == [Path("/dev/oar cgroups")]


def test_without_a_hierarchy_prepare_says_what_to_do_and_nothing_is_there_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTINFO.splitlines()[0])
    assert hierarchies(tmp_path / "mountinfo") == []
    monkeypatch.setattr(job_cgroups, "hierarchies", list)
    with pytest.raises(OarLxcError, match="no cgroup file system is mounted: mount it"):
        JobCgroups(42, "alice", "").delegate(NONE, 1000, 1000)
    assert JobCgroups(42, "alice", "/oar/alice_42").remove()


def test_a_users_mount_is_no_hierarchy_whatever_its_name(tmp_path: Path) -> None:
    # The kernel escapes blank, tab, newline and backslash in what a user chose, and nothing else.
    point = "/home/u/x\u20281\u20032\u20030:99\u2003/\u2003/oar\rx\v- cgroup".replace(" ", "\\040")
    line = (
        f"60 22 0:44 / {point} rw - fuse.x u@h:/\u2028\u2003-\u2003cgroup\u2003x\u2003cpuset rw\n"
    )
    (tmp_path / "mountinfo").write_text(MOUNTINFO + line)
    assert len(hierarchies(tmp_path / "mountinfo")) == 4


@given(job_ids, users)
def test_the_path_that_oar_makes_is_taken(job_id: int, user: str) -> None:
    path = f"/oar/{user}_{job_id}"
    assert check_oar_cgroup(path, job_id, user) == path


def test_a_path_of_oar_3_is_taken_where_it_ends_in_user_and_job() -> None:
    path = "/oar.slice/oar-u1000.slice/alice_42"
    assert check_oar_cgroup(path, 42, "alice") == path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "alice_42",
        "/alice_42",
        "oar/alice_42",
        "//alice_42",
        "/oar//alice_42",
        "/oar/alice_42/",
        "/oar/../alice_42",
        "/oar/./alice_42",
        "/../alice_42",
        "/oar/bob_42",
        "/oar/alice_4",
        "/oar/alice_421",
        "/oar/xalice_42",
        "/oar/alice_42/lxc",
        "/oar/alice_42\n",
        "/oar\n/alice_42",
        "/oar\0/alice_42",
        "/oar /alice_42",
        "/-oar/alice_42",
        "/oar/ALICE_42",
    ],
)
def test_a_path_that_is_another_jobs_or_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not OAR's cgroup of job 42 of alice") as caught:
        check_oar_cgroup(text, 42, "alice")
    assert "\n" not in str(caught.value)


@given(hostile, st.sampled_from(["", "/alice_42", "alice_42"]))
def test_what_is_taken_names_a_cgroup_of_the_job_below_another(text: str, end: str) -> None:
    try:
        path = check_oar_cgroup(text + end, 42, "alice")
    except UsageError:
        return
    assert os.path.normpath(path) == path
    assert path.endswith("/alice_42")
    assert path.count("/") > 1


def test_the_delegated_cgroup_lies_in_oars_where_there_is_one(
    two: tuple[Hierarchy, Hierarchy],
) -> None:
    cpuset, pids = two
    cgroups = JobCgroups(42, "alice", "/oar/alice_42")
    assert cgroups.delegated(cpuset) == cpuset.path / "oar/alice_42/lxc"
    assert cgroups.delegated(pids) == pids.path / "oar-lxc/alice_42"
    assert JobCgroups(42, "alice", "").delegated(cpuset) == cpuset.path / "oar-lxc/alice_42"


def test_only_cgroups_of_this_very_job_are_ours(two: tuple[Hierarchy, Hierarchy]) -> None:
    cpuset, pids = two
    ours = [cpuset.path / "oar/alice_42/lxc", pids.path / "oar-lxc/alice_42"]
    others = [
        cpuset.path / "oar/alice_421/lxc",
        cpuset.path / "oar/bob_42/lxc",
        cpuset.path / "oar-lxc/alice_4",
        pids.path / "oar-lxc/malice_42",
    ]
    for path in ours + others:
        path.mkdir(parents=True)
    assert JobCgroups(42, "alice", "/oar/alice_42").roots() == ours
    assert JobCgroups(42, "alice", "").roots() == ours


def test_removal_takes_our_cgroups_and_leaves_oars(two: tuple[Hierarchy, Hierarchy]) -> None:
    cpuset, pids = two
    cgroups = JobCgroups(42, "alice", "/oar/alice_42")
    (cpuset.path / "oar/alice_42/lxc/a/b").mkdir(parents=True)
    (pids.path / "oar-lxc/alice_42/c").mkdir(parents=True)
    assert cgroups.remove()
    assert cgroups.roots() == []
    assert os.listdir(cpuset.path / "oar/alice_42") == []
    assert cgroups.remove()


def test_a_cgroup_that_is_busy_is_told_and_all_others_go(
    two: tuple[Hierarchy, Hierarchy],
) -> None:
    cpuset, _ = two
    lxc = cpuset.path / "oar/alice_42/lxc"
    for name in ("a", "busy", "z"):
        (lxc / name).mkdir(parents=True)
    (lxc / "busy/file").touch()  # as a process would keep it
    cgroups = JobCgroups(42, "alice", "/oar/alice_42")
    assert not cgroups.remove()
    assert os.listdir(lxc) == ["busy"]
    (lxc / "busy/file").unlink()
    assert cgroups.remove()


def test_processes_are_those_of_all_our_cgroups(two: tuple[Hierarchy, Hierarchy]) -> None:
    cpuset, pids = two
    for path, text in (
        (cpuset.path / "oar/alice_42/lxc/a/b", "11\n12\n"),
        (cpuset.path / "oar/alice_42/lxc", ""),
        (pids.path / "oar-lxc/alice_42", "12\n13\n0\n"),
        (cpuset.path / "oar/alice_42", "99\n"),
        (cpuset.path / "oar/alice_421/lxc", "98\n"),
    ):
        path.mkdir(parents=True, exist_ok=True)
        (path / "cgroup.procs").write_text(text)
    cgroups = JobCgroups(42, "alice", "/oar/alice_42")
    assert cgroups.processes() == {11, 12, 13}
    assert cgroups.freezable() == set()
    whole = JobCgroups(42, "alice", "/oar/alice_42", whole=True)
    assert whole.processes() == {11, 12, 13, 99}


def test_where_the_kernel_tells_of_a_process_is_told_from_where_the_hierarchy_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        Hierarchy(tmp_path / "cpuset", ("cpuset",), False),
        Hierarchy(tmp_path / "pids", ("pids",), False, "/machine/node1"),
    ]
    monkeypatch.setattr(job_cgroups, "hierarchies", lambda: found)
    cgroups = JobCgroups(42, "alice", "/oar/alice_42")
    assert cgroups.ours() == (
        "/machine/node1/oar-lxc/alice_42",
        "/machine/node1/oar/alice_42/lxc",
        "/oar-lxc/alice_42",
        "/oar/alice_42/lxc",
    )
    assert cgroups.oars() == ("/machine/node1/oar/alice_42", "/oar/alice_42")


def test_what_can_be_frozen_is_looked_for_in_the_freezer_alone(
    two: tuple[Hierarchy, Hierarchy], monkeypatch: pytest.MonkeyPatch
) -> None:
    freezer = Hierarchy(two[0].path, ("freezer",), False)
    monkeypatch.setattr(job_cgroups, "hierarchies", lambda: [freezer, two[1]])
    for root, path, pid in (
        (freezer.path, "oar/alice_42/lxc/a", 11),
        (freezer.path, "oar-lxc/alice_42", 12),
        (two[1].path, "oar-lxc/alice_42", 13),
        (freezer.path, "oar/alice_421", 14),
    ):
        (root / path).mkdir(parents=True)
        (root / path / "cgroup.procs").write_text(f"{pid}\n")
    assert JobCgroups(42, "alice", "/oar/alice_42").freezable() == {11, 12}


def test_the_whole_of_oars_cgroup_is_removed_only_where_asked(
    two: tuple[Hierarchy, Hierarchy],
) -> None:
    oar = two[0].path / "oar/alice_42"
    (oar / "lxc/a").mkdir(parents=True)
    assert JobCgroups(42, "alice", "/oar/alice_42").remove()
    assert os.listdir(oar) == []
    assert JobCgroups(42, "alice", "/oar/alice_42", whole=True).remove()
    assert not oar.exists()
    assert oar.parent.exists()


def test_everything_frozen_is_thawed_that_of_a_suspended_job_too(
    two: tuple[Hierarchy, Hierarchy], monkeypatch: pytest.MonkeyPatch
) -> None:
    freezer = Hierarchy(two[0].path, ("freezer",), False)
    monkeypatch.setattr(job_cgroups, "hierarchies", lambda: [freezer, two[1]])
    nested = freezer.path / "oar/alice_42/lxc/a/b"
    nested.mkdir(parents=True)
    other = freezer.path / "oar/alice_421"
    other.mkdir()
    oar = freezer.path / "oar/alice_42"
    for path in (nested, nested.parent, oar, other):
        (path / "freezer.state").write_text("FROZEN")
    JobCgroups(42, "alice", "/oar/alice_42").thaw()
    for path in (nested, nested.parent, oar):
        assert (path / "freezer.state").read_text() == "THAWED"
    assert (other / "freezer.state").read_text() == "FROZEN"
    assert os.listdir(nested) == ["freezer.state"]  # what a hierarchy lacks is not made


def test_looking_at_cgroups_ends_at_the_deadline(two: tuple[Hierarchy, Hierarchy]) -> None:
    (two[0].path / "oar/alice_42/lxc/a").mkdir(parents=True)
    late = JobCgroups(42, "alice", "/oar/alice_42", deadline=Deadline.after(0))
    for act in (late.processes, late.remove):
        with pytest.raises(TooLateError, match="time was over"):
            act()
    assert late.roots() == [two[0].path / "oar/alice_42/lxc"]


SLICE = "oar.slice/oar-u1000.slice/oar-u1000-j42.slice"
SERVICE = f"{SLICE}/oar-lxc-42.service"
OWN = "oar.slice/oar-lxc.slice/oar-lxc-42.service"


@pytest.fixture
def unified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the one hierarchy of a node with version 2 alone, of plain directories."""
    found = [Hierarchy(tmp_path, (), True)]
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    monkeypatch.setattr(job_cgroups, "hierarchies", lambda: found)
    monkeypatch.setattr(units, "stop", lambda unit, end: None)
    monkeypatch.setattr(units, "thaw", lambda name, end: None)
    return tmp_path


def systemd(uid: int = 1000, whole: bool = False) -> JobCgroups:
    return JobCgroups(42, "alice", "/oar/alice_42", whole, uid=uid)


@pytest.mark.parametrize("uid", [1000, -1])
def test_in_version_2_the_services_are_ours_and_the_slice_is_oars(unified: Path, uid: int) -> None:
    others = [
        "oar.slice/oar-u1000.slice/oar-u1000-j421.slice/oar-lxc-421.service",
        "oar.slice/oar-lxc.slice/oar-lxc-4.service",
        f"{SLICE}/oar-u1000-j42-p7.scope",
    ]
    for path in (SERVICE, OWN, *others):
        (unified / path).mkdir(parents=True)
    assert systemd(uid).roots() == [unified / OWN, unified / SERVICE]
    assert f"/{SERVICE}" in systemd(uid).ours()
    assert f"/{SLICE}" in systemd(uid).oars()
    assert systemd(uid).remove()
    assert not (unified / SERVICE).exists()
    assert all((unified / path).exists() for path in others)
    assert systemd(uid, whole=True).roots() == [unified / SLICE]
    assert systemd(uid, whole=True).remove()
    assert not (unified / SLICE).exists()
    assert (unified / others[0]).exists()


def test_in_version_2_the_kernel_kills_and_thaws_ours_and_thaws_oars(unified: Path) -> None:
    scope = unified / SLICE / "oar-u1000-j42-p7.scope"
    nested = unified / SERVICE / "vm1"
    for path in (scope, nested):
        path.mkdir(parents=True)
        (path / "cgroup.freeze").write_text("1")
    for path in (unified / SLICE, unified / SERVICE):
        (path / "cgroup.kill").write_text("")
        (path / "cgroup.freeze").write_text("1")
    systemd().kill_unified()
    assert (unified / SERVICE / "cgroup.kill").read_text() == "1"
    assert (unified / SLICE / "cgroup.kill").read_text() == ""
    systemd().thaw()
    for path in (unified / SLICE, unified / SERVICE, nested):
        assert (path / "cgroup.freeze").read_text() == "0"
    assert (scope / "cgroup.freeze").read_text() == "1"


def test_in_version_2_the_job_and_the_users_others_are_frozen_and_thawed(unified: Path) -> None:
    own, other = unified / SLICE, unified / SLICE.replace("-j42.", "-j43.")
    bobs = unified / "oar.slice/oar-u1001.slice/oar-u1001-j44.slice"
    suspended = unified / SLICE.replace("-j42.", "-j45.")
    for path in (own, other, bobs, suspended):
        path.mkdir(parents=True)
        (path / "cgroup.freeze").write_text("0")
        (path / "cgroup.procs").write_text("7\n")
    (suspended / "cgroup.freeze").write_text("1")

    def states() -> list[str]:
        return [(path / "cgroup.freeze").read_text() for path in (own, other, bobs, suspended)]

    assert systemd().freezable() == {7}
    with systemd().frozen():
        assert states() == ["1", "0", "0", "1"]
    with systemd().neighbours_frozen():
        assert states() == ["0", "1", "0", "1"]
    assert states() == ["0", "0", "0", "1"]


def test_in_version_2_a_cgroup_is_taken_back_with_all_that_lets_processes_in(
    unified: Path,
) -> None:
    (unified / SERVICE).mkdir(parents=True)
    (unified / SERVICE / "pids.max").touch()
    if os.geteuid() == 0:
        for name in ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
            (unified / SERVICE / name).touch()
            os.chown(unified / SERVICE / name, 1000, 1000)
        systemd().take_back()
        assert {path.stat().st_uid for path in (unified / SERVICE).iterdir()} == {0}
        assert (unified / SERVICE / "pids.max").read_text() == "0"
