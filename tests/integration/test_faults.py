"""Whatever is wrong with a node, a job is destroyed, and what is wrong is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from oar_lxc.linux.node_log import LOG
from oar_lxc.linux.run import Result, run
from oar_lxc.model.idspans import LOWEST as FIRST
from oar_lxc.model.layout import CONFIG, STATE, JobLayout
from oar_lxc.root.files import JOBS_LOCK, LOCK
from oar_lxc.root.record import Record, read_record, this_boot
from tests.integration.conftest import left, published
from tests.integration.nodes import in_cgroups, instead, oar_cgroups
from tests.pretend import CGROUPS, PYTHON, PretendJob, checkout

SECONDS = 25.0  # that a destroy may take here at most, a user database that hangs included


def destroy(job: PretendJob, *arguments: str, before: Sequence[str] = ()) -> Result:
    """Run the root side's destroy for a job, in a world of its own where one is given.

    Args:
        job: the job.
        arguments: more options.
        before: a program that becomes it, with its arguments.
    """
    argv = [*before, PYTHON, "-IS", str(checkout() / "oar-lxc-node"), "destroy"]
    argv += ["--job", str(job.id), "--user", job.user, "--cgroup", job.cgroup, *arguments]
    return run(argv, check=False, timeout=SECONDS)


@pytest.fixture
def busy(job: PretendJob) -> Iterator[PretendJob]:
    """Return a job with a process in its cgroups."""
    with in_cgroups(job, "sleep", "600") as process:
        group = CGROUPS / "freezer" / job.cgroup[1:] / "lxc/cgroup.procs"
        while str(process.pid) not in group.read_text().split():
            assert process.poll() is None
            time.sleep(0.01)
        yield job
        process.kill()


def assert_all_gone(job: PretendJob, first_id: int, but: Sequence[str] = ()) -> None:
    """Nothing may be left but OAR's own cgroups, and what could not be destroyed."""
    found = left(job, first_id)
    assert {kind for kind in found if kind != "cgroups"} == set(but), found
    assert set(found.get("cgroups", [])) <= set(oar_cgroups(job))


KINDS = ("missing", "empty", "binary", "huge", "directory", "fifo", "link", "another's")
PLACES: dict[str, Callable[[JobLayout], Path]] = {
    "record": lambda layout: layout.record,
    "published": lambda layout: layout.published,
    "ranges": lambda layout: STATE / "ranges.json",
    "trash": lambda layout: layout.trash,
    "lock": lambda layout: LOCK,
    "lock of jobs": lambda layout: JOBS_LOCK,
    "log": lambda layout: LOG,
}
CASES = [
    *(("record", kind) for kind in KINDS),
    *(("published", kind) for kind in ("missing", "directory", "fifo")),
    *(("ranges", kind) for kind in ("missing", "binary", "huge", "directory", "fifo")),
    *(("trash", kind) for kind in ("empty", "fifo", "link")),
    *(
        (place, kind)
        for place in ("lock", "lock of jobs")
        for kind in ("directory", "fifo", "link")
    ),
    *(("log", kind) for kind in ("directory", "fifo", "link")),
]


@pytest.mark.parametrize(("place", "kind"), CASES)
def test_a_job_is_destroyed_whatever_is_in_the_place_of_a_file(
    busy: PretendJob, place: str, kind: str
) -> None:
    first_id = published(busy).first_id
    with instead(PLACES[place](JobLayout(busy.id)), kind):
        done = destroy(busy)
        record = JobLayout(busy.id).record
        assert not os.path.lexists(record)
    assert (done.status, done.stderr) == (0, "")
    (STATE / "records" / f".{busy.id}.json.kept-by-test").unlink(missing_ok=True)
    JobLayout(busy.id).record.unlink(missing_ok=True)
    shutil.rmtree(JobLayout(busy.id).directory, ignore_errors=True)
    assert_all_gone(busy, first_id)


@pytest.mark.parametrize("kind", ["wrong", *(kind for kind in KINDS if kind != "missing")])
def test_a_wrong_configuration_is_said_and_a_job_is_destroyed(
    busy: PretendJob, unprepared: PretendJob, kind: str
) -> None:
    first_id = published(busy).first_id
    with instead(CONFIG, kind):
        refused = unprepared.node_side(
            "prepare", "--node", busy.node, "--nodes", busy.node, check=False
        )
        reaped = run(
            [PYTHON, "-IS", str(checkout() / "oar-lxc-node"), "reap", "--ended", str(busy.id),
             "--grace", "0"], check=False, timeout=60,
        )  # fmt: skip
        done = destroy(unprepared)
    assert_all_gone(busy, first_id)
    assert f"destroyed: job {busy.id}" in reaped.stdout
    assert (reaped.status, done.status) == (0, 0)
    if kind != "empty":
        for result in (refused, reaped, done):
            assert f"{CONFIG}: " in result.stderr
        assert refused.status == 1
        assert left(unprepared, 0) == {"cgroups": oar_cgroups(unprepared)}
        assert '"instead": "no containers"' in LOG.read_text()


# A mount namespace of its own, so that nobody else is harmed; what is unmounted there goes here
# too when its directory is removed.
WORLD = ("unshare", "--mount", "--propagation", "slave", "sh", "-c")
WORLDS = {
    "users hang": 'mkfifo {tmp}/fifo; mount --bind {tmp}/fifo /etc/passwd; exec "$@"',
    "run is full and read-only": 'mount -t tmpfs -o ro none /run; exec "$@"',
    "the log is full": 'mount --bind /dev/full /var/log/oar-lxc.log; exec "$@"',
    "the directory is gone": 'mkdir {tmp}/gone; cd {tmp}/gone; rmdir {tmp}/gone; exec "$@"',
    "closed streams": 'exec "$@" <&- >&- 2>&-',
    "closed input": 'exec "$@" <&-',
    "full output": 'exec "$@" >/dev/full 2>/dev/full',
    "umask": 'umask 777; exec "$@"',
    "no file may grow": 'ulimit -S -f 0; exec "$@"',
    "few files": 'ulimit -S -n 12; exec "$@"',
    "children are not told of": "trap '' CHLD; exec \"$@\"",
    "Python's variables": 'PYTHONHOME=/x PYTHONPATH={tmp} PYTHONIOENCODING=x exec "$@"',
    "no variables": 'exec env -i "$@"',
    "another PATH": 'PATH={tmp} exec "$@"',
}


@pytest.mark.parametrize("world", WORLDS)
def test_a_job_is_destroyed_in_whatever_world_its_caller_lives(
    busy: PretendJob, tmp_path: Path, world: str
) -> None:
    first_id = published(busy).first_id
    done = destroy(busy, before=[*WORLD, WORLDS[world].format(tmp=tmp_path), "sh"])
    assert (done.status, done.stderr) == (0, "")
    assert_all_gone(busy, first_id)


# What a name service cache that hangs is to whoever asks it: a socket that nobody answers at.
SILENT_CACHE = """
import os, socket, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
os.mkdir("/run/nscd")
cache = socket.socket(socket.AF_UNIX)
cache.bind("/run/nscd/socket")
cache.listen(100)
sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""
SILENT = {
    "users hang": ["sh", "-c", WORLDS["users hang"], "sh"],
    "cache hangs": [PYTHON, "-c", SILENT_CACHE],
}


@pytest.mark.parametrize("kind", SILENT)
@pytest.mark.parametrize("command", ["prepare", "destroy", "reap"])
def test_a_user_database_that_is_silent_holds_no_command_up(
    busy: PretendJob, unprepared: PretendJob, tmp_path: Path, command: str, kind: str
) -> None:
    first_id = published(busy).first_id
    words = [word.format(tmp=tmp_path) if "mkfifo" in word else word for word in SILENT[kind]]
    argv = [*WORLD[:-2], *words, PYTHON, "-IS", str(checkout() / "oar-lxc-node"), command]
    if command == "reap":
        done = run([*argv, "--ended", str(busy.id), "--grace", "0"], check=False, timeout=SECONDS)
        assert f"destroyed: job {busy.id}" in done.stdout
        assert left(busy, first_id) == {}
        return
    job = busy if command == "destroy" else unprepared
    argv += ["--job", str(job.id), "--user", job.user, "--cgroup", job.cgroup]
    if command == "destroy":
        done = run(argv, check=False, timeout=SECONDS)
        assert (done.status, done.stderr) == (0, "")
        assert_all_gone(job, first_id)
        return
    argv += ["--node", job.node, "--nodes", job.node]
    done = run(argv, check=False, timeout=SECONDS)
    if kind == "cache hangs":  # the C library asks whom that would have asked
        assert (done.status, done.stderr) == (0, "")
        assert published(job).state == "ready"
    else:
        assert done.status == 1
        assert f"to look user {job.user} up took longer than" in done.stderr
        assert left(job, 0) == {"cgroups": oar_cgroups(job)}


def test_without_a_way_to_remove_devices_all_else_is_destroyed_and_they_are_said(
    busy: PretendJob,
) -> None:
    first_id = published(busy).first_id
    script = 'mount --bind /dev/null "$(readlink -f "$(command -v ip)")"; exec "$@"'
    done = destroy(busy, before=[*WORLD, script, "sh"])
    assert done.status == 1
    assert f"olb{busy.id}" in done.stderr
    assert_all_gone(busy, first_id, ["links", "files"])  # the record, for the reaper
    assert destroy(busy).status == 0


def test_where_no_cgroups_are_mounted_processes_die_and_it_is_said_that_they_cannot_be_seen(
    busy: PretendJob,
) -> None:
    first_id = published(busy).first_id
    script = (
        'umount -R /sys/fs/cgroup && umount -R -q /dev/cpuset /dev/oar_cgroups_links; exec "$@"'
    )
    done = destroy(busy, before=[*WORLD, script, "sh"])
    assert done.status == 3
    assert "no cgroup file system is mounted" in done.stderr
    assert "processes" not in left(busy, first_id)
    assert destroy(busy).status == 0
    assert_all_gone(busy, first_id)


def test_a_reaper_that_cannot_read_the_packet_filter_does_not_say_that_all_is_well() -> None:
    script = 'mount --bind /bin/false "$(readlink -f "$(command -v nft)")"; exec "$@"'
    argv = [*WORLD, script, "sh", PYTHON, "-IS", str(checkout() / "oar-lxc-node"), "reap"]
    done = run(argv, check=False)
    assert done.status == 1
    assert (
        "there may be more jobs than were found: the packet filter cannot be read" in done.stderr
    )


@pytest.mark.parametrize("cgroup", ["/../x", "/oar cpus/x_1", "x"])
def test_a_hook_with_a_wrong_cgroup_destroys_by_the_record(busy: PretendJob, cgroup: str) -> None:
    first_id = published(busy).first_id
    done = destroy(busy, "--layer", "stanza", f"--cgroup={cgroup}")
    assert done.status == 0
    assert "is not OAR's cgroup" in done.stderr
    assert_all_gone(busy, first_id)


def test_a_user_who_is_gone_from_the_database_is_known_by_what_root_gave_them(
    busy: PretendJob, tmp_path: Path
) -> None:
    outside = busy.start(["sleep", "600"])  # in OAR's own cgroup of the job
    first_id = published(busy).first_id
    script = f"grep -v ^{busy.user}: /etc/passwd >{tmp_path}/passwd; "
    script += f'mount --bind {tmp_path}/passwd /etc/passwd; exec "$@"'
    done = destroy(busy, before=[*WORLD, script, "sh"])
    assert (done.status, done.stderr) == (0, "")
    assert outside.wait(5) == -9
    outside.communicate()
    assert_all_gone(busy, first_id)


TRACER = """
import ctypes, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
if libc.ptrace(0x4206, int(sys.argv[1]), None, 1 << 6):  # PTRACE_SEIZE, PTRACE_O_TRACEEXIT
    sys.exit(ctypes.get_errno())
print(flush=True)
signal.pause()
"""


def test_what_oar_could_not_clean_goes_with_the_administrators_destroy(job: PretendJob) -> None:
    """The stanza ends with status 3 where cgroups are left, and then OAR cleans nothing."""
    first_id = published(job).first_id
    oarexec = subprocess.Popen(["sleep", "600"])  # root's, in OAR's own cgroup
    (CGROUPS / "freezer" / job.cgroup[1:] / "cgroup.procs").write_text(str(oarexec.pid))
    held = in_cgroups(job, "sleep", "600")
    while "sleep" not in Path(f"/proc/{held.pid}/comm").read_text():
        time.sleep(0.01)
    # Root's own tracer: no user's process, which would be killed.
    tracer = subprocess.Popen([PYTHON, "-c", TRACER, str(held.pid)], stdout=subprocess.PIPE)
    assert tracer.stdout is not None
    assert tracer.stdout.readline()
    try:
        assert destroy(job, "--layer", "stanza", "--deadline", "3").status == 3
        record = read_record(JobLayout(job.id).record)
        assert record is not None
        assert record.waits
    finally:
        tracer.kill()
        tracer.communicate()
    assert held.wait(10) == -9
    held.communicate()
    assert destroy(job).status == 0
    assert left(job, first_id) == {}
    assert oarexec.wait(5) == -9


def test_an_administrators_destroy_of_a_job_that_runs_leaves_oars_own_alone(
    job: PretendJob,
) -> None:
    oarexec = subprocess.Popen(["sleep", "600"])
    (CGROUPS / "freezer" / job.cgroup[1:] / "cgroup.procs").write_text(str(oarexec.pid))
    assert destroy(job).status == 0
    assert oarexec.poll() is None
    oarexec.kill()
    oarexec.wait()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """Return a directory on a file system without a free inode, once ``fill`` in it is called."""
    path = tmp_path / "full"
    path.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=40", "none", str(path)])
    yield path
    run(["umount", str(path)])


def fill(path: Path) -> None:
    number = 0
    while True:
        try:
            (path / f"fill{number}").touch()
        except OSError:
            break
        number += 1
    with pytest.raises(OSError, match="No space left"):
        (path / "more").touch()


def test_the_end_of_a_job_is_noted_where_no_inode_is_free(full: Path) -> None:
    layout = JobLayout(42, full)
    layout.record.parent.mkdir()
    Record(42, "alice", this_boot(), time.time(), FIRST, "").write(layout)
    fill(full)
    record = read_record(layout.record)
    assert record is not None
    record.end(layout, 5.0)
    ended = read_record(layout.record)
    assert ended is not None
    assert ended.ended == 5.0
