"""Ids and bridges of other jobs: what a hostile user may not have, now or later."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

import pytest

from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.node_log import NodeLog
from oar_lxc.model.config import Config
from oar_lxc.model.layout import STATE, JobLayout
from oar_lxc.root.id_ranges import JOBS
from oar_lxc.root.prepare import Preparation
from tests import kernel
from tests.integration.attacks import (
    OWN_ID,
    as_root_inside,
    assert_gone,
    attack,
    in_network,
    lives,
)
from tests.integration.conftest import IMAGE, containers_of, left, next_id, published
from tests.integration.jobs import close, start_script
from tests.pretend import PretendJob, pretend_job

COUNT = 65536
FORMER = 4094  # ranges that nodes gave out by the job's id, before they followed from the user


@pytest.fixture(scope="module")
def bobs(other_user: str) -> Iterator[PretendJob]:
    """Return a prepared job of another user."""
    with pretend_job(next_id(), other_user) as job:
        first_id = published(job).first_id
        yield job
    assert left(job, first_id) == {}


def test_ids_of_two_jobs_do_not_overlap(job: PretendJob, bobs: PretendJob) -> None:
    one, other = published(job).first_id, published(bobs).first_id
    assert abs(one - other) >= COUNT
    assert published(job).bridge != published(bobs).bridge


# Tries to give ids to a namespace of its own, or other ids to that of the job.
MAP = """
first = int(sys.argv[1])
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    assert libc.unshare(0x10000000) == 0, ctypes.get_errno()  # a user namespace
    os.write(writer, b"x")
    signal.pause()
os.read(reader, 1)
mapped = []
for pid in (child, os.getpid()):
    for name in ("uid_map", "gid_map"):
        for text in (f"0 {first} 1", f"0 0 {1 << 17}", "0 0 1"):
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/{name}", "w") as file: file.write(text)
                mapped.append(f"{name}:{text}".replace(" ", "_"))
os.kill(child, signal.SIGKILL)
tell("mapped", *mapped)
"""


@pytest.mark.parametrize("shift", [0, 1, COUNT - 1])
def test_ids_of_anothers_job_cannot_be_mapped(
    job: PretendJob, bobs: PretendJob, shift: int
) -> None:
    """Neither by the user, nor by the containers' root, who may nest the job's own ids."""
    theirs = str(published(bobs).first_id + shift)
    with attack(job, MAP, theirs) as (_, line):
        assert line == "mapped"
    with attack(job, MAP, theirs, before=as_root_inside(job)) as (_, line):
        assert line == "mapped uid_map:0_0_1 gid_map:0_0_1"
    assert job.run([*as_root_inside(bobs), "true"]).status != 0


# Puts devices of the job's network into others, and joins what it can name there.
PLUG = """
import subprocess
bridge, *others = sys.argv[1:]
done = []
def ip(*words):
    if subprocess.run(["ip", *words], stderr=subprocess.DEVNULL).returncode == 0:
        done.append("_".join(words))
for number, other in enumerate(("1", *others)):
    ip("link", "add", f"a{number}", "type", "veth", "peer", "name", f"b{number}", "netns", other)
    ip("link", "set", "own", "netns", other)
    ip("link", "set", "up0", "netns", other)
ip("link", "set", "own", "master", bridge)
tell("done", *done)
"""


def test_no_device_of_a_job_can_be_plugged_in_elsewhere(job: PretendJob, bobs: PretendJob) -> None:
    """Not into the node's network, not into another job's, and not into their bridges."""
    ports = Path(f"/sys/class/net/{published(bobs).bridge}/brif")
    names = os.listdir("/sys/class/net")
    assert os.listdir(ports) == [JobLayout(bobs.id).uplink]
    others = [str(JobLayout(bobs.id).network_namespace), "/proc/1/ns/net"]
    made = job.run(
        [*in_network(job), *["ip", "link", "add", "own", "type", "veth", "peer", "name", "other"]]
    )
    assert (made.status, made.stderr) == (0, "")
    for bridge in (published(bobs).bridge, published(job).bridge):
        with attack(job, PLUG, bridge, *others, before=in_network(job)) as (_, line):
            assert line == "done"
    assert os.listdir(ports) == [JobLayout(bobs.id).uplink]
    assert os.listdir("/sys/class/net") == names


INTRUDE = """
done = []
for path in sys.argv[1:]:
    for act in (os.listdir, os.chdir, lambda p: open(p + "/new", "w"), lambda p: os.chmod(p, 511),
                lambda p: os.rename(p + "/mine", p + "/yours"), os.rmdir):
        try:
            act(path)
        except OSError:
            continue
        done.append(path)
tell("done", *done)
"""


@pytest.mark.parametrize("as_containers_root", [False, True])
def test_files_of_anothers_job_are_out_of_reach(
    job: PretendJob, bobs: PretendJob, as_containers_root: bool
) -> None:
    before = as_root_inside(job) if as_containers_root else ()
    theirs = containers_of(bobs)
    assert bobs.run(["mkdir", "-p", str(theirs / "mine")]).status == 0
    paths = [theirs, theirs / "mine", theirs.with_name("private")]
    with attack(job, INTRUDE, *map(str, paths), before=before) as (_, line):
        assert line == "done"
    assert os.listdir(theirs) == ["mine"]
    with attack(bobs, INTRUDE, str(theirs / "mine")) as (_, line):  # who may, can
        assert line.split()[1:]


def test_containers_root_of_one_job_cannot_touch_that_of_another_job_of_the_same_user(
    make_job: Callable[[], PretendJob],
) -> None:
    job, other = make_job(), make_job()
    mine = str(containers_of(other) / "mine")
    assert other.run([*as_root_inside(other), "mkdir", mine]).status == 0
    with attack(job, INTRUDE, mine, before=as_root_inside(job)) as (_, line):
        assert line == "done"
    with attack(job, INTRUDE, mine, before=as_root_inside(other)) as (_, line):  # who may, can
        assert line.split()[1:]


BECOME = """
program, secret = sys.argv[1:]
done = os.popen(f"{program} {secret} 2>&1").read().split()
tell("read", *done)
"""


@contextmanager
def another_node() -> Iterator[None]:
    """Make this node one that knows nothing of what was before, as others and diskless ones do."""
    table, away = STATE / "ranges.json", STATE / "ranges.json.away"
    table.rename(away)
    try:
        yield
    finally:
        away.rename(table)


@pytest.mark.parametrize("where", [nullcontext, another_node])
def test_who_had_ids_before_cannot_use_them_on_who_has_them_now(
    user: str, other_user: str, where: Callable[[], AbstractContextManager[None]]
) -> None:
    """A program that is set-user-id to a container's root, kept where it outlives the job."""
    home = Path(pwd.getpwnam(user).pw_dir)
    kept = home / "kept"
    try:
        with pretend_job(next_id(), user) as old:
            first_id = published(old).first_id
            keep = f"cp /bin/cat {kept}/cat && chmod 6755 {kept}/cat"
            kept.mkdir()
            kept.chmod(0o777)
            home.chmod(0o755)
            done = old.run([*as_root_inside(old), "sh", "-c", keep])
            assert done.status == 0, done.stderr
        status = kept.joinpath("cat").stat()
        assert (status.st_uid, oct(status.st_mode)) == (first_id, "0o106755")
        with (
            where(),
            pretend_job(old.id + FORMER, other_user) as bobs,
            pretend_job(next_id(), user) as new,
        ):
            assert abs(published(bobs).first_id - first_id) >= COUNT
            secret = containers_of(bobs) / "secret"
            write = f"umask 077; echo secret > {secret}"
            done = bobs.run([*as_root_inside(bobs), "sh", "-c", write])
            assert done.status == 0, done.stderr
            with attack(new, BECOME, f"{kept}/cat", str(secret)) as (_, line):
                assert line.endswith("denied"), line
    finally:
        shutil.rmtree(kept)


def test_only_the_job_that_has_them_may_use_ids(job: PretendJob) -> None:
    assert job.run([*as_root_inside(job), "true"]).status == 0
    job.destroy()
    assert job.run([*as_root_inside(job), "true"]).status != 0


def test_a_users_ids_are_the_same_on_all_nodes_and_for_ever(user: str, other_user: str) -> None:
    found: list[int] = []
    for job_id in (next_id(), next_id() + 7 * FORMER):
        with ExitStack() as stack:
            stack.enter_context(another_node() if found else nullcontext())
            if found:
                stack.enter_context(pretend_job(job_id + 1, other_user))
            found.append(published(stack.enter_context(pretend_job(job_id, user))).first_id)
    assert found[0] == found[1]


def test_who_has_no_free_range_is_refused_and_gets_nobody_elses(
    make_job: Callable[[], PretendJob], unprepared: PretendJob, other_user: str
) -> None:
    """A range beyond 2^31 is as good as others; who has all is told, and the node stays."""
    jobs = [make_job() for _ in range(JOBS)]
    assert len({published(job).first_id for job in jobs}) == JOBS
    last = max(jobs, key=lambda job: published(job).first_id)
    assert published(last).first_id > 1 << 31
    running = start_script(last, "--image", IMAGE, "--wait", "running")
    try:
        status = Path(f"/proc/{running.containers()['vm1']['pid']}").stat()
        assert (status.st_uid, status.st_gid) == (published(last).first_id,) * 2
    finally:
        close(running.process)
    assert unprepared.prepare().status == 0
    assert (
        f"all {JOBS} id ranges of user {unprepared.user} are in use"
        in published(unprepared).reason
    )
    with pretend_job(next_id(), other_user) as bobs:
        assert published(bobs).state == "ready"


def test_a_user_for_whom_no_ids_are_set_aside_is_refused_by_one_sentence(
    unprepared: PretendJob,
) -> None:
    layout = JobLayout(unprepared.id)
    preparation = Preparation(
        layout,
        unprepared.user,
        unprepared.node,
        [unprepared.node],
        Config(trees=(), users=((5, 6),)),
        unprepared.cgroup,
    )
    preparation.run(NodeLog(bound={}), Deadline.after(20))
    assert published(unprepared).state == "refused"
    assert "ids.users in /etc/oar-lxc/oar-lxc.toml is 5-6; append" in published(unprepared).reason
    assert kernel.find_lines(unprepared.id, unprepared.user, 0) == []


def test_what_is_left_of_a_job_that_is_forgotten_is_found_by_its_users_ids(
    job: PretendJob,
) -> None:
    """Whoever asks with the wrong ids, or without any, must not read that all is clean."""
    first_id = published(job).first_id
    sleep = ["setpriv", f"--reuid={first_id + 7}", "--clear-groups", "sleep", "60"]
    job.destroy()
    reader = [sys.executable, kernel.__file__, "--job", str(job.id), "--user", job.user]
    with subprocess.Popen(sleep) as process:
        try:
            time.sleep(0.3)
            told = json.loads(job.node_side("leftovers", "--json", check=False).stdout)
            assert told["processes"] == [process.pid]
            read = subprocess.run(reader, capture_output=True, check=True).stdout
            assert json.loads(read)["processes"] == [f"{process.pid} sleep"]
            wrong = f"--first-id={first_id + 1}"
            done = job.node_side("leftovers", wrong, check=False)
            assert (done.status, done.stdout) == (2, "")
            gone = PretendJob(job.id, "nobody-of-this-name")
            done = gone.node_side("leftovers", check=False)
            assert (done.status, done.stdout) == (2, "")
            assert "give --first-id" in done.stderr
            done_by_reader = subprocess.run([*reader[:-1], gone.user], check=False)
            assert done_by_reader.returncode == 1
        finally:
            process.kill()


NEST = """
assert libc.unshare(0x10000000) == 0  # a user namespace with no map yet: who is in it has ids
tell(os.getpid())
signal.pause()
"""
KEEP_GROUP = (
    OWN_ID
    + """
group = int(sys.argv[1])
os.setgroups([group])
os.setresgid(OWN, OWN, OWN)
os.setresuid(OWN, OWN, OWN)
assert libc.unshare(0x10000000) == 0
tell(os.getpid())
signal.pause()
"""
)


@pytest.mark.parametrize("code", [NEST, KEEP_GROUP], ids=["user", "group"])
def test_a_namespace_without_a_map_hides_no_ids(
    make_job: Callable[[], PretendJob], code: str
) -> None:
    job, other = make_job(), make_job()
    before = as_root_inside(job)
    with attack(other, code, "5", before=before) as (_, pid):
        assert lives(int(pid))
        assert_gone(job)
        assert not lives(int(pid))


def test_a_set_group_id_program_keeps_no_group_of_a_job(
    make_job: Callable[[], PretendJob],
) -> None:
    job, other = make_job(), make_job()
    program = Path(f"/var/tmp/oar-lxc-test-{job.id}")
    program.mkdir()
    program.chmod(0o777)
    try:
        keep = f"cp /bin/sleep {program}/sleep && chmod 2755 {program}/sleep"
        done = job.run([*as_root_inside(job), "sh", "-c", keep])
        assert (done.status, done.stderr) == (0, "")
        with other.start([f"{program}/sleep", "600"]) as process:
            try:
                wanted = f"\t{published(job).first_id}\t"
                while wanted not in kernel.read(f"/proc/{process.pid}/status"):
                    assert process.poll() is None
                assert_gone(job)
                assert process.wait(5) == -9
            finally:
                process.kill()
    finally:
        shutil.rmtree(program)
