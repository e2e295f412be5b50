"""The root side destroys all that a job has, whatever its user did; an own reader tells."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oar_lxc.linux.process import owner
from oar_lxc.model.layout import STATE, JobLayout
from tests import kernel
from tests.integration.attacks import as_root_inside
from tests.integration.conftest import containers_of, left, published
from tests.integration.jobs import Running, close, start_script
from tests.integration.nodes import in_cgroups, node_side_killed_at, oar_cgroups
from tests.pretend import CGROUPS, CONTROLLERS, PYTHON, PretendJob, checkout


def python_in_cgroups(job: PretendJob, code: str) -> subprocess.Popen[str]:
    """Start a Python program so, and return when it has written a line."""
    process = in_cgroups(job, PYTHON, "-c", code)
    assert process.stdout is not None
    if not process.stdout.readline():
        raise AssertionError(process.communicate()[1])
    return process


def assert_destroyed(job: PretendJob, seconds: float = 20) -> None:
    """Destroy a job; nothing may be left but OAR's own cgroups, which OAR can then remove."""
    first_id = published(job).first_id
    begin = time.monotonic()
    assert job.destroy().status == 0
    assert time.monotonic() - begin < seconds
    assert left(job, first_id) == {"cgroups": oar_cgroups(job)}
    for path in oar_cgroups(job):
        assert not [x for x in Path(path).iterdir() if x.is_dir()]


@pytest.fixture
def running(job: PretendJob) -> Iterator[Running]:
    """Return a job with two containers that run."""
    running = start_script(job, "--per-node", "2", "--wait", "running")
    yield running
    close(running.process)


def test_running_containers_are_destroyed(running: Running) -> None:
    pids = [container["pid"] for container in running.containers().values()]
    assert_destroyed(running.job)
    assert all(kernel.is_dead(pid) for pid in pids)
    assert running.process.wait(5) != 0


def test_two_readers_find_the_inits_of_a_job(running: Running) -> None:
    job, first_id = running.job, published(running.job).first_id
    inits = {container["pid"] for container in running.containers().values()}
    assert inits <= set(kernel.find_by_psutil(job.id, first_id))
    seen = {int(word.split()[0]) for word in kernel.find_processes(job.id, job.user, first_id)}
    assert inits | {running.process.pid} <= seen


def test_what_a_killed_script_leaves_is_destroyed(running: Running) -> None:
    uid = Path(f"/proc/{running.process.pid}").stat().st_uid
    for pid in kernel.processes():
        try:
            if Path(f"/proc/{pid}").stat().st_uid == uid and pid != os.getpid():
                os.kill(pid, 9)
        except (FileNotFoundError, ProcessLookupError):
            continue
    assert_destroyed(running.job)


def test_destroying_twice_is_success(running: Running) -> None:
    assert_destroyed(running.job)
    assert running.job.destroy().status == 0


def test_destroying_what_never_was_is_success(unprepared: PretendJob) -> None:
    assert unprepared.destroy().status == 0


def lasting(job: PretendJob) -> dict[str, list[str]]:
    """Return what the kernel has of a job, but for what comes and goes while systems boot."""
    found = kernel.find_all(job.id, job.user, published(job).first_id)
    return {kind: found[kind] for kind in ("cgroups", "links", "files")}


def test_another_job_of_the_same_user_is_not_touched(
    make_job: Callable[[], PretendJob],
) -> None:
    first, second = make_job(), make_job()
    scripts = [start_script(job, "--wait", "running") for job in (first, second)]
    before = scripts[1].containers()
    table = lasting(second)
    try:
        assert_destroyed(first)
        assert scripts[1].containers() == before
        assert scripts[1].inside("vm1", "hostname") == "vm1"
        assert lasting(second) == table
        assert scripts[1].process.poll() is None
    finally:
        for script in scripts:
            close(script.process)


def test_a_frozen_container_is_destroyed(running: Running) -> None:
    group = CGROUPS / "freezer" / running.job.cgroup[1:] / "lxc/vm1/lxc.payload/freezer.state"
    group.write_text("FROZEN")
    assert group.read_text().strip() in ("FROZEN", "FREEZING")
    assert_destroyed(running.job)


def test_a_job_that_is_frozen_as_a_whole_is_destroyed(running: Running) -> None:
    # What a user can do in his own part; OAR's clean would wait for it without end.
    group = CGROUPS / "freezer" / running.job.cgroup[1:] / "lxc/freezer.state"
    group.write_text("FROZEN")
    assert_destroyed(running.job)


NESTED = """
import os, signal
fd = os.open({root!r}, os.O_RDONLY)
for _ in range({depth}):
    os.mkdir({name!r}, dir_fd=fd)
    below = os.open({name!r}, os.O_RDONLY, dir_fd=fd)
    os.close(fd)
    fd = below
ready_r, ready_w = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(ready_r)
    os.closerange(0, 3)
    os.close(ready_w)
    while True: signal.pause()
os.close(ready_w)
os.read(ready_r, 1)
procs = os.open("cgroup.procs", os.O_WRONLY, dir_fd=fd)
os.write(procs, str(pid).encode())
if "freezer" in {root!r}:
    state = os.open("freezer.state", os.O_WRONLY, dir_fd=fd)
    os.write(state, b"FROZEN")
print(pid, flush=True)
"""


@pytest.mark.parametrize(("depth", "name"), [(3, "a b\\n'"), (20, "x" * 250), (1500, "d")])
def test_nested_cgroups_are_destroyed_with_what_is_frozen_in_them(
    job: PretendJob, depth: int, name: str
) -> None:
    root = CGROUPS / "freezer" / job.cgroup[1:] / "lxc"
    code = NESTED.format(root=str(root), depth=depth, name=name)
    done = job.run([PYTHON, "-c", code])
    assert done.status == 0, done.stderr
    pid = int(done.stdout)
    assert not kernel.is_dead(pid)
    assert_destroyed(job)
    assert kernel.is_dead(pid)


def test_processes_that_ignore_signals_are_destroyed(job: PretendJob) -> None:
    code = (
        "import os, signal\n"
        "for n in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "    signal.signal(n, signal.SIG_IGN)\n"
        "print(flush=True)\n"
        "while True: signal.pause()\n"
    )
    processes = [python_in_cgroups(job, code) for _ in range(3)]
    assert_destroyed(job)
    for process in processes:
        assert process.wait(5) == -9
        close(process)


def test_processes_that_keep_forking_are_destroyed(job: PretendJob) -> None:
    code = (
        "import os, sys, time\n"
        "print(flush=True)\n"
        "for _ in range(8):\n"
        "    if os.fork() == 0: break\n"
        "while True:\n"
        "    try:\n"
        "        if os.fork() != 0: os._exit(0)\n"
        "    except OSError: pass\n"
        "    time.sleep(0.001)\n"
    )
    process = python_in_cgroups(job, code)
    time.sleep(0.2)
    assert_destroyed(job)
    close(process)


def test_processes_under_the_jobs_ids_are_destroyed_wherever_they_are(job: PretendJob) -> None:
    process = in_cgroups(job, *as_root_inside(job), "setsid", "sleep", "600")
    end = time.monotonic() + 30
    name = f"{job.user}_{job.id}"
    found: list[int] = []
    while not found and time.monotonic() < end:
        found = [
            pid
            for pid in kernel.processes()
            if f"/{name}" in kernel.read(f"/proc/{pid}/cgroup")
            and kernel.read(f"/proc/{pid}/cmdline") == "sleep\x00600\x00"
        ]
        time.sleep(0.01)
    (pid,) = found
    for line in kernel.read("/proc/self/mounts").splitlines():
        if line.split()[2] in ("cgroup", "cgroup2"):
            Path(line.split()[1], "cgroup.procs").write_text(str(pid))
    assert f"/{name}" not in kernel.read(f"/proc/{pid}/cgroup")
    assert_destroyed(job)
    assert kernel.is_dead(pid)
    close(process)


FILES = """
import os, sys
os.chdir(sys.argv[1])
os.mkdir("a 'b\\n\\"$(x)")
os.symlink("/etc", "directory")
os.symlink("/etc/passwd", "file")
os.symlink("loop", "loop")
os.mkfifo("fifo")
os.mkdir("closed")
open("closed/file", "w").close()
os.chmod("closed", 0)
open(b"\\xff\\xfe", "w").close()
fd = os.open(".", os.O_RDONLY)
for _ in range(3000):
    os.mkdir("d", dir_fd=fd)
    below = os.open("d", os.O_RDONLY, dir_fd=fd)
    os.close(fd)
    fd = below
"""


@pytest.mark.parametrize("name", ["containers", "private"])
def test_whatever_files_a_user_makes_are_destroyed_and_no_others(
    job: PretendJob, name: str
) -> None:
    done = job.run([PYTHON, "-c", FILES, str(JobLayout(job.id).directory / name)])
    assert done.status == 0, done.stderr
    assert_destroyed(job)
    assert Path("/etc/passwd").exists()


def test_files_of_containers_root_are_destroyed(running: Running) -> None:
    running.inside("vm1", "mkdir -p /srv/a/b && chmod 000 /srv/a && mknod /srv/p p && rm -r /opt")
    assert_destroyed(running.job)


def test_a_mount_in_the_jobs_directory_is_destroyed_and_what_is_mounted_is_kept(
    job: PretendJob, tmp_path: Path
) -> None:
    (tmp_path / "precious").touch()
    point = containers_of(job) / "mounted here"
    point.mkdir()
    subprocess.run(["mount", "--bind", str(tmp_path), str(point)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(point)], check=True)
    assert_destroyed(job)
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize("propagation", ["private", "slave"])
def test_mount_namespaces_of_others_hold_nothing_back(job: PretendJob, propagation: str) -> None:
    # Any service with a private /tmp, any other user's container: they have copies of all mounts.
    argv = ["unshare", "--mount", "--propagation", propagation, "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            assert kernel.find_mounts(job.id, job.user, 0)
            assert_destroyed(job)
        finally:
            other.kill()


MOUNTS = r"""
import os, subprocess, sys
for name in ("a\rb\rc", "x\v1\v2\v3\v4", "x\r1\v2\v0:3\v/\v{directory}/images", "x\n1 2 0:3 / y"):
    path = "/tmp/oar-lxc-test/" + name
    os.makedirs(path, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
print(flush=True)
sys.stdin.read(1) or os.execvp("sleep", ["sleep", "60"])
"""


def test_a_mount_table_that_a_user_made_up_confuses_nobody(
    job: PretendJob, other_user: str
) -> None:
    # In a namespace of his own, anybody mounts on any name.
    become = ["setpriv", "--reuid", other_user, "--regid", other_user, "--init-groups"]
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    private = ["sh", "-c", 'mount -t tmpfs none /tmp && exec "$@"', "sh"]
    code = MOUNTS.replace("{directory}", str(JobLayout(job.id).directory))
    with subprocess.Popen(
        [*become, *unshare, *private, PYTHON, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "\n"
            assert_destroyed(job)
        finally:
            other.kill()


def test_a_mount_that_another_user_forged_at_the_jobs_directory_is_not_the_jobs(
    job: PretendJob, other_user: str
) -> None:
    # In a namespace of his own he has a /var/lib of his own, and the job's directory in it.
    become = ["setpriv", "--reuid", other_user, "--regid", other_user, "--init-groups"]
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    directory = JobLayout(job.id).directory
    forge = f"mount -t tmpfs none /var/lib && mkdir -p {directory} && "
    forge += f"mount -t tmpfs none {directory} && echo && exec sleep 60"
    argv = [*become, *unshare, "sh", "-c", forge]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "\n"
            assert job.destroy().status == 0
            assert not directory.exists()
            assert not JobLayout(job.id).record.exists()
        finally:
            other.kill()


# Where a destroy can be cut off: before each of these has been done, in their order.
STEPS = {
    "processes": "oar_lxc.linux.pidfd.Handles.kill",
    "cgroups": "oar_lxc.root.job_cgroups.JobCgroups.remove",
    "links": "oar_lxc.root.bridge.remove",
    "revoke": "oar_lxc.root.packetfilter.revoke",
    "mounts": "oar_lxc.root.idmapped.unmount_under",
    "namespaces": "oar_lxc.root.job_namespaces.remove",
    "files": "oar_lxc.root.destroy.discard",
    "verify": "oar_lxc.root.destroy.find_leftovers",
}


@pytest.mark.parametrize("step", STEPS)
def test_a_destroy_that_is_killed_can_be_run_again(job: PretendJob, step: str) -> None:
    process = python_in_cgroups(job, "import signal; print(flush=True); signal.pause()")
    first_id = published(job).first_id
    try:
        node_side_killed_at(job, STEPS[step], "destroy")
        assert JobLayout(job.id).record.exists()
        assert job.destroy().status == 0
        assert left(job, first_id) == {"cgroups": oar_cgroups(job)}
    finally:
        close(process)


def _lost(record: Path) -> None:
    record.unlink()


def _truncated(record: Path) -> None:
    record.write_bytes(record.read_bytes()[:20])


def _garbage(record: Path) -> None:
    record.write_bytes(os.urandom(100))


def _wrong_ids(record: Path) -> None:
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "first_id": 0}))


def _wrong_types(record: Path) -> None:
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "oar_cgroup": 7, "first_id": "x"}))


@pytest.mark.parametrize("damage", [_lost, _truncated, _garbage, _wrong_ids, _wrong_types])
def test_a_damaged_record_leaks_nothing(running: Running, damage: Callable[[Path], None]) -> None:
    damage(JobLayout(running.job.id).record)
    assert_destroyed(running.job)


def test_a_monitor_that_is_killed_takes_its_container_along(running: Running) -> None:
    job, first_id = running.job, published(running.job).first_id
    mark = f"[lxc monitor] {containers_of(job)} "
    commands = {pid: kernel.read(f"/proc/{pid}/cmdline") for pid in kernel.processes()}
    monitors = [pid for pid, command in commands.items() if command.startswith(mark)]
    assert len(monitors) == 2
    for pid in monitors:
        os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 30
    in_range = range(first_id, first_id + kernel.ID_COUNT)
    while found := [pid for pid in kernel.processes() if owner(pid) in in_range]:
        assert time.monotonic() < end, found
        time.sleep(0.02)


def test_without_oars_cgroup_named_the_record_tells_it(running: Running) -> None:
    job, first_id = running.job, published(running.job).first_id
    argv = [PYTHON, "-m", "oar_lxc.root.main", "destroy", "--job", str(job.id), "--user", job.user]
    subprocess.run(argv, env={"PYTHONPATH": str(checkout())}, check=True)
    assert left(job, first_id) == {"cgroups": oar_cgroups(job)}


def test_what_is_left_is_told_before_and_not_after(running: Running) -> None:
    job = running.job
    before = job.node_side("leftovers", "--json", check=False)
    assert before.status == 1
    found = json.loads(before.stdout)
    assert f"olb{job.id}" in found["links"]
    assert [kind for kind, names in found.items() if not names] == ["ipc"]
    assert_destroyed(job)
    after = job.node_side("leftovers", check=False)
    assert (after.status, after.stdout) == (0, f"left of job {job.id}: nothing\n")


def reap(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYTHON, "-m", "oar_lxc.root.main", "reap", *arguments],
        env={**os.environ, "PYTHONPATH": str(checkout())},
        capture_output=True,
        text=True,
        check=False,
    )


def age(job: PretendJob, seconds: float) -> None:
    """Let a job have been prepared some time ago."""
    record = JobLayout(job.id).record
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "created": data["created"] - seconds}))


def test_the_reaper_destroys_a_dead_job_and_leaves_a_living_one_alone(
    make_job: Callable[[], PretendJob],
) -> None:
    dead, alive = make_job(), make_job()
    first_id = published(dead).first_id
    for job in (dead, alive):
        age(job, 1000)
    # As if OAR's clean had run without us, or the node had lost its hooks: the cgroup is gone, but
    # those of hierarchies that OAR does not know are there, and all else.
    for controller in CONTROLLERS:
        (CGROUPS / controller / dead.cgroup[1:] / "lxc").rmdir()
    dead.remove_cgroups()
    table = kernel.find_all(alive.id, alive.user, published(alive).first_id)

    told = reap("--dry-run").stdout
    assert f"would destroy: job {dead.id} of {dead.user}: " in told
    assert (
        f"left alone: job {alive.id} of {alive.user}: OAR's cgroup {alive.cgroup} exists" in told
    )
    assert published(dead).state == "ready"

    done = reap()
    assert f"destroyed: job {dead.id} of {dead.user}" in done.stdout
    assert left(dead, first_id) == {}
    assert kernel.find_all(alive.id, alive.user, published(alive).first_id) == table


def test_the_reaper_destroys_a_job_of_another_boot(job: PretendJob) -> None:
    first_id = published(job).first_id
    record = JobLayout(job.id).record
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "boot": "another"}))
    assert f"destroyed: job {job.id} of {job.user}: the node was booted" in reap().stdout
    assert left(job, first_id) == {}


def test_the_reaper_removes_oars_cgroup_too_of_a_job_that_oar_says_has_ended(
    make_job: Callable[[], PretendJob],
) -> None:
    dead, alive = make_job(), make_job()
    first_id = published(dead).first_id
    with dead.start(["sleep", "100"]) as orphan, alive.start(["sleep", "100"]) as innocent:
        try:
            said = reap("--ended", str(dead.id), "--grace", "0", "--json").stdout
            told = {one["job_id"]: (one["action"], one["why"]) for one in json.loads(said)}
            assert told[dead.id] == ("destroyed", "OAR says that it has ended")
            assert told[alive.id][0] == "left alone"
            assert orphan.wait(10) == -signal.SIGKILL
            assert innocent.poll() is None
        finally:
            innocent.kill()
    assert left(dead, first_id) == {}


def test_a_destroy_that_is_cut_off_leaves_word_for_the_reaper(job: PretendJob) -> None:
    first_id = published(job).first_id
    age(job, 1000)
    node_side_killed_at(job, STEPS["cgroups"], "destroy")
    assert "may be at work" in reap().stdout
    assert left(job, first_id)
    assert f"destroyed: job {job.id} of {job.user}: a hook was told" in reap("--grace", "0").stdout
    assert left(job, first_id) == {}


def test_state_is_not_kept_of_a_job_that_is_gone(job: PretendJob) -> None:
    assert_destroyed(job)
    names = os.listdir(STATE / "records") + os.listdir(STATE / "jobs")
    assert not [name for name in names if str(job.id) in name]
