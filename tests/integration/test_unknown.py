"""Where the time does not suffice to look, nobody is told that nothing is left."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from oar_lxc.model.layout import JobLayout
from oar_lxc.root.main import CGROUPS_LEFT
from tests.integration.attacks import attack
from tests.integration.conftest import left, published
from tests.integration.nodes import assert_reaped, oar_cgroups
from tests.pretend import PYTHON, PretendJob

# Open files, so many that a second is not enough to look at each.
MANY_OPEN = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
null = os.open("/dev/null", os.O_RDONLY)
number = min(hard, 100000) - 20
for _ in range(number): os.dup(null)
for _ in range(4000000 // number):
    if os.fork() == 0:
        signal.pause()
tell(number)
signal.pause()
"""
MANY_FILES = """
import sys
for number in range(200000):
    open(f"{sys.argv[1]}/{number}", "w").close()
"""


def assert_unknown_at_first(job: PretendJob, why: str) -> None:
    """A destroy with little time does not know, and says so; the record tells the reaper.

    The hook does not fail by that: any user could, and OAR would take the node for broken.
    """
    done = job.node_side("destroy", "--deadline", "1", check=False)
    # A machine that is busy with other things has no time left to remove cgroups either.
    assert done.status in (0, CGROUPS_LEFT)
    assert f"not known: {why}" in done.stderr
    assert JobLayout(job.id).record.exists()


def test_who_has_too_much_open_to_be_looked_at_is_not_called_harmless(
    make_job: Callable[[], PretendJob],
) -> None:
    job, other = make_job(), make_job()
    first_id = published(job).first_id
    with attack(other, MANY_OPEN):
        assert_unknown_at_first(job, "whether the user's other processes hold its ids")
        assert left(job, first_id).keys() <= {"files", "cgroups"}
    assert_reaped(job, first_id)


def test_where_there_are_too_many_files_to_be_looked_at_none_is_called_gone(
    job: PretendJob,
) -> None:
    first_id = published(job).first_id
    place = Path(f"/dev/shm/oar-lxc-test-many-{job.id}")
    place.mkdir()
    try:
        subprocess.run([PYTHON, "-c", MANY_FILES, place], check=True)
        assert_unknown_at_first(job, "what its ids left in directories of all users")
    finally:
        subprocess.run(["rm", "-rf", place], check=True)
    assert job.destroy().status == 0
    assert left(job, first_id) == {"cgroups": oar_cgroups(job)}
