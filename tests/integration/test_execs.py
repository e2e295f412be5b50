"""What a job runs for its containers: with no rights but its user's, and no open file inside."""

from __future__ import annotations

import os
import pwd
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.image.building import build
from oar_lxc.linux.run import run
from tests.integration.jobs import close, start_script
from tests.pretend import PYTHON, PretendJob, checkout

IMAGE = "still:1"
# What runs inside has other names than programs of the node.
INIT = "#!/bin/busybox sh\nexec /bin/busybox sleep 100000\n"
FORMER = {"newuidmap", "newgidmap", "lxc-user-nic", "lxc-usernsexec"}
# Waits until it is traced, and runs one program that the trace must tell of.
TRACED = 'read _; passwd --help >/dev/null; exec "$@"'
EXEC = re.compile(r'^(?:\d+ +)?execve(?:at)?\((?:\w+, )?"([^"]+)".* = 0$', re.MULTILINE)


@pytest.fixture
def image(job: PretendJob, tmp_path: Path) -> Iterator[str]:
    """Let the user have an image of their own whose init runs nothing else."""
    tree = build("busybox", tmp_path / "store")
    (tree / "sbin/init").unlink()
    (tree / "sbin/init").write_text(INIT)
    (tree / "sbin/init").chmod(0o755)
    archive = Path(pwd.getpwnam(job.user).pw_dir) / "still.tar"
    run(["tar", "--numeric-owner", "-C", str(tree), "-cf", str(archive), "."])
    cli = [PYTHON, "-m", "oar_lxc.cli.main", "image"]
    done = job.run([*cli, "import", IMAGE, str(archive)])
    assert done.status == 0, done.stderr
    yield IMAGE
    job.run([*cli, "rm", IMAGE, "--force"])


def execs(job: PretendJob, trace: Path, *argv: str) -> list[str]:
    """Run a program of the job's user, which must succeed; return all that it and others exec."""
    reader, writer = os.pipe()
    with job.start(["sh", "-c", TRACED, "sh", *argv], stdin=reader) as process:
        os.close(reader)
        strace = ["strace", "-ff", "-o", str(trace), "-e", "trace=execve,execveat"]
        with subprocess.Popen(
            [*strace, "-p", str(process.pid)], stderr=subprocess.PIPE, text=True
        ) as tracer:
            try:
                assert tracer.stderr is not None
                assert "attached" in tracer.stderr.readline()
                os.write(writer, b"\n")
                out, err = process.communicate(timeout=180)
                assert process.returncode == 0, out + err
            finally:
                os.close(writer)
                process.kill()
                tracer.terminate()
                tracer.communicate(timeout=20)
    found = (EXEC.findall(path.read_text()) for path in trace.parent.glob(f"{trace.name}.*"))
    return [path for paths in found for path in paths]


def gives_rights(path: str) -> bool:
    """Whether a program of the node runs with more rights than who executes it."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:  # inside a container
        return False
    by_mode = mode & stat.S_ISUID or (mode & stat.S_ISGID and mode & stat.S_IXGRP)
    return bool(by_mode) or "security.capability" in os.listxattr(path)


def test_no_program_that_gives_rights_runs_for_containers(
    job: PretendJob, image: str, tmp_path: Path
) -> None:
    script = str(checkout() / "jobscripts/lxc_job.py")
    options = ["--image", image, "--per-node", "2", "--wait", "running"]
    argv = [PYTHON, script, *options, "--", "/bin/busybox", "true"]
    found = execs(job, tmp_path / "trace", *argv)
    names = [Path(path).name for path in found]
    assert {"ip", "tar", "rm"} <= {*names}
    assert names.count("init") == 2
    assert names.count("busybox") >= 2  # in each container
    assert {*names} & FORMER == set()
    assert [path for path in found if gives_rights(path)] == ["/usr/bin/passwd"]


def test_what_runs_inside_has_no_file_of_the_node_open(job: PretendJob, image: str) -> None:
    """A directory or a namespace of the node would be a way out."""
    running = start_script(job, "--image", image, "--wait", "running")
    try:
        pid = running.containers()["vm1"]["pid"]
        assert {*os.listdir(f"/proc/{pid}/fd")} == {"0", "1", "2"}
        assert {os.readlink(f"/proc/{pid}/{name}") for name in ("cwd", "root")} == {"/"}
        shown = running.inside("vm1", "busybox ls /proc/$$/fd; busybox readlink /proc/$$/cwd")
        assert shown.split() == ["0", "1", "2", "/root"]
    finally:
        close(running.process)
