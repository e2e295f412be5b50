"""The sandbox as the matrix uses it: jobs, nodes, OAR's database, and back to a sane state."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.run import Result
from oar_lxc.sandbox.cluster import not_alive
from tests.e2e.cluster import ENDED, Cluster, SubmittedJob, wait_until
from tests.matrix.faultpoint import HERE as HOOKS_DIRECTORY

ONNODE = Path(__file__).parent / "onnode.py"
CORES = 8  # a node's, as OAR sees it: bystanders, the job at fault and others need room
CONF = "/etc/oar/oar.conf"
# When a job that is to be deleted does not hear of it, OAR waits 300 s before it exterminates it.
IMPATIENT = {"JOBDEL_SOFTWALLTIME": 2, "JOBDEL_WALLTIME": 5}
OAR_FILES = "/var/lib/oar"
OAR_FILE = re.compile(r"(?:\w+_)?(\d+)(?:_resources|\.env|\.jobkey)?")
EXTRA = 100  # cores that the matrix adds are numbered from here


@dataclass(frozen=True)
class Process:
    """A process on a node.

    Attributes:
        node: where.
        pid: its number.
        identity: number and start time.
        parent: number of its parent.
        uid: its user's number.
        job: the job that its environment names, 0 where none.
        state: the kernel's letter.
        comm: the kernel's name for it.
        command: its arguments.
        cgroup: its cgroups.
    """

    node: str
    pid: int
    identity: str
    parent: int
    uid: int
    job: int
    state: str
    comm: str
    command: str
    cgroup: str


class World(Cluster):
    """The cluster, with what faults need."""

    def ask(self, node: str, question: str, **options: object) -> Any:
        """Ask a node something; see :mod:`tests.matrix.onnode`."""
        argv = ["python3", "-I", "-", question, json.dumps(options)]
        machine = self.sandbox.machine(node)
        return json.loads(machine.run(argv, input=ONNODE.read_text()).stdout)

    def everywhere(self, act: Any, nodes: Sequence[str] = ()) -> dict[str, Any]:
        """Do something with every node at once; return the answers by node."""
        names = nodes or self.nodes
        with ThreadPoolExecutor(len(names)) as pool:
            return dict(zip(names, pool.map(act, names), strict=True))

    def as_user(self, node: str, user: str, *argv: str, check: bool = True) -> Result:
        """Run a command on a machine as a user."""
        return self.sandbox.machine(node).run(list(argv), user=user, check=check)

    # Jobs

    def sql(self, query: str) -> list[list[str]]:
        """Ask OAR's database."""
        argv = ["su", "postgres", "-c", f"psql -d oar -At -c {shlex.quote(query)}"]
        text = self.sandbox.machine("server").run(argv).stdout
        return [line.split("|") for line in text.splitlines()]

    def start(
        self, command: str, resources: str, user: str, types: Sequence[str] = (), where: str = ""
    ) -> MatrixJob:
        """Submit a job.

        Args:
            command: the job's script with its arguments.
            resources: what ``-l`` takes.
            user: whose job.
            types: more types than ``lxc``.
            where: what ``-p`` takes.
        """
        options = ["-n", "lxc", "-l", resources, *(["-p", where] if where else [])]
        for name in ("lxc", *types):
            options += ["-t", name]
        result = self.frontend("oarsub", *options, command, user=user)
        match = re.search(r"^OAR_JOB_ID=(\d+)$", result.stdout, re.MULTILINE)
        if match is None:
            raise AssertionError(f"oarsub gave no job: {result.stdout}{result.stderr}")
        return MatrixJob(self, int(match[1]), user)

    def unfinished(self) -> dict[int, str]:
        """Return the users of the jobs that OAR has not ended."""
        states = ", ".join(f"'{state}'" for state in ENDED)
        rows = self.sql(f"SELECT job_id, job_user FROM jobs WHERE state NOT IN ({states})")
        return {int(job): user for job, user in rows}

    def resubmitted(self, job: int) -> list[int]:
        """Return the jobs that OAR submitted in place of one that it could not start."""
        return [
            int(row[0])
            for row in self.sql(f"SELECT job_id FROM jobs WHERE resubmit_job_id = {job}")
        ]

    def delete_jobs(self, keep: Collection[int] = (), timeout: float = 150) -> None:
        """Delete all jobs but some and wait until they have ended."""
        others = sorted(self.unfinished().keys() - set(keep))
        if others:
            self.on("frontend", "oardel", *map(str, others), check=False)
            wait_until(
                f"jobs {others} end",
                lambda: not self.unfinished().keys() & set(others),
                timeout,
            )

    # Nodes

    def processes(self, node: str, job: int = 0) -> list[Process]:
        """Return a node's processes: all, or those whose environment names a job."""
        found = [
            Process(node, **{**data, "state": "".join(data["state"])})
            for data in self.ask(node, "processes")
        ]
        return [process for process in found if not job or process.job == job]

    def signal(self, process: Process, number: int) -> None:
        """Send a signal to a process that must still be there."""
        answer = self.ask(process.node, "kill", identity=process.identity, signal=int(number))
        if answer != process.identity:
            raise AssertionError(f"{process.command} is gone, its number is another's")

    def lives(self, process: Process) -> bool:
        """Whether a process still is, not dead and not another of its number."""
        return bool(self.ask(process.node, "alive", identities=[process.identity]))

    def log(self, node: str, *jobs: int) -> list[dict[str, Any]]:
        """Return what the node's log has of jobs."""
        events: list[dict[str, Any]] = self.ask(node, "log", jobs=jobs)
        return events

    def answers(self, machine: str, port: int) -> bool:
        """Whether a machine takes connections from the server at a port."""
        script = f"exec 3<>/dev/tcp/{machine}/{port}"
        return self.on("server", "timeout", "3", "bash", "-c", script, check=False).status == 0

    def switch_on(self, name: str) -> None:
        """Have a machine run, a node so that OAR can reach it."""
        machine = self.sandbox.machine(name)
        if not machine.running:
            machine.start()
            # A real machine keeps its hardware address; here the others know an old one.
            for other in self.sandbox.names():
                self.on(other, "ip", "neigh", "flush", "all")
            if name in self.nodes:
                wait_until(f"{name} has sshd for OAR", lambda: self.answers(name, 6667))

    def sshd_off(self, node: str) -> None:
        """Stop a node's sshd for OAR; its sessions go on."""
        # The service does not do it: its process stays when the unit is stopped.
        script = 'systemctl stop oar-node; kill "$(cat /run/oar-node_sshd.pid)"'
        self.on(node, "sh", "-c", script)
        wait_until(f"{node} has no sshd for OAR", lambda: not self.answers(node, 6667), 20)

    def sshd_on(self, node: str) -> None:
        """Have a node's sshd for OAR run."""
        if not self.answers(node, 6667):
            self.on(node, "systemctl", "restart", "oar-node")
            wait_until(f"{node} has sshd for OAR", lambda: self.answers(node, 6667))

    def suspected(self) -> list[str]:
        """Return the nodes that OAR does not trust."""
        return not_alive(self.frontend("oarnodes", "-s").stdout)

    def revive(self) -> list[str]:
        """Tell OAR that all nodes are fine, as an administrator; return those it suspected."""
        names = self.suspected()
        for name in names:
            self.on("server", "oarnodesetting", "-h", name, "-s", "Alive")
        if names:
            wait_until("all nodes are Alive", lambda: not self.suspected(), 30)
        return names

    def restore(self, keep: Collection[int] = ()) -> None:
        """Bring the cluster back to a sane state: machines, services, hooks, jobs, nodes."""
        for name in self.sandbox.names():
            self.switch_on(name)
        self.everywhere(self.unwrap)
        self.everywhere(self.sshd_on)
        if self.on("server", "systemctl", "is-active", "oar-server", check=False).status != 0:
            self.on("server", "systemctl", "start", "oar-server")
        with self.configured(**IMPATIENT):
            self.delete_jobs(keep)
        self.everywhere(lambda node: self.on(node, "oar-lxc-node", "reap", check=False))
        running = self.unfinished()
        self.everywhere(lambda node: self._sweep(node, running))
        self.revive()

    def _sweep(self, node: str, running: Collection[int]) -> None:
        """Take away what OAR and the product left of jobs that have ended, after it was told."""
        for process in self.processes(node):
            if process.job and process.job not in running:
                with contextlib.suppress(AssertionError, OarLxcError):  # it has just ended
                    self.signal(process, signal.SIGKILL)
        names = self.on(node, "find", OAR_FILES, "-maxdepth", "1", "-printf", "%f\\n").stdout
        for name in names.split():
            match = OAR_FILE.fullmatch(name)
            if match and int(match[1]) not in running:
                self.on(node, "rm", f"{OAR_FILES}/{name}")

    def unwrap(self, node: str) -> None:
        """Take away whatever stands in the place of the node's own command."""
        target = "/usr/sbin/oar-lxc-node"
        script = f"while umount {target} 2>/dev/null; do :; done; rm -rf {HOOKS_DIRECTORY}"
        self.on(node, "sh", "-c", script)

    def tidy_homes(self) -> None:
        """Remove what the matrix's jobs wrote into homes."""
        for user in ("alice", "bob"):
            self.as_user("frontend", user, "sh", "-c", "rm -rf OAR.lxc.*.std* matrix")

    @contextlib.contextmanager
    def configured(self, **settings: object) -> Iterator[None]:
        """Have other settings in the server's ``oar.conf``: what starts from now on reads them."""
        pattern = "|".join(settings)
        lines = "".join(f'{key}="{value}"\n' for key, value in settings.items())
        before = self.on("server", "cat", CONF).stdout
        kept = re.sub(rf"^(?:{pattern})=.*\n", "", before, flags=re.MULTILINE)
        write = ("server", "sh", "-c", f"cat > {CONF}")  # in place: owner and mode stay
        self.on(*write, stdin=kept + lines)
        try:
            yield
        finally:
            self.on(*write, stdin=before)

    # Room for several jobs at once

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        """Give each node cores enough for several jobs, which share its CPUs."""
        self._add_cores()
        try:
            yield
        finally:
            self._remove_cores()

    def _add_cores(self) -> None:
        count = "SELECT network_address, count(*), max(cpu) FROM resources GROUP BY 1"
        for node, cores, cpu in self.sql(count):
            number = int(re.sub(r"\D", "", node)) * EXTRA
            for core in range(int(cores), CORES):
                properties = {"host": node, "cpu": cpu, "core": number + core, "cpuset": core % 2}
                words = [w for k, v in properties.items() for w in ("-p", f"{k}={v}")]
                self.on("server", "oarnodesetting", "-a", "-h", node, *words)

    def _remove_cores(self) -> None:
        rows = self.sql(f"SELECT resource_id FROM resources WHERE core >= {EXTRA}")
        for (resource,) in rows:
            self.on("server", "oarnodesetting", "-r", resource, "-s", "Dead")
        for (resource,) in rows:
            self.on("server", "oarremoveresource", resource)


class MatrixJob(SubmittedJob):
    """A job whose facts come from OAR's database, which is quicker to ask than its commands."""

    cluster: World

    @property
    def state(self) -> str:
        """OAR's word for the job's state."""
        return self.cluster.sql(f"SELECT state FROM jobs WHERE job_id = {self.id}")[0][0]

    @property
    def exit_code(self) -> int | None:
        """How the job's script ended, as wait(2) tells it; None where OAR does not know."""
        row = self.cluster.sql(f"SELECT exit_code FROM jobs WHERE job_id = {self.id}")[0]
        return int(row[0]) if row[0] else None

    @property
    def events(self) -> list[str]:
        """The types of the events that OAR logged of the job."""
        query = f"SELECT type FROM event_logs WHERE job_id = {self.id} ORDER BY event_id"
        return [row[0] for row in self.cluster.sql(query)]
