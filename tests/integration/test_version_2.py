"""Jobs that systemd has placed, on a node with cgroup version 2 alone."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oar_lxc.container.limits import oom_kills
from oar_lxc.linux.run import run
from oar_lxc.model.layout import JobLayout
from oar_lxc.oar.paths import CPUSET
from tests import kernel
from tests.integration.attacks import attack, bystander, lives
from tests.integration.conftest import left, next_id, published
from tests.integration.jobs import Running, close, start_script, write_spec
from tests.integration.nodes import in_cgroups, node_side_until, oar_cgroups
from tests.pretend import MANAGER, PYTHON, PretendJob, checkout, pretend_job

MEMORY = 256 << 20
SPEC = """
wait = "boot"
[[group]]
name = "vm"
per_core = true
memory = "256M"
processes = 120
"""


def cgroup(job: PretendJob) -> Path:
    """Return the delegated cgroup of a job."""
    (found,) = published(job).cgroups
    return Path(found)


def service(job: PretendJob) -> str:
    return f"oar-lxc-{job.id}.service"


def show(unit: str, *names: str) -> list[str]:
    """Return properties of one of systemd's units."""
    argv = ["systemctl", "show", unit, *(f"--property={name}" for name in names)]
    told = dict(line.split("=", 1) for line in run(argv).stdout.splitlines())
    return [told[name] for name in names]


def manager(method: str, *words: str) -> int:
    return run(["busctl", "call", *MANAGER, method, *words], check=False).status


def holder(job: PretendJob) -> int:
    return int((cgroup(job) / "holder/cgroup.procs").read_text())


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def destroyed(job: PretendJob, first_id: int, *oars: int) -> None:
    """Destroy a job; nothing but OAR's own slice and processes may be left."""
    assert job.destroy().status == 0
    found = left(job, first_id)
    assert found.pop("cgroups") == oar_cgroups(job)
    assert service(job) not in found.pop("units")
    assert [int(line.split()[0]) for line in found.pop("processes", [])] == [*oars]
    assert found == {}


def uid(job: PretendJob) -> int:
    return pwd.getpwnam(job.user).pw_uid


def test_systemd_delegates_a_cgroup_in_oars_slice_to_the_user(job: PretendJob) -> None:
    told, path = published(job), cgroup(job)
    assert (told.placement, told.unit, told.in_cpuset) == ("systemd", service(job), True)
    assert path == job.slice_path / service(job)
    assert json.loads(JobLayout(job.id).record.read_text())["placement"] == "systemd"
    names = ("Slice", "User", "Delegate", "CollectMode", "ActiveState")
    wanted = [job.slice, str(uid(job)), "yes", "inactive-or-failed", "active"]
    assert show(service(job), *names) == wanted
    for place in (path, path / "agent"):
        files = ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads")
        for status in (os.stat(place / name) for name in files):
            assert (status.st_uid, status.st_gid) == (uid(job), told.first_id)
    assert {"cpuset", "cpu", "memory", "pids"} <= {
        *(path / "agent/cgroup.controllers").read_text().split()
    }
    assert (path / "cpuset.cpus.effective").read_text().strip() == job.cpus
    assert kernel.read(f"/proc/{holder(job)}/status").split("Uid:\t")[1].split()[0] == "0"


def test_prepare_may_run_again(job: PretendJob) -> None:
    before = holder(job), published(job).cgroups
    job.prepare()
    assert (holder(job), published(job).cgroups) == before


@pytest.fixture(scope="module")
def running(user: str) -> Iterator[Running]:
    """Return a job with a container for each of its two cores."""
    with pretend_job(next_id(), user, "0-1") as job:
        first_id = published(job).first_id
        running = start_script(job, "--spec", write_spec(job, SPEC))
        try:
            yield running
            assert running.process.poll() is None
        finally:
            close(running.process)
    assert left(job, first_id) == {}


def init(running: Running, name: str) -> int:
    return int(running.containers()[name]["pid"])


def limits(running: Running, name: str) -> Path:
    return cgroup(running.job) / name


def test_a_container_has_its_own_cpu_and_its_limits(running: Running) -> None:
    found = running.containers()
    assert [found[name]["cpus"] for name in ("vm1", "vm2")] == ["0", "1"]
    assert running.inside("vm2", "nproc") == "1"
    own = limits(running, "vm2")
    assert (own / "memory.max").read_text() == f"{MEMORY}\n"
    assert (own / "pids.max").read_text() == "120\n"
    assert (own / "cpuset.cpus.effective").read_text() == "1\n"
    shown = json.loads(running.cli("show", "vm2", "--json").stdout)
    assert (shown["memory_limit"], shown["processes_limit"]) == (MEMORY, 120)
    assert shown["cpu_seconds"] > 0


def test_systemd_inside_has_cgroups_of_its_own(running: Running) -> None:
    assert running.inside("vm1", "cat /proc/1/cgroup") == "0::/init.scope"
    assert "memory" in running.inside("vm1", "cat /sys/fs/cgroup/cgroup.subtree_control")
    assert running.inside("vm1", "systemctl is-system-running --wait || :") == "running"


# What it sees are files of cgroups below the limits: some can be written, as lxcfs takes
# the node's "nsdelegate" away when it starts.
LIFT = """
mkdir -p /run/lift; mount -t cgroup2 none /run/lift
for place in /sys/fs/cgroup /run/lift; do
    echo max > $place/memory.max; echo max > $place/pids.max
    echo max > $place/cpu.max; echo 0-1 > $place/cpuset.cpus
done
find /sys/fs/cgroup /run/lift -name 'vm[12]*'
umount /run/lift
"""


def test_root_inside_cannot_lift_the_limits(running: Running) -> None:
    assert running.cli("exec", "vm1", "--", "sh", "-c", LIFT).stdout == ""
    own = limits(running, "vm1")
    assert (own / "memory.max").read_text() == f"{MEMORY}\n"
    assert (own / "pids.max").read_text() == "120\n"
    assert (own / "cpuset.cpus.effective").read_text() == "0\n"
    line = "taskset -c 0-1 grep Cpus_allowed_list /proc/self/status | cut -f2"
    assert running.inside("vm1", line) == "0"


def test_limits_hold_after_a_boot_from_inside(running: Running) -> None:
    before = init(running, "vm1")
    running.cli("exec", "vm1", "--", "reboot")
    wait_until(lambda: init(running, "vm1") not in (0, before))
    test_root_inside_cannot_lift_the_limits(running)
    text = kernel.read(f"/proc/{init(running, 'vm1')}/cgroup")
    assert f"/{service(running.job)}/vm1/" in text


def test_a_fork_bomb_and_too_much_memory_stay_inside(running: Running) -> None:
    cgroups = published(running.job).cgroups
    bomb = "bomb() { bomb | bomb & }; bomb; sleep 1"
    assert "Cannot fork" in running.cli("exec", "vm1", "--", "sh", "-c", bomb).stderr
    before, others = oom_kills(cgroups, "vm2") or 0, oom_kills(cgroups, "vm1")
    assert running.cli("exec", "vm2", "--", "sh", "-c", "tail /dev/zero").status == 137
    assert (oom_kills(cgroups, "vm2") or 0) > before
    assert oom_kills(cgroups, "vm1") == others
    assert int((limits(running, "vm2") / "memory.peak").read_text()) <= MEMORY


def test_a_container_is_frozen_and_thawed(running: Running) -> None:
    assert running.cli("freeze", "vm2").status == 0
    assert running.containers()["vm2"]["state"] == "FROZEN"
    assert running.cli("unfreeze", "vm2").status == 0
    assert running.inside("vm2", "echo well") == "well"


def test_a_container_is_stopped_and_started_within_its_limits(running: Running) -> None:
    for command in ("stop", "start", "restart"):
        assert running.cli(command, "vm2").status == 0
    assert running.inside("vm2", "echo well") == "well"
    assert (limits(running, "vm2") / "memory.max").read_text() == f"{MEMORY}\n"
    text = kernel.read(f"/proc/{init(running, 'vm2')}/cgroup")
    assert f"/{service(running.job)}/vm2/start-" in text


def test_a_terminal_of_a_container_is_within_its_limits(running: Running) -> None:
    line = f"{PYTHON} -m oar_lxc.cli.main exec vm1 -- sh -c 'tty; grep -c . /proc/self/cgroup'"
    done = running.job.run(["script", "--quiet", "--return", "--command", line, "/dev/null"])
    terminal, cgroups = done.stdout.split()
    assert (done.status, terminal.startswith("/dev/pts/"), cgroups) == (0, True, "1")


def test_oar_suspends_and_resumes_the_job_with_its_containers(running: Running) -> None:
    job = running.job
    assert manager("FreezeUnit", "s", job.slice) == 0
    events = cgroup(job) / "vm1/cgroup.events"
    wait_until(lambda: "frozen 1" in events.read_text())
    assert manager("ThawUnit", "s", job.slice) == 0
    assert running.inside("vm1", "echo well") == "well"


def test_a_user_who_kills_all_that_is_hers_kills_no_container(running: Running) -> None:
    job = running.job
    before = init(running, "vm1"), holder(job)
    kill = f"import os\nos.kill({before[1]}, 9)"
    assert "PermissionError" in job.run([PYTHON, "-c", kill]).stderr
    with in_cgroups(job, "sleep", "600") as process:
        others = f"import os\nfor pid in ({process.pid}, {before[1]}): os.kill(pid, 9)"
        job.run([PYTHON, "-c", others])
        assert process.wait(10) == -9
    assert (init(running, "vm1"), holder(job)) == before


# Each is a way to a process of OAR's, or out of the job; what worked is told.
ESCAPES = """
oars, others, own, slice_path, unit = sys.argv[1:6]
worked, tried = [], 0
def attempt(path, text):
    global tried
    tried += 1
    try:
        with open(path, "w") as file: file.write(text)
    except OSError:
        return
    worked.append(f"{path} {text}")
os.makedirs(own + "/mine", exist_ok=True)
for pid in (oars, others, "1"):
    for place in (own + "/agent", own + "/mine"):
        attempt(place + "/cgroup.procs", pid)
        attempt(place + "/cgroup.threads", pid)
for road in (slice_path, os.path.dirname(slice_path), *(
        entry.path for entry in os.scandir(slice_path) if entry.is_dir() and entry.name != unit)):
    for name, text in {
        "cgroup.procs": str(os.getpid()), "cgroup.freeze": "1", "cgroup.kill": "1",
        "cgroup.subtree_control": "-memory", "memory.max": "1", "pids.max": "0", "cpu.max": "1000",
        "cpuset.cpus": "0-1",
    }.items():
        attempt(f"{road}/{name}", text)
for name in ("memory.max", "pids.max", "cpuset.cpus", "cpu.max", "cgroup.freeze", "cgroup.kill"):
    attempt(f"{own}/{name}", "1")
os.rmdir(own + "/mine")
import subprocess
for pid in (oars, others, "1"):
    tried += 1
    argv = ["busctl", "call", *"MANAGER".split(), "AttachProcessesToUnit", "ssau", unit]
    if subprocess.run([*argv, "/agent", "1", pid], capture_output=True).returncode == 0:
        worked.append(f"attach {pid}")
for method in ("StopUnit", "RestartUnit"):
    for name in (unit, os.path.basename(slice_path)):
        tried += 1
        argv = ["busctl", "call", "--allow-interactive-authorization=no", *"MANAGER".split()]
        argv += [method, "ss", name, "fail"]
        if subprocess.run(argv, capture_output=True).returncode == 0:
            worked.append(f"{method} {name}")
tell(tried, *worked)
""".replace("MANAGER", " ".join(MANAGER))


def test_oars_processes_of_the_job_are_out_of_the_users_reach(
    job: PretendJob, other_user: str
) -> None:
    scope = f"{job.slice.removesuffix('.slice')}-p99999.scope"
    argv = ["systemd-run", "--quiet", "--scope", "--collect", f"--unit={scope}"]
    with subprocess.Popen([*argv, f"--slice={job.slice}", "sleep", "600"]) as oars:
        wait_until(lambda: scope in kernel.read(f"/proc/{oars.pid}/cgroup"))
        try:
            with bystander(other_user) as other:
                first_id = published(job).first_id
                paths = [str(cgroup(job)), str(job.slice_path), service(job)]
                with attack(job, ESCAPES, str(oars.pid), str(other), *paths) as (_, line):
                    tried, *worked = line.split()
                    assert worked == []
                    assert int(tried) > 30
                assert scope in kernel.read(f"/proc/{oars.pid}/cgroup")
                destroyed(job, first_id, oars.pid)
                assert lives(oars.pid)
        finally:
            oars.kill()


def test_another_user_does_not_enter(job: PretendJob, other_user: str) -> None:
    code = f"from oar_lxc.linux.cgroups import enter_cgroups\nenter_cgroups([], {service(job)!r})"
    become = ["setpriv", f"--reuid={other_user}", f"--regid={other_user}", "--clear-groups"]
    argv = [*become, "env", f"PYTHONPATH={checkout()}", PYTHON, "-c", code]
    done = run(argv, check=False)
    assert done.status != 0
    assert "cannot enter systemd's unit" in done.stderr


SWARM = """
tell(os.getpid())
if os.fork() == 0:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if os.fork(): os._exit(0)
os._exit(0)
"""


def test_what_escapes_each_search_by_forking_is_destroyed(job: PretendJob) -> None:
    first_id = published(job).first_id
    with attack(job, SWARM):
        destroyed(job, first_id)


def test_a_hook_that_oar_runs_in_the_jobs_slice_destroys_it(job: PretendJob) -> None:
    """As the epilogue; it freezes the slice for a moment, and must not stand still itself."""
    first_id = published(job).first_id
    scope = f"{job.slice.removesuffix('.slice')}-p99998"
    argv = ["systemd-run", "--quiet", "--scope", "--collect", f"--unit={scope}"]
    hook = [PYTHON, "-IS", str(checkout() / "oar-lxc-node"), "destroy", "--deadline", "20"]
    hook += ["--job", str(job.id), "--user", job.user, "--cgroup", job.cgroup]
    with attack(job, SWARM):
        done = run([*argv, f"--slice={job.slice}", *hook], check=False)
        assert (done.status, done.stderr) == (0, "")
        destroyed(job, first_id)


def test_what_runs_in_the_delegated_cgroup_is_destroyed(job: PretendJob) -> None:
    first_id = published(job).first_id
    with in_cgroups(job, "sleep", "600") as process:
        agent = cgroup(job) / "agent/cgroup.procs"
        wait_until(lambda: str(process.pid) in agent.read_text().split())
        destroyed(job, first_id)
        assert process.wait(10) == -9


def test_a_suspended_job_is_destroyed(job: PretendJob) -> None:
    first_id = published(job).first_id
    with in_cgroups(job, "sleep", "600") as process:
        wait_until(lambda: str(process.pid) in (cgroup(job) / "agent/cgroup.procs").read_text())
        assert manager("FreezeUnit", "s", job.slice) == 0
        destroyed(job, first_id)


def test_a_job_whose_service_failed_is_destroyed(job: PretendJob) -> None:
    first_id = published(job).first_id
    os.kill(holder(job), 9)
    wait_until(lambda: show(service(job), "ActiveState") != ["active"])
    destroyed(job, first_id)


STEPS = {
    "cgroups": "oar_lxc.root.units.start",
    "delegation": "oar_lxc.root.job_cgroups.os.chmod",
    "links": "oar_lxc.root.bridge.create",
}


@pytest.mark.parametrize("step", STEPS)
def test_a_prepare_that_is_killed_is_destroyed(unprepared: PretendJob, step: str) -> None:
    job = unprepared
    assert node_side_until(job, STEPS[step], "prepare", "--node", job.node, "--nodes", job.node)
    job.destroy()
    found = left(job, 0)
    assert (found.pop("cgroups"), found.pop("units")) == (oar_cgroups(job), [job.slice])
    assert found == {}


def reap() -> str:
    argv = [PYTHON, "-IS", str(checkout() / "oar-lxc-node"), "reap", "--grace", "0"]
    return run(argv, check=False).stdout


def test_the_reaper_leaves_a_running_job_alone_and_destroys_one_whose_slice_is_gone(
    job: PretendJob,
) -> None:
    first_id = published(job).first_id
    assert f"OAR's slice oar-u*-j{job.id}.slice exists" in reap()
    assert published(job).state == "ready"
    job.remove_cgroups()
    assert f"OAR's slice oar-u*-j{job.id}.slice is gone" in reap()
    # On a busy machine, not all that the user runs is looked at in time; the next run goes on.
    wait_until(lambda: not left(job, first_id) or not reap())


def test_the_reaper_removes_oars_slice_of_a_job_that_has_ended(job: PretendJob) -> None:
    first_id = published(job).first_id
    argv = [PYTHON, "-IS", str(checkout() / "oar-lxc-node"), "reap", "--grace", "0"]
    with in_cgroups(job, "sleep", "600"):
        run([*argv, "--ended", str(job.id)], check=False)
    wait_until(lambda: not left(job, first_id) or not reap())


def test_oar_keeps_the_jobs_key_until_the_jobs_end(unprepared: PretendJob, tmp_path: Path) -> None:
    job, key = unprepared, tmp_path / "key"
    key.write_text("KEY")
    nodes = ("--node", job.node, "--nodes", job.node)
    job.node_side("prepare", *nodes, "--job-key", str(key))
    assert (CPUSET / job.cgroup[1:]).is_dir()
    job.destroy()
    assert not (CPUSET / job.cgroup[1:]).exists()


def test_with_the_cpuset_off_the_service_is_in_a_slice_of_its_own(user: str) -> None:
    with pretend_job(next_id(), user, in_cpuset=False) as job:
        told = published(job)
        assert (told.placement, told.in_cpuset) == ("none", False)
        assert cgroup(job).parent.name == "oar-lxc.slice"
        running = start_script(job, "--wait", "boot")
        try:
            assert running.inside("vm1", "hostname") == "vm1"
        finally:
            close(running.process)
    assert left(job, told.first_id) == {}
