"""The demonstration: submit, watch, reach and delete a job, and check that nothing is left."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.run import Result
from oar_lxc.sandbox.cluster import Sandbox
from oar_lxc.sandbox.state import COMMAND

USER = "alice"
SCRIPT = "./jobscripts/lxc_job.py"
START_TIMEOUT = 120.0
GONE_TIMEOUT = 60.0
POLL = 0.5

# jobscripts/lxc_job.py prints this when all containers are up.
_UP = "connect from the frontend:"

Say = Callable[[str], None]
ShowTable = Callable[[list[str], list[list[str]]], None]


class DemoError(OarLxcError):
    """A step of the demonstration failed."""


@dataclass
class Demo:
    """The demonstration on a running sandbox.

    Args:
        sandbox: the running cluster.
        say: prints a line.
        table: prints a table: titles, rows.
    """

    sandbox: Sandbox
    say: Say
    table: ShowTable

    def run(self) -> None:
        """Show a job from its submission to the check that nothing is left.

        Raises:
            DemoError: a step failed; the job is deleted.
        """
        job = self._submit()
        try:
            self._follow(job)
            containers = self._show(job)
            self._connect(job, containers)
            ids = {node: self._first_id(node, job) for node in self.sandbox.nodes}
        except BaseException:
            self._alice("oardel", job, check=False)
            with suppress(OSError):  # nobody reads it any more
                self.say(
                    f"job {job} is deleted; the cluster stays up: `{COMMAND} sandbox down` "
                    "removes it"
                )
            raise
        self._kill(job, containers, ids)

    def _alice(self, *argv: str, check: bool = True, timeout: float = 60) -> Result:
        result = self.sandbox.machine("frontend").run(
            list(argv), user=USER, timeout=timeout, check=False
        )
        if check and result.status != 0:
            raise DemoError(
                f"{' '.join(argv)} ended with status {result.status}: "
                f"{(result.stderr or result.stdout).strip()}"
            )
        return result

    def _submit(self) -> str:
        self.say(f"{USER}@frontend:~$ oarsub -S {SCRIPT}")
        output = self._alice("oarsub", "-S", SCRIPT).stdout
        match = re.search(r"^OAR_JOB_ID=(\d+)$", output, re.MULTILINE)
        if match is None:
            raise DemoError(f"oarsub gave no job id:\n{output}")
        self.say(f"OAR_JOB_ID={match[1]}")
        return match[1]

    def _follow(self, job: str) -> None:
        """Print the job's states and output as they come, until its containers are up."""
        begin, end = time.monotonic(), Deadline.after(START_TIMEOUT)
        state, shown = "", 0
        while not end.passed:
            now = self._state(job)
            if now != state:
                state = now
                self.say(f"[{time.monotonic() - begin:5.1f} s] job {job} is {state}")
            lines = self._output(job, "stdout").splitlines()
            for line in lines[shown:]:
                self.say(f"[{time.monotonic() - begin:5.1f} s]   {line}")
            shown = len(lines)
            if any(line.startswith(_UP) for line in lines):
                return
            if state in ("Error", "Terminated"):
                raise DemoError(f"job {job} is {state}:\n{self._output(job, 'stderr')}")
            time.sleep(POLL)
        raise DemoError(f"job {job} had no containers after {START_TIMEOUT:.0f} s")

    def _state(self, job: str) -> str:
        text = self._alice("oarstat", "-s", "-j", job).stdout
        return text.rpartition(":")[2].strip()

    def _output(self, job: str, stream: str) -> str:
        name = f"/home/{USER}/OAR.lxc.{job}.{stream}"
        return self._alice("sh", "-c", f"cat {name} 2>/dev/null || true").stdout

    def _show(self, job: str) -> list[dict[str, Any]]:
        containers: list[dict[str, Any]] = json.loads(
            self._alice("oar-lxc", "list", job, "--json").stdout
        )
        if not containers:
            raise DemoError(f"oar-lxc list shows no containers of job {job}")
        rows = [
            [
                c["name"],
                c["node"],
                c["address"],
                str(c["pid"]),
                c["cpus"],
                c["cgroup"],
                f"{c['start_seconds'] * 1000:.0f} ms",
                f"{c['ready_seconds'] * 1000:.0f} ms",
            ]
            for c in containers
        ]
        titles = ["container", "node", "address", "init", "CPUs", "cgroup", "RUNNING", "ssh"]
        self.table(titles, rows)
        return containers

    def _connect(self, job: str, containers: list[dict[str, Any]]) -> None:
        for container in containers:
            name = container["name"]
            command = ("sh", "-c", "echo $(hostname): $(nproc) CPU")
            said = self._alice("oar-lxc", "exec", f"{job}/{name}", "--", *command).stdout.strip()
            self.say(f"{USER}@frontend:~$ oar-lxc exec {job}/{name} → {said}")
            if not said.startswith(f"{name}:"):
                raise DemoError(f"container {name} answered {said!r}")
        name = containers[0]["name"]
        said = self._alice("oar-lxc", "ssh", f"{job}/{name}", "uname", "-n").stdout.strip()
        self.say(f"{USER}@frontend:~$ oar-lxc ssh {job}/{name} uname -n → {said}")
        if said != name:
            raise DemoError(f"ssh to {name} reached {said!r}")

    def _first_id(self, node: str, job: str) -> int:
        path = f"/var/lib/oar-lxc/jobs/{job}/job.json"
        text = self.sandbox.machine(node).run(["cat", path]).stdout
        return int(json.loads(text)["first_id"])

    def _kill(self, job: str, containers: list[dict[str, Any]], ids: dict[str, int]) -> None:
        self.say(f"{USER}@frontend:~$ oardel {job}")
        begin, end = time.monotonic(), Deadline.after(GONE_TIMEOUT)
        self._alice("oardel", job)
        left: dict[str, dict[str, list[object]]] = {}
        while not end.passed:
            left = {node: self._left(node, job, first_id) for node, first_id in ids.items()}
            if not any(found for kinds in left.values() for found in kinds.values()):
                break
            time.sleep(0.1)
        else:
            raise DemoError(f"left of job {job} after {GONE_TIMEOUT:.0f} s: {left}")
        self.say(f"everything of job {job} was gone {time.monotonic() - begin:.1f} s after oardel")
        kinds = list(next(iter(left.values())))
        rows = [[node, *(str(len(found[kind])) for kind in kinds)] for node, found in left.items()]
        self.say("left in the kernel and on the disk of each node:")
        self.table(["node", *kinds], rows)
        self._nodes_alive(job, end)

    def _left(self, node: str, job: str, first_id: int) -> dict[str, list[object]]:
        ids = f"--first-id={first_id}"
        result = self.sandbox.machine(node).run(
            ["oar-lxc-node", "leftovers", "--json", f"--job={job}", f"--user={USER}", ids],
            check=False,
        )
        try:
            found: dict[str, list[object]] = json.loads(result.stdout)
        except ValueError as error:
            raise DemoError(f"cannot read what is left on {node}: {result.stderr}") from error
        return found

    def _nodes_alive(self, job: str, end: Deadline) -> None:
        while self._state(job) not in ("Error", "Terminated"):
            if end.passed:
                raise DemoError(f"job {job} is still {self._state(job)}")
            time.sleep(POLL)
        text = self._alice("oarnodes", "-s").stdout
        suspect = [line for line in text.splitlines() if "Suspected" in line or "Dead" in line]
        if suspect:
            raise DemoError(f"OAR distrusts nodes after job {job}: {'; '.join(suspect)}")
        state = self._state(job)
        self.say(
            f"OAR is done with job {job} ({state}, its word for a deleted one); nodes are Alive"
        )


def next_steps() -> list[str]:
    """Return commands that a new user may want to type next."""
    return [
        f"{COMMAND} sandbox shell --user alice frontend",
        'oarsub -S "./jobscripts/lxc_job.py --per-node 2 -- hostname"   (there)',
        f"{COMMAND} sandbox down",
    ]
