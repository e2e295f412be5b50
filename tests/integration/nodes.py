"""What tests share about a node: OAR's cgroups, its reaper, a root side killed at a step."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from oar_lxc.linux.run import run
from tests.integration.conftest import left
from tests.pretend import CGROUPS, CONTROLLERS, PYTHON, VERSION_2, PretendJob, checkout


def oar_cgroups(job: PretendJob) -> list[str]:
    """Return OAR's own cgroups of a job, which are OAR's to remove."""
    if VERSION_2:
        return [str(job.slice_path)]
    return sorted(str(CGROUPS / controller / job.cgroup[1:]) for controller in CONTROLLERS)


KILL_AT = """
import os, pkgutil, signal, sys
owner, _, name = sys.argv.pop(1).rpartition(".")
left = int(sys.argv.pop(1))
import oar_lxc.root.prepare, oar_lxc.root.destroy
real = getattr(pkgutil.resolve_name(owner), name)
def die(*arguments, **options):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)
setattr(pkgutil.resolve_name(owner), name, die)
from oar_lxc.root.main import main
main()
"""


def node_side_killed_at(job: PretendJob, step: str, *arguments: str, call: int = 1) -> None:
    """Run the root side until the first, or another, call of a function, and kill it there."""
    assert node_side_until(job, step, *arguments, call=call)


def node_side_until(job: PretendJob, step: str, *arguments: str, call: int = 1) -> bool:
    """Do the same; return whether it got there, else it must have been carried out."""
    common = ["--job", str(job.id), "--user", job.user, "--cgroup", job.cgroup]
    done = subprocess.run(
        [PYTHON, "-c", KILL_AT, step, str(call), arguments[0], *common, *arguments[1:]],
        env={"PYTHONPATH": str(checkout()), "PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
    )
    assert done.returncode in (0, -9), done.stderr
    return done.returncode == -9


# Puts itself into the delegated cgroups, as the agent does, then runs what it is given.
ENTER = """
import os, sys
from oar_lxc.agent.prepared import open_job
from oar_lxc.linux.cgroups import enter_cgroups
published = open_job(int(sys.argv[1]))[1]
enter_cgroups(published.cgroups, published.unit)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def in_cgroups(job: PretendJob, *argv: str) -> subprocess.Popen[str]:
    """Start a program of the user in the job's delegated cgroups."""
    return job.start([PYTHON, "-c", ENTER, str(job.id), *argv])


@contextmanager
def instead(path: Path, kind: str) -> Iterator[None]:
    """Put something else in the place of a file until the end of the block."""
    kept = path.with_name(f".{path.name}.kept-by-test")
    had = os.path.lexists(path)
    if had:
        path.rename(kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _make(path, kind)
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if had:
            with suppress(FileNotFoundError):  # it is gone with its directory
                kept.rename(path)


def _make(path: Path, kind: str) -> None:
    if kind == "binary":
        path.write_bytes(b"\xff\0\n" * 9)
    elif kind == "empty":
        path.touch()
    elif kind == "wrong":
        path.write_text("[hooks]\ndeadlin = 30\n")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif kind == "directory":
        (path / "below").mkdir(parents=True)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    elif kind == "another's":
        path.touch()
        os.chown(path, 65534, 65534)
    else:
        assert kind == "missing"


def assert_reaped(job: PretendJob, first_id: int) -> None:
    """The reaper tries again, and knows."""
    argv = [PYTHON, "-IS", str(checkout() / "oar-lxc-node"), "reap", "--grace", "0"]
    done = run([*argv, "--ended", str(job.id)], check=False)
    assert f"destroyed: job {job.id} " in done.stdout
    assert left(job, first_id) == {}
