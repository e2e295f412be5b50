"""Whatever comes after whatever, and wherever it is killed: nothing is left, and nothing touched.

Hypothesis makes up lives of jobs from prepare, destroy and reap, each killed at any of its steps,
on the real root side and the real kernel.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from oar_lxc.linux.run import run
from oar_lxc.model.layout import STATE
from tests import kernel
from tests.integration.conftest import first_id_of_record, left, next_id, published
from tests.integration.jobs import close
from tests.integration.nodes import in_cgroups, node_side_until, oar_cgroups
from tests.pretend import PYTHON, PretendJob, checkout, make_state

# Where the root side is killed, if it is: when one of its steps begins, or before it changes what
# is on the disk, and at which of these calls.
Point = tuple[str, int] | None
POINTS: st.SearchStrategy[Point] = st.none() | st.tuples(
    st.sampled_from(["oar_lxc.linux.node_log.NodeLog.step", "os.rename", "os.chown", "os.mkdir"]),
    st.integers(1, 9),
)
MOST_JOBS = 4


@dataclass
class Life:
    """What the test knows of a job.

    Attributes:
        job: the job.
        over: whether OAR has ended it, or a destroy of it has begun.
        first_id: where its ids start, as far as it had any.
        has: what the kernel has of it since a prepare was carried out; None after none was.
        programs: what it runs.
    """

    job: PretendJob
    over: bool = False
    first_id: int = 0
    has: dict[str, list[str]] | None = None
    programs: list[subprocess.Popen[str]] = field(default_factory=list)


class Lives(RuleBasedStateMachine):
    """Jobs of two users on this node."""

    users: tuple[str, str]

    def __init__(self) -> None:
        super().__init__()
        self.lives: list[Life] = []
        self.owners: dict[int, str] = {}  # first id → user, for ever

    @initialize()
    def begin(self) -> None:
        """Let both users have a job, one of them two, which are prepared."""
        make_state()
        for user in (0, 0, 1):
            self.submit(user)
            self._prepare(self.lives[-1])

    @precondition(lambda self: len(self.lives) < MOST_JOBS)
    @rule(user=st.integers(0, 1))
    def submit(self, user: int) -> None:
        """Let OAR begin a job."""
        life = Life(PretendJob(next_id(), self.users[user]))
        life.job.make_cgroups()
        self.lives.append(life)

    @precondition(lambda self: self._living())
    @rule(data=st.data(), point=POINTS)
    def prepare(self, data: st.DataObject, point: Point) -> None:
        life = data.draw(st.sampled_from(self._living()))
        nodes = ("--node", life.job.node, "--nodes", life.job.node)
        if not point:
            self._prepare(life)
        elif node_side_until(life.job, point[0], "prepare", *nodes, call=point[1]):
            life.first_id = first_id_of_record(life.job) or life.first_id
            life.has = None

    def _prepare(self, life: Life) -> None:
        life.job.prepare()
        life.first_id = published(life.job).first_id
        life.has = self._lasting(life)

    @precondition(lambda self: self._prepared())
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        """Run a program in the job's cgroups, and leave a file of its ids."""
        life = data.draw(st.sampled_from(self._prepared()))
        life.programs.append(in_cgroups(life.job, "sleep", "600"))
        path = Path(f"/dev/shm/oar-lxc-test-{life.job.id}")
        path.touch()
        os.chown(path, life.first_id + 5, life.first_id + 5)

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), point=POINTS)
    def destroy(self, data: st.DataObject, point: Point) -> None:
        life = data.draw(st.sampled_from(self.lives))
        life.over, life.has = True, None
        if not point or not node_side_until(life.job, point[0], "destroy", call=point[1]):
            assert life.job.destroy().status == 0
            assert self._left(life) == {}

    @precondition(lambda self: self._living())
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """Let OAR end a job without any hook."""
        life = data.draw(st.sampled_from(self._living()))
        life.over, life.has = True, None

    @rule()
    def reap(self) -> None:
        over = [life for life in self.lives if life.over]
        argv = [PYTHON, "-IS", str(checkout() / "oar-lxc-node"), "reap", "--grace", "0"]
        argv += ["--ended", ",".join(str(life.job.id) for life in over)]
        assert run(argv, check=False).status == 0
        for life in over:
            assert self._left(life) == {}
            self._forget(life)

    @invariant()
    def records_name_their_own_job(self) -> None:
        for life in self.lives:
            with suppress(FileNotFoundError):
                told = json.loads((STATE / "records" / f"{life.job.id}.json").read_text())
                assert (told["job_id"], told["user"]) == (life.job.id, life.job.user)

    @invariant()
    def no_ids_are_anothers(self) -> None:
        firsts = [x for life in self.lives if (x := first_id_of_record(life.job))]
        assert all(abs(a - b) >= kernel.ID_COUNT for a, b in itertools.combinations(firsts, 2))
        for life in self.lives:
            if life.first_id:
                assert self.owners.setdefault(life.first_id, life.job.user) == life.job.user

    @invariant()
    def living_jobs_are_not_touched(self) -> None:
        for life in self._prepared():
            assert self._lasting(life) == life.has
            assert all(program.poll() is None for program in life.programs)

    def teardown(self) -> None:
        for life in self.lives:
            assert life.job.destroy().status == 0
            assert self._left(life) == {}
        for life in self.lives:
            self._forget(life)

    def _living(self) -> list[Life]:
        return [life for life in self.lives if not life.over]

    def _prepared(self) -> list[Life]:
        return [life for life in self.lives if life.has is not None]

    def _forget(self, life: Life) -> None:
        for program in life.programs:
            close(program)
        life.job.remove_cgroups()
        self.lives = [other for other in self.lives if other is not life]

    def _left(self, life: Life) -> dict[str, list[str]]:
        """Return what is left of a job, but for what is OAR's to remove."""
        found = left(life.job, life.first_id)
        if found.get("cgroups") == [x for x in oar_cgroups(life.job) if Path(x).is_dir()]:
            del found["cgroups"]
        return found

    def _lasting(self, life: Life) -> dict[str, list[str]]:
        """Return what the kernel has of a job, but for what programs add.

        Mount namespaces of others, with copies of the job's mounts, come and go.
        """
        found = kernel.find_all(life.job.id, life.job.user, life.first_id)
        found["mounts"] = sorted({line.partition(": ")[2] for line in found["mounts"]})
        return {kind: found[kind] for kind in ("cgroups", "mounts", "links", "rules")}


@pytest.mark.hypothesis
def test_nothing_is_left_and_nothing_touched_whatever_is_killed(
    user: str, other_user: str
) -> None:
    class OfUsers(Lives):
        users = (user, other_user)

    few = settings(max_examples=max(4, settings().max_examples // 20), stateful_step_count=12)
    run_state_machine_as_test(OfUsers, settings=few)
