"""Records, and what stands in their place: a damaged one harms no other job and holds no hook."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oar_lxc.model.layout import STATE, JobLayout
from oar_lxc.root import idmapped
from tests import kernel
from tests.integration.attacks import as_root_inside, attack, lives
from tests.integration.conftest import left, next_id, published
from tests.integration.nodes import oar_cgroups
from tests.pretend import PYTHON, PretendJob, checkout, pretend_job

LIMIT = 10.0  # seconds after which a command of the root side counts as hung


def test_a_user_can_write_nothing_that_the_root_side_believes(job: PretendJob) -> None:
    layout = JobLayout(job.id)
    root_only = [layout.record, layout.published, layout.trash, layout.directory, STATE]
    root_only += [layout.record.parent, layout.directory.parent, Path("/var/log/oar-lxc.log")]
    code = """
done = []
for path in sys.argv[1:]:
    for act in (lambda: os.open(path, os.O_WRONLY | os.O_APPEND), lambda: os.unlink(path),
                lambda: os.rename(path, path + "x"), lambda: os.chmod(path, 0o777),
                lambda: os.mkdir(path + "/new"), lambda: os.rmdir(path),
                lambda: os.symlink("/etc", path + "/link"), lambda: os.utime(path)):
        with contextlib.suppress(OSError):
            act()
            done.append(path)
tell("done", *done)
"""
    for before in ((), as_root_inside(job)):
        with attack(job, code, *map(str, root_only), before=before) as (_, line):
            assert line == "done"
    with attack(job, code, str(layout.private)) as (_, line):  # where it may, it does
        assert line.split()[1:]


@pytest.fixture(scope="module")
def bobs_job(other_user: str) -> Iterator[tuple[PretendJob, list[int]]]:
    """Return a job of another user with two processes, one of them under the job's ids."""
    waiting = "tell(os.getpid()); signal.pause()"
    with pretend_job(next_id(), other_user) as bobs:
        first_id = published(bobs).first_id
        before = as_root_inside(bobs)
        with attack(bobs, waiting) as (_, one), attack(bobs, waiting, before=before) as (_, two):
            assert f"Uid:\t{first_id}\t" in kernel.read(f"/proc/{two}/status")
            yield bobs, [int(one), int(two)]
    assert left(bobs, first_id) == {}


@pytest.fixture
def bobs(bobs_job: tuple[PretendJob, list[int]]) -> Iterator[PretendJob]:
    """Return the other user's job; afterwards nothing of it may have changed."""
    job, pids = bobs_job
    table = facts(job)
    yield job
    assert all(map(lives, pids))
    assert facts(job) == table


def facts(job: PretendJob) -> dict[str, object]:
    """Return all that must stay of a job, its record to the letter."""
    found: dict[str, object] = dict(kernel.find_all(job.id, job.user, published(job).first_id))
    del found["processes"]
    found["mounts"] = idmapped.mounts_under(JobLayout(job.id).directory)
    found["record"] = JobLayout(job.id).record.read_text()
    return found


def node(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the root side's command; one that hangs is killed and fails the test."""
    return subprocess.run(
        [PYTHON, "-m", "oar_lxc.root.main", *arguments],
        env={**os.environ, "PYTHONPATH": str(checkout())},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def _huge(record: Path, bobs: PretendJob) -> None:
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "user": "x" * 50_000_000}))


def _nested(record: Path, bobs: PretendJob) -> None:
    record.write_text('{"a":' * 200_000)


def _many_digits(record: Path, bobs: PretendJob) -> None:
    data = json.loads(record.read_text())
    text = json.dumps({**data, "first_id": 0}).replace(
        '"first_id": 0', '"first_id": ' + "9" * 9999
    )
    record.write_text(text)


def _not_a_number(record: Path, bobs: PretendJob) -> None:
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "created": float("nan"), "ended": float("-inf")}))


def _bobs_record(record: Path, bobs: PretendJob) -> None:
    shutil.copyfile(JobLayout(bobs.id).record, record)


def _bobs_name(record: Path, bobs: PretendJob) -> None:
    data = json.loads(JobLayout(bobs.id).record.read_text())
    record.write_text(json.dumps({**data, "job_id": int(record.stem)}))


def _bobs_cgroup(record: Path, bobs: PretendJob) -> None:
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "oar_cgroup": bobs.cgroup}))


def _bobs_ids(record: Path, bobs: PretendJob) -> None:
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "first_id": published(bobs).first_id}))


def _no_file(record: Path, bobs: PretendJob) -> None:
    record.unlink()
    record.mkdir()
    (record / "inside").touch()


def _link_to_a_file(record: Path, bobs: PretendJob) -> None:
    record.unlink()
    record.symlink_to("/etc/passwd")


def _link_to_bobs(record: Path, bobs: PretendJob) -> None:
    record.unlink()
    record.symlink_to(JobLayout(bobs.id).record)


def _fifo(record: Path, bobs: PretendJob) -> None:
    record.unlink()
    os.mkfifo(record)


def _link_to_a_fifo(record: Path, bobs: PretendJob) -> None:
    record.unlink()
    os.mkfifo(record.with_name("fifo"))
    record.symlink_to("fifo")


def _device(record: Path, bobs: PretendJob) -> None:
    record.unlink()
    os.mknod(record, stat.S_IFCHR | 0o600, os.makedev(5, 0))  # /dev/tty


DAMAGES = [
    _huge,
    _nested,
    _many_digits,
    _not_a_number,
    _bobs_record,
    _bobs_name,
    _bobs_cgroup,
    _bobs_ids,
    _no_file,
    _link_to_a_file,
    _link_to_bobs,
    _fifo,
    _link_to_a_fifo,
    _device,
]


@contextmanager
def damaged(
    job: PretendJob, bobs: PretendJob, damage: Callable[[Path, PretendJob], None]
) -> Iterator[None]:
    """Put something else in a record's place; take it away in the end."""
    record = JobLayout(job.id).record
    try:
        damage(record, bobs)
        yield
    finally:
        if record.is_dir():
            shutil.rmtree(record)
        for path in (record, record.with_name("fifo")):
            path.unlink(missing_ok=True)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_forged_record_harms_nobody_else_and_holds_nothing_up(
    job: PretendJob, bobs: PretendJob, damage: Callable[[Path, PretendJob], None]
) -> None:
    first_id = published(job).first_id
    system = {path: os.stat(path).st_ctime_ns for path in ("/etc/passwd", "/etc/hostname")}
    options = ["--job", str(job.id), "--user", job.user, "--cgroup", job.cgroup]
    with (
        attack(job, "tell(os.getpid()); signal.pause()") as (_, pid),
        damaged(job, bobs, damage),
    ):
        assert lives(int(pid))
        told = node("reap", "--dry-run")
        assert f"would destroy job {bobs.id} " not in told.stdout
        assert "Traceback" not in told.stderr
        done = node("destroy", *options, "--deadline", "8")
        assert not lives(int(pid))
        assert "Traceback" not in done.stderr
        if damage is not _no_file:  # which is told: somebody must look
            assert (done.returncode, done.stderr) == (0, "")
            assert left(job, first_id) == {"cgroups": oar_cgroups(job)}
        assert system == {path: os.stat(path).st_ctime_ns for path in system}


@pytest.mark.parametrize("damage", [_fifo, _no_file, _bobs_ids])
def test_a_forged_record_does_not_keep_other_jobs_from_being_prepared(
    make_job: Callable[[], PretendJob],
    bobs: PretendJob,
    damage: Callable[[Path, PretendJob], None],
) -> None:
    job, other = make_job(), make_job()
    other.destroy()
    with damaged(job, bobs, damage):
        options = ["--job", str(other.id), "--user", other.user, "--cgroup", other.cgroup]
        done = node("prepare", *options, "--node", other.node, "--nodes", other.node)
        assert (done.returncode, done.stderr) == (0, "")
        assert published(other).state == "ready"
        assert published(other).first_id != published(bobs).first_id
