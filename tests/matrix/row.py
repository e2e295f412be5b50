"""One row of the matrix: a fault while it happens, and what became of its jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.cluster import ENDED, SubmittedJob, wait_until
from tests.matrix.registry import Fault
from tests.matrix.world import MatrixJob, Process, World

SCRIPT = "./jobscripts/lxc_job.py"
RESOURCES = "nodes=2/core=1,walltime=0:20:0"
UP = "connect from the frontend:"
POLL = 0.25
REAPER_PATIENCE = 60  # seconds in which the reaper, started by a hook, does what it was given


class NoFaultError(Exception):
    """The fault did not happen as it should: the row tells nothing."""


@dataclass
class Subject:
    """A job at fault.

    Attributes:
        job: the job.
        first_ids: first id of its range by node, as far as they were seen.
    """

    job: MatrixJob
    first_ids: dict[str, int] = field(default_factory=dict)


class Row:
    """What a fault's function is given.

    Args:
        world: the cluster.
        fault: the fault.
        user: whose jobs are at fault.
        stack: is closed when the row is over.
        bystanders: ids of jobs that have nothing to do with it.
    """

    def __init__(
        self,
        world: World,
        fault: Fault,
        stack: ExitStack,
        user: str = "alice",
        bystanders: Sequence[int] = (),
    ) -> None:
        self.world = world
        self.fault = fault
        self.user = user
        self.stack = stack
        self.bystanders = tuple(bystanders)
        self.subjects: list[Subject] = []
        self.notes: list[str] = []
        self.ended = 0.0

    # What faults do

    def submit(
        self,
        command: str = SCRIPT,
        resources: str = RESOURCES,
        user: str = "",
        types: Sequence[str] = (),
        where: str = "",
    ) -> MatrixJob:
        """Submit a job at fault; it is watched from now on."""
        job = self.world.start(command, resources, user or self.user, types, where)
        self.watch(job)
        return job

    def watch(self, job: MatrixJob) -> None:
        """Count a job among those of which nothing may be left."""
        self.subjects.append(Subject(job))

    def run(
        self,
        command: str = SCRIPT,
        resources: str = RESOURCES,
        user: str = "",
        types: Sequence[str] = (),
    ) -> MatrixJob:
        """Submit a job and wait until its containers are up."""
        job = self.submit(command, resources, user, types)
        job.wait_output(UP)
        self.learn(job)
        return job

    def learn(self, job: SubmittedJob) -> None:
        """Note the job's id ranges, which tell its processes apart."""
        subject = next(x for x in self.subjects if x.job is job)

        def first(node: str) -> int:
            path = f"/var/lib/oar-lxc/jobs/{job.id}"
            result = self.world.on(node, "stat", "-c", "%g", path, check=False)
            return int(result.stdout) if result.status == 0 else 0

        subject.first_ids |= {n: i for n, i in self.world.everywhere(first).items() if i}

    def end(self) -> None:
        """Note that from now on the time runs in which everything has to go."""
        self.ended = time.monotonic()

    def delete(self, job: SubmittedJob) -> None:
        """Delete a job as its user does."""
        self.end()
        job.delete()

    def note(self, text: str) -> None:
        """Keep a remark for the table."""
        if text not in self.notes:
            self.notes.append(text)

    def require(self, happened: object, what: str) -> None:
        """Stop the row where the fault did not happen.

        Raises:
            NoFaultError: ``happened`` is false.
        """
        if not happened:
            raise NoFaultError(what)

    def wait(self, what: str, condition: Callable[[], object], timeout: float = 60) -> Any:
        """Wait for something; see :func:`tests.e2e.cluster.wait_until`."""
        return wait_until(what, condition, timeout)

    def head(self, job: SubmittedJob) -> str:
        """Return the node on which OAR started the job's script."""
        path = f"/var/lib/oar/pid_of_oarexec_for_jobId_{job.id}"

        def has(node: str) -> bool:
            return self.world.on(node, "test", "-e", path, check=False).status == 0

        return next(node for node, found in self.world.everywhere(has).items() if found)

    def other(self, job: SubmittedJob) -> str:
        """Return a node of the job that is not its first one."""
        head = self.head(job)
        return next(node for node in self.world.nodes if node != head)

    def process(self, node: str, job: SubmittedJob, word: str) -> Process:
        """Return the one process of a job whose command has a word; wait until there is one."""

        def find() -> Process | None:
            found = [
                process
                for process in self.world.processes(node)
                if word in process.command and self.belongs(process, job)
            ]
            return found[0] if found else None

        process: Process = self.wait(f"{node} runs {word} of job {job.id}", find)
        return process

    def belongs(self, process: Process, job: SubmittedJob) -> bool:
        """Whether a process is of a job, by its environment, arguments or cgroup."""
        return (
            process.job == job.id
            or f"/jobs/{job.id}/" in process.command
            or f" {job.id} " in f"{process.command} "
            or f"/{job.user}_{job.id}/" in process.cgroup
        )

    def inits(self, job: SubmittedJob, node: str) -> list[Process]:
        """Return the containers' first processes on a node."""
        everything = self.world.processes(node)
        mark = f"[lxc monitor] /var/lib/oar-lxc/jobs/{job.id}/containers "
        monitors = {x.pid for x in everything if x.command.startswith(mark)}
        return [x for x in everything if x.parent in monitors]

    def inside(
        self, job: MatrixJob, vm: str, script: str, check: bool = True, seconds: float = 60
    ) -> str:
        """Run a shell script as root in a container; return what it writes."""
        command = ["oar-lxc", "exec", f"{job.id}/{vm}", "--", "sh", "-c", script]
        result = self.world.frontend(*command, user=job.user, check=check, timeout=seconds)
        return result.stdout

    def dies(self, process: Process) -> None:
        """Wait until a process that was killed is dead.

        Raises:
            NoFaultError: it lives on.
        """
        try:
            self.wait(f"{process.comm} is dead", lambda: not self.world.lives(process), 10)
        except TimeoutError as error:
            raise NoFaultError(str(error)) from error

    # What the matrix does after it

    def left(self) -> dict[str, dict[str, list[str]]]:
        """Return what is left now, by job and node."""
        pairs = [(subject, node) for subject in self.subjects for node in self.world.nodes]

        def look(pair: tuple[Subject, str]) -> dict[str, list[str]]:
            subject, node = pair
            return self.world.left(node, subject.job, subject.first_ids.get(node, 0))

        with ThreadPoolExecutor(4) as pool:
            found = zip(pairs, pool.map(look, pairs), strict=True)
            return {f"{s.job.id} on {node}": things for (s, node), things in found if things}

    def unended(self) -> dict[int, str]:
        """Return the states of the jobs at fault that OAR has not ended."""
        states = {subject.job.id: subject.job.state for subject in self.subjects}
        return {job: state for job, state in states.items() if state not in ENDED}

    def wait_clean(self) -> tuple[float, list[str]]:
        """Wait until all is gone and OAR is done.

        Returns:
            Seconds from the end of the job to nothing left on any node, and what is left all the
            same, a line each.
        """
        limit = self.ended + self.fault.patience
        gone = 0.0
        over = False
        while True:
            now = time.monotonic()
            left = self.left()
            gone = 0.0 if left else gone or now
            if not over and not self.unended():
                over = True
                limit = min(limit, now + REAPER_PATIENCE)
            if over and not left:
                return gone - self.ended, []
            if now > limit:
                lines = [
                    f"{kind} of {where}: {', '.join(things)}"
                    for where, kinds in left.items()
                    for kind, things in kinds.items()
                ]
                lines += [f"job {job} is {state}" for job, state in self.unended().items()]
                return now - self.ended, lines
            time.sleep(POLL)

    def layer(self) -> str:
        """Return what removed the jobs' containers, from the nodes' own logs."""
        jobs = [subject.job.id for subject in self.subjects]
        logs = self.world.everywhere(lambda node: self.world.log(node, *jobs))
        events = [x for log in logs.values() for x in log if x["event"] == "destroyed"]
        killers = [x["layer"] for x in events if x.get("killed")]
        if killers:
            return _join(killers)
        removers = _join([x["layer"] for x in _first(events)])
        # Whoever unwinds destroys the containers; OAR's kill leaves no exit status of its own.
        codes = [subject.job.exit_code for subject in self.subjects]
        by_itself = all(code is not None and code & 0x7F == 0 for code in codes)
        return f"{'script' if by_itself else 'kill'}, {removers}" if removers else "not logged"


def _first(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events of those that came first to each job and node: they removed the files."""
    seen: dict[tuple[object, object], dict[str, Any]] = {}
    for event in events:
        seen.setdefault((event["job"], event.get("node")), event)
    return list(seen.values())


def _join(layers: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(layers))
