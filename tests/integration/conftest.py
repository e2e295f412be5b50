"""What the integration tests share: real jobs of an ordinary user, without an OAR.

They need root, LXC and the kernel of this machine, and fail where one of them is missing. Their
job ids lie far above those of a real cluster.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from oar_lxc.image.building import build
from oar_lxc.linux.run import run
from oar_lxc.model.addresses import POOL
from oar_lxc.model.layout import BRIDGE_INSIDE, STATE, UPLINK_INSIDE, JobLayout
from oar_lxc.model.published import PublishedJob
from oar_lxc.root import packetfilter
from oar_lxc.sandbox import controllers
from oar_lxc.setup.requirements import SYSTEMD
from tests import kernel
from tests.pretend import CGROUPS, VERSION_2, PretendJob, make_state, ordinary_user, pretend_job

# What a node with cgroup version 2 alone does can be seen on such a node only.
collect_ignore = [] if VERSION_2 else ["test_version_2.py"]

IMAGE = "debian-12"
_ids = itertools.count(930_000 + os.getpid() % 1000 * 50)


def next_id() -> int:
    """Return a job id that no other job of this run has."""
    return next(_ids)


def published(job: PretendJob) -> PublishedJob:
    """Return what the root side published of a job."""
    return PublishedJob.from_json((STATE / "jobs" / str(job.id) / "job.json").read_text())


def left(job: PretendJob, first_id: int) -> dict[str, list[str]]:
    """Return what an independent reader finds of a job, by kind, without what is empty."""
    found = kernel.find_all(job.id, job.user, first_id)
    return {kind: names for kind, names in found.items() if names}


def left_of_containers(job: PretendJob) -> list[str]:
    """Return what is left of a job's containers while the job itself lives on.

    The kernel takes a moment to remove a network device with its namespace.
    """
    end = time.monotonic() + 30
    while (found := _left_of_containers(job)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def _left_of_containers(job: PretendJob) -> list[str]:
    first_id = published(job).first_id
    found = os.listdir(containers_of(job))
    layout = JobLayout(job.id)
    found += {*kernel.find_links(job.id, job.user, first_id)} - {layout.bridge, layout.uplink}
    inside = kernel.links_inside(job.id)
    found += {*inside} - {"lo", UPLINK_INSIDE, BRIDGE_INSIDE}
    for group in map(Path, published(job).cgroups):
        below = [path for path in group.rglob("*") if path.is_dir()]
        found += [str(path) for path in below if path.name != "lxc.pivot"]  # LXC keeps it, empty
    for pid in kernel.processes():
        status = kernel.read(f"/proc/{pid}/status")
        owner = [line.split()[1] for line in status.splitlines() if line.startswith("Uid:")]
        if owner and first_id <= int(owner[0]) < first_id + kernel.ID_COUNT:
            found.append(f"process {pid}")
    return found


def containers_of(job: PretendJob) -> Path:
    """Return LXC's path of a job."""
    return STATE / "jobs" / str(job.id) / "containers"


@pytest.fixture(scope="session", autouse=True)
def _cgroups_stay() -> None:
    """Have systemd remove no empty cgroup of a job while tests run, as set-up does on a node."""
    if SYSTEMD.is_dir():
        until_we_end = ("tail", f"--pid={os.getpid()}", "-f", "/dev/null")
        run(["systemd-run", "--quiet", "--collect", *controllers.ALL, *until_we_end])


@pytest.fixture(scope="session", autouse=True)
def _machine() -> Iterator[None]:
    """Make sure of what all tests need: root, the state directories, an image."""
    if os.geteuid() != 0:
        pytest.exit("the integration tests need root", returncode=1)
    make_state()
    build(IMAGE)
    before = set(CGROUPS.glob("*/oar*"))
    table = ["table", "inet", packetfilter.TABLE]
    filtered = run(["nft", "list", *table], check=False).status == 0
    packetfilter.load(POOL, 30)
    yield
    if not filtered:
        run(["nft", "delete", *table])
        run(["nft", "delete", "table", "inet", packetfilter.PORTS])
    for path in set(CGROUPS.glob("*/oar*")) - before:
        with suppress(OSError):  # another test run's jobs are in it
            path.rmdir()


@pytest.fixture(scope="session")
def user() -> Iterator[str]:
    """Return an ordinary user that exists while the tests run."""
    with ordinary_user(f"oarlxc{os.getpid()}") as name:
        yield name


@pytest.fixture(scope="session")
def other_user() -> Iterator[str]:
    """Return a second ordinary user."""
    with ordinary_user(f"oarlxco{os.getpid()}") as name:
        yield name


@pytest.fixture
def make_job(user: str) -> Iterator[Callable[[], PretendJob]]:
    """Return a function that makes a prepared job; afterwards nothing of it may be left."""
    made: list[tuple[PretendJob, int]] = []
    with ExitStack() as stack:

        def make() -> PretendJob:
            job = stack.enter_context(pretend_job(next_id(), user))
            made.append((job, published(job).first_id))
            return job

        yield make
    for job, first_id in made:
        assert left(job, first_id) == {}


@pytest.fixture
def job(make_job: Callable[[], PretendJob]) -> PretendJob:
    """Return a prepared job; afterwards nothing of it may be left."""
    return make_job()


@pytest.fixture
def unprepared(user: str) -> Iterator[PretendJob]:
    """Return a job that has OAR's cgroups and nothing else; afterwards nothing may be left."""
    job = PretendJob(next_id(), user)
    job.make_cgroups()
    try:
        yield job
    finally:
        job.destroy()
        job.remove_cgroups()
        Path(f"/tmp/oar-lxc-nodefile-{job.id}").unlink(missing_ok=True)
    assert left(job, 0) == {}


def first_id_of_record(job: PretendJob) -> int:
    """Return the first id that a job's record tells, 0 where there is none."""
    try:
        return int(json.loads((STATE / "records" / f"{job.id}.json").read_text())["first_id"])
    except (OSError, ValueError):
        return 0
