"""After a hard reset in the middle of a job, the node destroys what the disk has kept of it."""

from __future__ import annotations

import json
from pathlib import Path

from oar_lxc.linux.run import Result, run
from oar_lxc.model.layout import JobLayout
from tests import kernel
from tests.pretend import PYTHON, checkout
from tests.vm.reset import BEFORE, JOB, USER


def reap() -> Result:
    argv = [PYTHON, "-IS", str(checkout() / "oar-lxc-node"), "reap", "--grace", "0"]
    return run(argv, check=False)


def left(first_id: int) -> dict[str, list[str]]:
    found = kernel.find_all(JOB, USER, first_id)
    return {kind: names for kind, names in found.items() if names}


def test_what_the_disk_has_kept_of_a_job_is_destroyed() -> None:
    before = json.loads(BEFORE.read_text())
    assert len(before["inits"]) == 2
    assert JobLayout(JOB).record.exists()  # it was on the disk before anything else was made
    assert left(before["first_id"]) != {}
    done = reap()
    assert (done.status, done.stderr) == (0, "")
    assert f"{JOB}" in done.stdout
    assert left(before["first_id"]) == {}
    assert Path("/home", USER, ".bashrc").exists()


def test_the_reaper_finds_nothing_more() -> None:
    done = reap()
    assert (done.status, str(JOB) in done.stdout) == (0, False)
