"""What the end-to-end tests do to a cluster: submit, wait, read nodes' kernels."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from oar_lxc.linux.run import Result
from oar_lxc.sandbox.cluster import Sandbox

KERNEL = Path(__file__).parent.parent / "kernel.py"
ENDED = ("Error", "Terminated")
# Runs a command on a terminal of 33 lines and 101 columns, types a line when it is ready, and
# changes the size; so often as there are texts between bars. Prints what was written.
TERMINAL = r"""
import fcntl, os, pty, select, struct, sys, termios, time
ready, typed, *argv = sys.argv[1:]
steps, after = list(zip(ready.split("|"), typed.split("|"))), 0
pid, fd = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    os.execvp(argv[0], argv)
seen, end = b"", time.monotonic() + 30
while time.monotonic() < end:
    if not select.select([fd], [], [], 0.2)[0]:
        continue
    try:
        data = os.read(fd, 4096)
    except OSError:
        break
    if not data:
        break
    seen += data
    if steps and steps[0][0].encode() in seen[after:]:
        keys, after = steps.pop(0)[1], len(seen)
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 77, 0, 0))
        time.sleep(1)
        os.write(fd, keys.encode().decode("unicode_escape").encode("latin-1"))
sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def wait_until(what: str, condition: Callable[[], object], timeout: float = 60) -> Any:
    """Return the first true value of a condition; fail loudly after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"after {timeout:g} s still not: {what}")
        time.sleep(0.2)


@dataclass
class SubmittedJob:
    """A job that was submitted to the cluster."""

    cluster: Cluster
    id: int
    user: str

    @property
    def state(self) -> str:
        """OAR's word for the job's state."""
        text = self.cluster.frontend("oarstat", "-s", "-j", str(self.id), user=self.user).stdout
        return text.rpartition(":")[2].strip()

    def facts(self) -> dict[str, str]:
        """What ``oarstat -f`` tells of the job."""
        text = self.cluster.frontend("oarstat", "-fj", str(self.id), user=self.user).stdout
        pairs = (line.partition(" = ") for line in text.splitlines())
        return {key.strip(): value.strip() for key, _, value in pairs}

    def output(self, stream: str = "stdout") -> str:
        """What the job wrote so far."""
        # The homes are on this machine: looking again and again costs the cluster nothing.
        home = self.cluster.sandbox.state.homes / self.user
        files = (f for f in home.glob("OAR.*") if f.name.split(".")[-2:] == [str(self.id), stream])
        return "".join(file.read_text(errors="surrogateescape") for file in files)

    def wait_output(self, text: str, timeout: float = 90) -> str:
        """Wait until the job has written a text; fail at once where it ended without."""

        def look() -> str:
            output = self.output()
            if text in output:
                return output
            if self.state in ENDED and text not in self.output():
                raise AssertionError(
                    f"job {self.id} ended: {self.output()}{self.output('stderr')}"
                )
            return ""

        found: str = wait_until(f"job {self.id} writes {text!r}", look, timeout)
        return found

    def wait_end(self, timeout: float = 90) -> str:
        """Wait until OAR is done with the job and return its last state."""
        state: str = wait_until(
            f"job {self.id} ends", lambda: self.state in ENDED and self.state, timeout
        )
        return state

    def delete(self) -> None:
        """Delete the job with oardel."""
        self.cluster.frontend("oardel", str(self.id), user=self.user)


class Cluster:
    """The sandbox as tests use it.

    Args:
        sandbox: the cluster, up.
        setup: which set-up it is in.

    Attributes:
        submitted: the jobs of all tests, oldest first.
    """

    submitted: ClassVar[list[SubmittedJob]] = []

    def __init__(self, sandbox: Sandbox, setup: str) -> None:
        self.sandbox = sandbox
        self.setup = setup

    @property
    def cpuset(self) -> bool:
        """Whether OAR's cpuset is on."""
        settings = self.sandbox.state.settings()
        return settings is not None and settings.cpuset

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes."""
        return tuple(self.sandbox.nodes)

    def frontend(
        self, *argv: str, user: str = "alice", check: bool = True, timeout: float = 60
    ) -> Result:
        """Run a command on the frontend as a user, from the home directory."""
        machine = self.sandbox.machine("frontend")
        return machine.run(list(argv), user=user, check=check, timeout=timeout)

    def on(self, node: str, *argv: str, check: bool = True, stdin: str | None = None) -> Result:
        """Run a command on a machine as root."""
        return self.sandbox.machine(node).run(list(argv), check=check, input=stdin)

    def submit(self, command: str, resources: str = "", user: str = "alice") -> SubmittedJob:
        """Submit a job script with its ``#OAR`` lines, or with other resources.

        oarsub adds ``-l`` of the command line to that of the script, as an alternative.
        """
        options = ["-n", "lxc", "-t", "lxc", "-l", resources] if resources else ["-S"]
        return self.oarsub(*options, command, user=user)

    def oarsub(self, *arguments: str, user: str = "alice") -> SubmittedJob:
        """Submit any job."""
        result = self.frontend("oarsub", *arguments, user=user)
        match = re.search(r"^OAR_JOB_ID=(\d+)$", result.stdout, re.MULTILINE)
        if match is None:
            raise AssertionError(f"oarsub gave no job: {result.stdout}{result.stderr}")
        job = SubmittedJob(self, int(match[1]), user)
        self.submitted.append(job)
        return job

    def look_at_nodes(self) -> None:
        """Let OAR look at its nodes now, as it does every now and then."""
        self.on("server", "bash", "-c", "echo Finaud >/dev/tcp/server/6666")

    def published(self, node: str, job: SubmittedJob) -> dict[str, Any]:
        """What the root side published of a job on a node."""
        text = self.on(node, "cat", f"/var/lib/oar-lxc/jobs/{job.id}/job.json").stdout
        data: dict[str, Any] = json.loads(text)
        return data

    def first_ids(self, job: SubmittedJob) -> dict[str, int]:
        """The first host id of a job's range, by node; read while the job runs."""
        return {node: self.published(node, job)["first_id"] for node in self.nodes}

    def left(self, node: str, job: SubmittedJob, first_id: int) -> dict[str, list[Any]]:
        """What a node's kernel and disk have of a job, by the tests' own reader."""
        argv = ("--job", str(job.id), "--user", job.user, "--first-id", str(first_id))
        result = self.on(node, "python3", "-", *argv, stdin=KERNEL.read_text())
        found: dict[str, list[Any]] = json.loads(result.stdout)
        return {kind: things for kind, things in found.items() if things}

    def assert_nothing_left(self, job: SubmittedJob, first_ids: dict[str, int]) -> None:
        """Nothing of a job that has ended is on any node, and OAR trusts the nodes."""
        left = {node: self.left(node, job, first_id) for node, first_id in first_ids.items()}
        assert left == {node: {} for node in first_ids}
        states = self.frontend("oarnodes", "-s").stdout
        assert "Suspected" not in states
        assert "Dead" not in states
        assert "Absent" not in states


def typed(cluster: Cluster, ready: str, keys: str, *argv: str) -> Result:
    """Run a command on a terminal; when it has written ``ready``, change its size and type.

    Args:
        cluster: where; on the frontend, as alice.
        ready: what it has to have written; with several, ``|`` between them.
        keys: what is typed then, with Python's escapes; as many.
        argv: the command.
    """
    program = ["env", "TERM=xterm", "python3", "-c", TERMINAL, ready, keys, *argv]
    return cluster.frontend(*program, check=False)
