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
from itertools import pairwise
from pathlib import Path

import pytest

from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.node_log import NodeLog
from oar_lxc.model.config import Config
from oar_lxc.model.layout import STATE, JobLayout
from oar_lxc.root.id_ranges import JOBS
from oar_lxc.root.prepare import Preparation
from tests import kernel
from tests.integration.attacks import PLUG, assert_gone, attack, ids_options, lives
from tests.integration.conftest import IMAGE, containers_of, left, next_id, published
from tests.pretend import PYTHON, PretendJob, pretend_job

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


@pytest.mark.parametrize("shift", [0, 1, COUNT - 1])
def test_ids_of_anothers_job_cannot_be_mapped(
    job: PretendJob, bobs: PretendJob, shift: int
) -> None:
    first_id = published(bobs).first_id
    own = job.run(["lxc-usernsexec", *ids_options(job), "--", "true"])
    assert (own.status, own.stderr) == (0, "")
    for letter in "ug":
        options = [*ids_options(job), "-m", f"{letter}:{COUNT}:{first_id + shift}:1"]
        done = job.run(["lxc-usernsexec", *options, "--", "true"])
        assert done.status != 0
        assert "new" in done.stderr
    beyond = published(job).first_id + COUNT
    done = job.run(["lxc-usernsexec", "-m", f"u:0:{beyond - 1}:2", "--", "true"])
    assert done.status != 0


def test_a_container_cannot_be_plugged_into_anothers_bridge(
    job: PretendJob, bobs: PretendJob
) -> None:
    (program,) = [path for path in PLUG if Path(path).exists()]
    inside = ["lxc-usernsexec", *ids_options(job), "--", "unshare", "--net", PYTHON, "-c"]
    code = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    ports = {name: Path(f"/sys/class/net/{name}/brif") for name in bridges(job, bobs)}
    with job.start([*inside, code]) as process:
        try:
            assert process.stdout is not None
            pid = process.stdout.readline().strip()
            found = {}
            for bridge, directory in ports.items():
                argv = [program, "create", str(containers_of(job)), "vm1", pid, "veth", bridge]
                found[bridge] = job.run([*argv, "eth0"]).status == 0, len(os.listdir(directory))
        finally:
            process.kill()
    assert found == {published(job).bridge: (True, 1), published(bobs).bridge: (False, 0)}


def bridges(*jobs: PretendJob) -> list[str]:
    return [published(job).bridge for job in jobs]


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
    before = ("lxc-usernsexec", *ids_options(job), "--") if as_containers_root else ()
    theirs = containers_of(bobs)
    assert bobs.run(["mkdir", "-p", str(theirs / "mine")]).status == 0
    paths = [theirs, theirs / "mine", theirs.with_name("private")]
    with attack(job, INTRUDE, *map(str, paths), before=before) as (_, line):
        assert line == "done"
    assert os.listdir(theirs) == ["mine"]
    with attack(bobs, INTRUDE, str(theirs / "mine")) as (_, line):  # who may, can
        assert line.split()[1:]


def test_containers_root_of_one_job_cannot_touch_another_job_of_the_same_user(
    make_job: Callable[[], PretendJob],
) -> None:
    job, other = make_job(), make_job()
    theirs = containers_of(other)
    assert other.run(["mkdir", str(theirs / "mine")]).status == 0
    before = ("lxc-usernsexec", *ids_options(job), "--")
    with attack(job, INTRUDE, str(theirs), str(theirs / "mine"), before=before) as (_, line):
        assert line == "done"


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
            done = old.run(["lxc-usernsexec", *ids_options(old), "--", "sh", "-c", keep])
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
            done = bobs.run(["lxc-usernsexec", *ids_options(bobs), "--", "sh", "-c", write])
            assert done.status == 0, done.stderr
            with attack(new, BECOME, f"{kept}/cat", str(secret)) as (_, line):
                assert line.endswith("denied"), line
    finally:
        shutil.rmtree(kept)


def test_only_the_job_that_has_them_may_use_ids(job: PretendJob) -> None:
    first_id, options = published(job).first_id, ids_options(job)
    assert job.run(["lxc-usernsexec", *options, "--", "true"]).status == 0
    job.destroy()
    assert job.run(["lxc-usernsexec", *options, "--", "true"]).status != 0
    assert kernel.find_lines(job.id, job.user, first_id) == []


def test_a_users_ids_are_the_same_on_all_nodes_and_for_ever(user: str, other_user: str) -> None:
    found: list[int] = []
    for job_id in (next_id(), next_id() + 7 * FORMER):
        with ExitStack() as stack:
            stack.enter_context(another_node() if found else nullcontext())
            if found:
                stack.enter_context(pretend_job(job_id + 1, other_user))
            found.append(published(stack.enter_context(pretend_job(job_id, user))).first_id)
    assert found[0] == found[1]


def test_one_mapping_cannot_reach_over_two_ranges_of_a_user(
    make_job: Callable[[], PretendJob], other_user: str
) -> None:
    jobs = [make_job() for _ in range(3)]
    firsts = sorted(published(job).first_id for job in jobs)
    assert all(other - one > COUNT for one, other in pairwise(firsts))
    for first in firsts:
        done = jobs[0].run(["lxc-usernsexec", "-m", f"u:0:{first + COUNT - 1}:2", "--", "true"])
        assert done.status != 0


def test_who_has_no_free_range_is_refused_and_gets_nobody_elses(
    make_job: Callable[[], PretendJob], unprepared: PretendJob, other_user: str
) -> None:
    """A range beyond 2^31 is as good as others; who has all is told, and the node stays."""
    jobs = [make_job() for _ in range(JOBS)]
    assert len({published(job).first_id for job in jobs}) == JOBS
    last = max(jobs, key=lambda job: published(job).first_id)
    assert published(last).first_id > 1 << 31
    done = last.script("--image", IMAGE, "--", "cat", "/proc/self/uid_map")
    assert done.status == 0, done.stderr
    assert f" {published(last).first_id} " in " ".join(done.stdout.split())
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


@contextmanager
def granted(user: str, first: int, count: int) -> Iterator[None]:
    """Grant ids to a user besides those of jobs, as neighbouring ranges would be."""
    line = f"{user}:{first}:{count}\n"
    files = [Path("/etc/subuid"), Path("/etc/subgid")]
    for path in files:
        with path.open("a") as file:
            file.write(line)
    try:
        yield
    finally:
        for path in files:
            path.write_text(path.read_text().replace(line, ""))


WAITING = "tell(os.getpid()); signal.pause()"
NEST = """
assert libc.unshare(0x10000000) == 0  # a user namespace with no map yet: who is in it has ids
tell(os.getpid())
signal.pause()
"""
KEEP_GROUP = """
import subprocess
group = int(sys.argv[1])
os.setgroups([group])
os.setresgid(65536, 65536, 65536)
os.setresuid(65536, 65536, 65536)
assert libc.unshare(0x10000000) == 0
tell(os.getpid())
signal.pause()
"""


@pytest.mark.parametrize("become", [0, COUNT])
def test_an_extent_of_ids_over_two_ranges_hides_nobody(
    make_job: Callable[[], PretendJob], become: int
) -> None:
    """It begins in one and ends in the other; who has it can take the ids of both."""
    job, other = make_job(), make_job()
    first_id = published(job).first_id - COUNT
    options = [x for kind in "ug" for x in ("-m", f"{kind}:0:{first_id}:{2 * COUNT}")]
    who = ["setpriv", "--reuid", str(become), "--regid", str(become), "--clear-groups", "--"]
    before = ("lxc-usernsexec", *options, "--", *who)
    with granted(job.user, first_id, 2 * COUNT), attack(other, WAITING, before=before) as (_, pid):
        assert lives(int(pid))
        assert_gone(job)
        assert not lives(int(pid))


@pytest.mark.parametrize("code", [NEST, KEEP_GROUP], ids=["user", "group"])
def test_a_namespace_without_a_map_hides_no_ids(
    make_job: Callable[[], PretendJob], code: str
) -> None:
    job, other = make_job(), make_job()
    before = ("lxc-usernsexec", *ids_options(job, own=True), "--")
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
        done = job.run(["lxc-usernsexec", *ids_options(job), "--", "sh", "-c", keep])
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
