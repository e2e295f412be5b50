"""What tests share that run job scripts and programs of the job's user on a prepared node."""

from __future__ import annotations

import json
import pwd
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oar_lxc.linux.run import Result
from tests.pretend import PYTHON, PretendJob, checkout

PROGRESS = re.compile(r"(?m)^(asking|copying|restarting|starting|stopping)\b.*: \d+ s.*\n")


@dataclass(frozen=True)
class Running:
    """A job whose script runs, with two containers that answer.

    Attributes:
        job: the job.
        process: the job script.
    """

    job: PretendJob
    process: subprocess.Popen[str]

    def cli(self, *arguments: str) -> Result:
        """Run ``oar-lxc`` inside the job; leave out the progress that a busy machine shows."""
        done = self.job.run([PYTHON, "-m", "oar_lxc.cli.main", *arguments])
        return replace(done, stderr=PROGRESS.sub("", done.stderr))

    def inside(self, name: str, line: str) -> str:
        """Run a shell line in a container, which must succeed; return what it wrote."""
        done = self.cli("exec", name, "--", "sh", "-c", line)
        assert done.status == 0, done.stderr
        return done.stdout.strip()

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return what is told of the containers, by name."""
        found = json.loads(self.cli("list", "--json").stdout)
        return {container["name"]: container for container in found}


def start_script(job: PretendJob, *arguments: str, until: str = "end the job") -> Running:
    """Start the job script; return when it has printed a line that starts so."""
    script = str(checkout() / "jobscripts/lxc_job.py")
    process = job.start([PYTHON, "-u", script, *arguments])
    for line in process.stdout or ():
        if line.startswith(until):
            return Running(job, process)
    raise AssertionError(process.stderr and process.stderr.read())


def close(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


PROGRAM = """
import os, signal, sys, time
from oar_lxc import Group, Session
with Session(Group(per_node=2)) as session:
    print(*(container.init_pid for container in session.containers), flush=True)
    {body}
print("after the block", flush=True)
"""


def start_program(job: PretendJob, body: str) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a program with a session of two containers; return it and the inits' ids."""
    process = job.start([PYTHON, "-c", PROGRAM.format(body=body)])
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate()[1])
    return process, [int(word) for word in line.split()]


def write_spec(job: PretendJob, text: str) -> str:
    """Write a spec where the job's user can read it."""
    path = Path(pwd.getpwnam(job.user).pw_dir) / f"spec-{job.id}.toml"
    path.write_text(text)
    return str(path)
