"""``python -m tests.matrix.soak``: random jobs of both users, with random faults, all at once."""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from oar_lxc.sandbox.cluster import Sandbox
from tests.e2e.cluster import KERNEL
from tests.e2e.conftest import bring_up, here
from tests.matrix.registry import ALL_SETUPS, DEFAULT_SETUPS, Fault, load
from tests.matrix.row import Row
from tests.matrix.runner import TROUBLES, brief, interruptible, say, world_of
from tests.matrix.world import Process, World

USERS = ("alice", "bob")


@dataclass(frozen=True)
class Choice:
    """What one job of the soak is, drawn from the seed and its number alone.

    Attributes:
        number: the job's place in the sequence.
        fault: what happens to it.
        user: whose it is.
    """

    number: int
    fault: Fault
    user: str

    @classmethod
    def draw(cls, seed: int, number: int, faults: Sequence[Fault]) -> Choice:
        """Draw a job's choices."""
        chance = random.Random(f"{seed}-{number}")
        return cls(number, chance.choice(faults), chance.choice(USERS))


@dataclass
class Outcome:
    """What became of one job."""

    number: int
    fault: str
    user: str
    jobs: list[int] = field(default_factory=list)
    seconds: float = 0.0
    left: list[str] = field(default_factory=list)
    touched: list[str] = field(default_factory=list)
    failed: str = ""

    @property
    def good(self) -> bool:
        """Whether its fault happened, nothing was left, and it was not touched before that."""
        return not (self.failed or self.left or self.touched)

    def __str__(self) -> str:
        jobs = ",".join(map(str, self.jobs)) or "-"
        line = f"#{self.number:<4} {self.user:<6} {self.fault:<18} job {jobs:<9} "
        line += f"{self.seconds:5.1f} s  left {len(self.left)}, touched {len(self.touched)}"
        extra = [*self.left, *self.touched, *([f"FAILED: {self.failed}"] if self.failed else [])]
        return "\n        ".join([line, *extra])


class Watched(Row):
    """A row whose job's containers must be as they were whenever a fault looks at them.

    What a container's processes are is noted when they are up; whoever dies before the fault of
    its own job begins to act was touched by another's.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.guarded: list[Process] = []
        self.touched: list[str] = []

    def run(self, *arguments: Any, **options: Any) -> Any:
        """Submit a job, wait until its containers are up, and guard them for a while."""
        job = super().run(*arguments, **options)
        for node in self.world.nodes:
            self.guarded += self.inits(job, node)
        self.linger(job)
        return job

    def linger(self, job: Any) -> None:
        """Let other jobs end beside this one, then look whether it is as it was."""
        begin = finished_jobs.value
        end = time.monotonic() + 10
        while finished_jobs.value < begin + 1 and time.monotonic() < end:
            finished_jobs.wait(end - time.monotonic())
        for process in self.guarded:
            if not self.world.lives(process):
                self.touched.append(f"init {process.identity} on {process.node} is gone")
        if job.state != "Running":
            self.touched.append(f"job {job.id} is {job.state}")
        for name in ("vm1", "vm2"):
            if "here" not in self.inside(job, name, "echo here", check=False):
                self.touched.append(f"{name} of job {job.id} does not answer")


class FinishedJobs:
    """How many jobs have ended, for those who wait for one more."""

    def __init__(self) -> None:
        self.value = 0
        self._changed = threading.Condition()

    def add(self) -> None:
        """Count one more."""
        with self._changed:
            self.value += 1
            self._changed.notify_all()

    def wait(self, timeout: float) -> None:
        """Wait until another one has ended."""
        with self._changed:
            self._changed.wait(max(0.0, timeout))


finished_jobs = FinishedJobs()


def one(world: World, choice: Choice) -> Outcome:
    """Run one job to its end and look what is left of it."""
    outcome = Outcome(choice.number, choice.fault.name, choice.user)
    with ExitStack() as stack:
        row = Watched(world, choice.fault, stack, choice.user)
        try:
            choice.fault.act(row)
            row.require(row.ended, "the fault's function did not say when the job ended")
            seconds, outcome.left = row.wait_clean()
            outcome.seconds = round(seconds, 2)
        except TROUBLES as error:
            outcome.failed = brief(error)
        outcome.jobs = [subject.job.id for subject in row.subjects]
        if unended := row.unended():
            world.on("frontend", "oardel", *map(str, unended), check=False)
        if suspected := world.revive():
            outcome.left.append(f"OAR suspected {', '.join(suspected)}")
        outcome.touched = row.touched
    finished_jobs.add()
    return outcome


def soak(world: World, choices: Sequence[Choice], parallel: int, end: float) -> Iterator[Outcome]:
    """Run jobs, several at a time; begin none after a monotonic time."""
    waiting = list(choices)
    running: set[Future[Outcome]] = set()
    with ThreadPoolExecutor(parallel) as pool:
        try:
            while running or (waiting and time.monotonic() < end):
                while waiting and len(running) < parallel and time.monotonic() < end:
                    running.add(pool.submit(one, world, waiting.pop(0)))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BaseException:
            # Those that run come to their end as their jobs are deleted.
            world.delete_jobs()
            raise


def remains(world: World) -> list[str]:
    """Return what is on any node of any job whatever, and the nodes that OAR does not trust."""

    def look(node: str) -> list[str]:
        result = world.on(node, "python3", "-I", "-", stdin=KERNEL.read_text())
        found: dict[str, list[str]] = json.loads(result.stdout)
        return [f"{node}: {kind}: {thing}" for kind, things in found.items() for thing in things]

    lines = [line for found in world.everywhere(look).values() for line in found]
    lines += [f"{node} is suspected" for node in world.suspected()]
    lines += [f"job {job} of {user} has not ended" for job, user in world.unfinished().items()]
    return lines


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="tests.matrix.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=50, help="how many jobs (50)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same choices (1)")
    parser.add_argument("--parallel", type=int, default=4, help="how many at a time (4)")
    parser.add_argument("--minutes", type=float, default=60, help="no job begins after that (60)")
    parser.add_argument("--setup", choices=ALL_SETUPS, default=DEFAULT_SETUPS[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the soak; return 1 where anything was left, touched, or did not happen."""
    options = parse(argv)
    options.setup = here(options.setup)
    faults = [f for f in load().values() if f.soak and options.setup in f.setups]
    choices = [Choice.draw(options.seed, n, faults) for n in range(1, options.jobs + 1)]
    sandbox = Sandbox(say=say)
    outcomes: list[Outcome] = []
    remaining: list[str] = []
    start = time.monotonic()
    interrupted = True
    try:
        with interruptible(), world_of(sandbox, options.setup) as world:
            end = time.monotonic() + options.minutes * 60
            for outcome in soak(world, choices, options.parallel, end):
                outcomes.append(outcome)
                say(str(outcome))
            remaining = remains(world)
        interrupted = False
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        bring_up(sandbox, DEFAULT_SETUPS[0])
    spent = time.monotonic() - start
    summary = {
        "seed": options.seed,
        "setup": options.setup,
        "jobs": len(outcomes),
        "asked": options.jobs,
        "faults": dict(Counter(outcome.fault for outcome in outcomes).most_common()),
        "left": sum(len(outcome.left) for outcome in outcomes),
        "touched": sum(len(outcome.touched) for outcome in outcomes),
        "failed": sum(bool(outcome.failed) for outcome in outcomes),
        "remaining": remaining,
        "seconds": round(spent),
    }
    for key, value in summary.items():
        print(f"{key}: {value}")
    if options.json:
        data = {**summary, "outcomes": [asdict(outcome) for outcome in outcomes]}
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    good = outcomes and all(outcome.good for outcome in outcomes) and not remaining
    return 0 if good and not interrupted else 1


if __name__ == "__main__":
    sys.exit(main())
