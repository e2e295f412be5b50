"""The namespaces that root makes for a job, and what their owner and accidents do to them."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oar_lxc.model.layout import UPLINK_INSIDE, JobLayout
from tests import kernel
from tests.integration.attacks import PROLOGUE, assert_gone, bystander, in_network
from tests.integration.conftest import left, published
from tests.integration.nodes import node_side_killed_at
from tests.pretend import PYTHON, PretendJob, checkout

# The kernel's words for the owner of a user namespace.
OWNER = "import fcntl, sys; d = bytearray(4); fcntl.ioctl(open(sys.argv[1]), 0xB704, d)"
OWNER += "; print(int.from_bytes(d, 'little'))"


def files_of(job: PretendJob) -> tuple[Path, Path]:
    layout = JobLayout(job.id)
    return layout.user_namespace, layout.network_namespace


def assert_works(job: PretendJob) -> None:
    """The job's user is root in both namespaces, and the uplink is there."""
    assert published(job).state == "ready"
    done = job.run([*in_network(job), "ip", "-json", "link", "show", "dev", UPLINK_INSIDE])
    assert done.status == 0, done.stderr
    (link,) = json.loads(done.stdout)
    assert link["ifname"] == UPLINK_INSIDE
    assert Path(f"/sys/class/net/olb{job.id}/brif/olu{job.id}").exists()


def prepare(job: PretendJob, *arguments: str) -> str:
    """Prepare the node for a job, which is no failure of the node; return why it was refused."""
    done = job.node_side("prepare", "--node", job.node, "--nodes", job.node, *arguments)
    assert done.stderr == ""
    return published(job).reason


def test_the_user_owns_both_and_is_themselves_in_them(job: PretendJob) -> None:
    assert_works(job)
    account = pwd.getpwnam(job.user)
    user, _ = files_of(job)
    assert job.run([PYTHON, "-c", OWNER, str(user)]).stdout == f"{account.pw_uid}\n"
    maps = job.run([*in_network(job), "cat", "/proc/self/uid_map", "/proc/self/gid_map"])
    lines = {tuple(map(int, line.split())) for line in maps.stdout.splitlines()}
    first_id = published(job).first_id
    assert (account.pw_uid, account.pw_uid, 1) in lines
    assert (account.pw_gid, account.pw_gid, 1) in lines
    assert all(outside in (inside, inside + first_id) for inside, outside, _ in lines)
    assert 0 not in {outside for _, outside, _ in lines}


def test_another_user_cannot_enter_them(job: PretendJob, other_user: str) -> None:
    become = ["setpriv", "--reuid", other_user, "--regid", other_user, "--init-groups", "--"]
    for path, kind in zip(files_of(job), ("user", "net"), strict=True):
        argv = [*become, "nsenter", f"--{kind}={path}", "true"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "Operation not permitted" in done.stderr


# Kills or stops all that it may, as `kill -9 -1` does, so many times.
HARM = """
number, times = int(sys.argv[1]), int(sys.argv[2])
tell("begins")
while times:
    with contextlib.suppress(OSError):
        os.kill(-1, number)
        times -= 1
signal.pause()
"""


@contextmanager
def harm(user: str, number: int, times: int) -> Iterator[None]:
    become = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--"]
    argv = [*become, PYTHON, "-uc", PROLOGUE + HARM, str(number), str(times)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        try:
            yield
            assert process.poll() is None
        finally:
            process.kill()


# Gives those who kill it time, while it lives and has no map yet.
SLOW = """
import time
from oar_lxc.root import job_namespaces
real = job_namespaces.map_text
def slow(extents):
    time.sleep(0.1)
    return real(extents)
job_namespaces.map_text = slow
"""


def changed_prepare(job: PretendJob, change: str) -> str:
    """Run a prepare whose code is changed; return why it was refused."""
    argv = [PYTHON, "-c", f"{change}\nfrom oar_lxc.root.main import main\nmain()", "prepare"]
    argv += ["--job", str(job.id), "--user", job.user, "--cgroup", job.cgroup]
    argv += ["--node", job.node, "--nodes", job.node]
    environ = {"PYTHONPATH": str(checkout()), "PATH": os.environ["PATH"]}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return published(job).reason


@pytest.mark.parametrize(("number", "times"), [(9, 1), (19, 1), (19, 1_000_000)])
def test_what_makes_them_may_be_killed_now_and_then_or_stopped(
    unprepared: PretendJob, number: int, times: int
) -> None:
    with harm(unprepared.user, number, times):
        assert changed_prepare(unprepared, SLOW) == ""
    assert_works(unprepared)


def test_a_user_who_goes_on_killing_it_is_refused(unprepared: PretendJob) -> None:
    with harm(unprepared.user, 9, 1_000_000):
        assert "its namespaces were not made in time" in changed_prepare(unprepared, SLOW)
    assert prepare(unprepared) == ""
    assert_works(unprepared)


@pytest.mark.parametrize("call", [1, 2])
def test_what_a_killed_prepare_left_of_them_is_made_anew(
    unprepared: PretendJob, call: int
) -> None:
    job = unprepared
    step = "oar_lxc.root.job_namespaces.mount_file"
    nodes = ("--node", job.node, "--nodes", job.node)
    node_side_killed_at(job, step, "prepare", *nodes, call=call)
    mounted = [path for path in files_of(job) if path.is_mount() or is_namespace(path)]
    assert len(mounted) == call - 1
    assert prepare(job) == ""
    assert_works(job)


def is_namespace(path: Path) -> bool:
    return f" {path} " in kernel.read("/proc/self/mountinfo")


@pytest.mark.parametrize("gone", [(0,), (1,), (0, 1)])
def test_without_their_mounts_a_job_is_destroyed(job: PretendJob, gone: tuple[int, ...]) -> None:
    for number in gone:
        subprocess.run(["umount", str(files_of(job)[number])], check=True)
    assert_gone(job)


@pytest.mark.parametrize("gone", [(0,), (1,), (0, 1)])
def test_a_second_prepare_mends_them(job: PretendJob, gone: tuple[int, ...]) -> None:
    for number in gone:
        subprocess.run(["umount", str(files_of(job)[number])], check=True)
    job.prepare()
    assert_works(job)


# The child makes them in a user namespace that gives none: the kernel's real word, for one job.
FULL = """
from pathlib import Path
from oar_lxc.linux.setns import NEW_USER, unshare
from oar_lxc.root import job_namespaces
def make(kinds):
    unshare(NEW_USER)
    Path("/proc/sys/user/max_{kind}_namespaces").write_text("0")
    unshare(kinds if "{kind}" == "user" else kinds - NEW_USER)
job_namespaces.unshare = make
"""


@pytest.mark.parametrize("kind", ["user", "net"])
def test_a_user_who_has_no_namespaces_left_is_refused_by_one_sentence(
    unprepared: PretendJob, kind: str
) -> None:
    reason = changed_prepare(unprepared, FULL.replace("{kind}", kind))
    assert reason.startswith("the kernel gives its user no more namespaces (user.max_user_names")
    assert left(unprepared, 0).keys() == {"cgroups", "files"}  # the refusal
    assert prepare(unprepared) == ""
    assert_works(unprepared)


SHORT = """
import errno
from oar_lxc.root import job_namespaces
def fail(kinds):
    raise OSError(errno.{name}, "unshare")
job_namespaces.unshare = fail
"""


@pytest.mark.parametrize("name", ["ENOMEM", "EAGAIN"])
def test_a_shortage_refuses_the_job_and_keeps_the_node_in_service(
    unprepared: PretendJob, name: str
) -> None:
    reason = changed_prepare(unprepared, SHORT.replace("{name}", name))
    assert "has no more of what its users share" in reason


def test_copies_of_their_mounts_elsewhere_keep_nothing(job: PretendJob) -> None:
    """As a service has that was started meanwhile, in a mount namespace of its own."""
    argv = ("unshare", "--mount", "--propagation", "private", "sleep", "600")
    files = files_of(job)
    with bystander("root", *argv) as pid:
        while "sleep" not in kernel.read(f"/proc/{pid}/comm"):
            time.sleep(0.01)
        table = kernel.read(f"/proc/{pid}/mountinfo")
        assert all(f" {path} " in table for path in files)
        assert_gone(job)
        assert str(JobLayout(job.id).directory) not in kernel.read(f"/proc/{pid}/mountinfo")
