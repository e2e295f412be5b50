"""What is left of a job, and what is not called so."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import Popen

import pytest

from oar_lxc.linux.deadline import NEVER, Deadline
from oar_lxc.model.idspans import LOWEST, MOST_USERS
from oar_lxc.model.layout import JobLayout
from oar_lxc.root import bridge, job_cgroups, leftovers, processes
from oar_lxc.root import litter as litter_module
from oar_lxc.root.belongings import Belongings
from oar_lxc.root.id_ranges import COUNT
from oar_lxc.root.job_cgroups import JobCgroups
from oar_lxc.root.kill import Killing
from oar_lxc.root.leftovers import Leftovers, find_leftovers
from oar_lxc.root.litter import Litter
from oar_lxc.root.ownership import Whose
from oar_lxc.root.placement import Hierarchy
from tests.unit.fakes.programs import add_program

FIRST = LOWEST + (MOST_USERS - 1) * COUNT  # which no job on this machine has


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of a node on which nothing is left of any job."""
    for name in ("records", "jobs", "cgroup", "net"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(bridge, "NET", tmp_path / "net")
    found = [Hierarchy(tmp_path / "cgroup", ("cpuset",), False)]
    for module in (job_cgroups, leftovers):
        monkeypatch.setattr(module, "hierarchies", lambda: found)
    elements = tmp_path / "elements"
    add_program(tmp_path / "bin", "nft", f"cat {elements}")
    elements.write_text('{"nftables": []}')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    # Not the files of whoever uses this machine, which may be very many.
    monkeypatch.setattr(leftovers, "Litter", partial(Litter, places=(tmp_path,)))
    return tmp_path


def belongings(node: Path, deadline: Deadline = NEVER) -> Belongings:
    cgroups = JobCgroups(42, "alice", "/oar/alice_42", deadline=deadline)
    return Belongings(JobLayout(42, node), cgroups, Whose(-1, FIRST))


def find(node: Path, inert: bool = True) -> Leftovers:
    return find_leftovers(belongings(node), inert=inert)


def listing(job: int) -> str:
    """Return what nft lists of the packet filter where it has elements of a job."""
    sets = {
        "owners": [{"concat": [f"olb{job}", 2001]}],
        "peers": [{"concat": ["10.0.0.2", job << 8]}],
        "connections": [{"elem": {"val": f"olb{job}", "ct count": {"val": 1}}}],
    }
    found = [{"set": {"name": name, "elem": elem}} for name, elem in sets.items()]
    return json.dumps({"nftables": [{"table": {"name": "oar_lxc"}}, *found]})


def test_nothing_is_left_where_there_is_nothing(node: Path) -> None:
    left = find(node)
    assert not left
    assert str(left) == "nothing"


def test_what_could_not_be_looked_at_in_time_is_not_called_gone(node: Path) -> None:
    left = find_leftovers(belongings(node, Deadline.after(0)))
    assert left
    assert "not known: its processes: the time was over before all processes" in str(left)
    assert "not known: what its ids left in directories of all users: the time" in str(left)


def test_what_was_never_looked_at_is_not_called_gone(node: Path) -> None:
    """As where a step failed before, of whatever it died."""
    job = belongings(node, Deadline.after(0))
    killing = Killing(job)
    killing.kill()
    left = find_leftovers(
        job.until(NEVER),
        litter=Litter(job.whose, Deadline.after(0), places=()),
        holders=[killing.unknown],
    )
    assert (len(left.holders), len(left.litter)) == (1, 1)
    assert left
    assert "they were not looked at" in str(left)
    assert "nothing was looked at" in str(left)


def test_a_directory_that_cannot_be_read_hides_nothing_in_silence(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.symlink_to(place)  # ELOOP, as root may read all else
    litter = Litter(Whose(-1, FIRST), Deadline.after(60), places=(place, tmp_path))
    with pytest.raises(OSError, match="symbolic links"):
        litter.remove()
    assert "symbolic links" in litter.unknown


def test_litter_takes_no_memory_by_its_depth_and_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths of 600 KB, of 3,000 files, took a GB of root's."""
    deepest = tmp_path.joinpath(*["d" * 50] * 40)
    deepest.mkdir(parents=True)
    for number in range(20):
        (deepest / f"file{number}").touch()
    job = Whose(-1, os.geteuid() or FIRST)
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", str(FIRST), str(tmp_path)], check=True)
    litter = Litter(job, NEVER, places=(tmp_path,))
    litter.look()
    assert len(litter.files) > 20
    assert max(map(len, litter.files)) < 51 * 25 + len(str(tmp_path))
    assert any(path.endswith("/file19") for path in litter.files)
    monkeypatch.setattr(litter_module, "MOST_FOUND", 7)
    litter.look()
    assert (len(litter.files), litter.unknown) == (7, "")


def test_where_no_cgroups_are_mounted_none_are_called_gone(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (job_cgroups, leftovers):
        monkeypatch.setattr(module, "hierarchies", list)
    assert "no cgroup file system is mounted" in str(find(node))


def test_the_traces_of_another_job_are_not_this_ones(node: Path) -> None:
    (node / "jobs/421").mkdir()
    (node / "records/421.json").touch()
    (node / "net/olb421").mkdir()
    (node / "cgroup/oar/alice_421/lxc").mkdir(parents=True)
    (node / "elements").write_text(listing(421))
    assert not find(node)


def test_every_trace_is_left(
    node: Path,
    spawn: Callable[[Sequence[str]], Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = spawn(["sleep", "60"])
    lxc = node / "cgroup/oar/alice_42/lxc"
    lxc.mkdir(parents=True)
    inside = {process.pid: "4:cpuset:/oar/alice_42/lxc/deep\n"}
    monkeypatch.setattr(processes, "_cgroups_of", lambda pid, threads: inside.get(pid, ""))
    (node / "jobs/42").mkdir()
    (node / "records/42.json").touch()
    (node / "net/olb42/brif/vethX").mkdir(parents=True)
    (node / "net/olv42").mkdir()
    (node / "elements").write_text(listing(42))
    left = find(node)
    assert left
    assert left.processes == [process.pid]
    assert left.cgroups == [str(lxc)]
    assert left.links == ["vethX", "olv42", "olb42"]
    assert left.files == [str(node / "jobs/42"), str(node / "records/42.json")]
    assert left.rules == [
        'nft owners "olb42" . 2001',
        "nft peers 10.0.0.2 . 10752",
        'nft connections "olb42"',
    ]


def test_a_packet_filter_that_cannot_be_read_is_not_taken_for_an_empty_one(node: Path) -> None:
    add_program(node / "bin", "nft", "echo netlink: Operation not permitted >&2; exit 1")
    assert "Operation not permitted" in find(node).rules[0]
    add_program(node / "bin", "nft", "echo Error: No such file or directory >&2; exit 1")
    assert find(node).rules == []


def test_the_record_is_left_or_not_as_asked(node: Path) -> None:
    (node / "records/42.json").touch()
    assert find(node).files == [str(node / "records/42.json")]
    assert not find(node, inert=False)


def test_a_dangling_link_in_place_of_the_directory_is_left(node: Path) -> None:
    (node / "jobs/42").symlink_to("nowhere")
    assert find(node).files == [str(node / "jobs/42")]


def test_a_person_is_told_kinds_numbers_and_examples() -> None:
    left = Leftovers(processes=list(range(10, 17)), links=["olb42"])
    assert str(left) == "7 processes (10, 11, 12, 13, 14, …); 1 links (olb42)"


def test_links_are_found_by_the_bridge_they_are_plugged_into(node: Path) -> None:
    layout = JobLayout(42, node)
    assert bridge.job_links(layout) == []
    (node / "net/olb42/brif").mkdir(parents=True)
    (node / "net/olb42/brif/olv42").mkdir()
    (node / "net/olv42").mkdir()
    (node / "net/veth9").mkdir()
    assert bridge.job_links(layout) == ["olv42", "olb42"]
    (node / "net/olb42/brif/veth9").mkdir()
    assert bridge.job_links(layout) == ["veth9", "olv42", "olb42"]


WHY = "the time was over"


@pytest.mark.parametrize("left", [Leftovers(holders=[WHY]), Leftovers(litter=[WHY])])
def test_what_a_user_can_keep_from_being_known_is_left_and_no_failure(left: Leftovers) -> None:
    assert left
    assert not left.fails
    assert str(left) == "not known: the time was over"
    assert replace(left, links=["olb42"]).fails


def test_devices_that_a_busy_kernel_left_are_told_and_no_failure() -> None:
    left = Leftovers(links=["olb42"], busy=["the kernel was busy"])
    assert left
    assert not left.fails
    assert str(left) == "1 links (olb42); the kernel was busy"
    assert Leftovers(links=["olb42"]).fails
    assert replace(left, processes=[7]).fails


def test_a_name_of_a_file_looks_like_no_line_of_ours() -> None:
    left = Leftovers(files=["/tmp/x\nfailed: job 1 of bob: \x1b[2J"])
    assert str(left) == "1 files (/tmp/x?failed: job 1 of bob: ?[2J)"
