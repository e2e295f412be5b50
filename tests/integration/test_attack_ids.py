"""Ids and bridges of other jobs: what a hostile user may not have, now or later."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import kernel
from tests.integration.conftest import containers_of, left, next_id, published
from tests.integration.test_attack_processes import attack, ids_options
from tests.pretend import PYTHON, PretendJob, pretend_job

COUNT = 65536
RANGES = 4094  # how many jobs' ids a node has


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


PLUG = ["/usr/libexec/lxc/lxc-user-nic", "/usr/lib/x86_64-linux-gnu/lxc/lxc-user-nic"]


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
def job_with_the_ids_of(job: PretendJob, user: str) -> Iterator[PretendJob]:
    """Make a job of another user to which the node would give the ids that a job had."""
    with pretend_job(job.id + RANGES, user) as made:
        yield made


def test_who_had_ids_before_cannot_use_them_on_who_has_them_now(
    user: str, other_user: str
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
        with job_with_the_ids_of(old, other_user) as bobs, pretend_job(next_id(), user) as new:
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
