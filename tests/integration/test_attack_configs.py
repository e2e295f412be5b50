"""Configurations, environments and directories of a user, as traps for whoever runs as root."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from oar_lxc.model.layout import JobLayout
from oar_lxc.setup.deb import OAR_LXC_NODE
from tests.integration.conftest import containers_of, left, published
from tests.integration.nodes import in_cgroups, oar_cgroups
from tests.pretend import PYTHON, PretendJob, checkout

HOOKS = ["pre-start", "pre-mount", "mount", "autodev", "start-host", "start", "stop"]
HOOKS += ["post-stop", "clone", "destroy"]


@dataclass
class Trap:
    """A program that tells who ran it.

    Attributes:
        directory: where it is; anybody may write there.
    """

    directory: Path

    @property
    def program(self) -> Path:
        return self.directory / "trap"

    @property
    def victims(self) -> set[str]:
        """Return the user ids that ran into it."""
        return {path.name for path in (self.directory / "victims").iterdir()}

    def config(self) -> str:
        """Return a container's configuration full of it."""
        lines = ["lxc.uts.name = trap", f"lxc.rootfs.path = dir:{self.directory}/rootfs"]
        lines += [f"lxc.hook.{hook} = {self.program}" for hook in HOOKS]
        lines += [f"lxc.log.file = {self.directory}/log", "lxc.log.level = TRACE"]
        return "\n".join([*lines, f"lxc.include = {self.directory}/include", ""])


@pytest.fixture
def trap() -> Iterator[Trap]:
    """Return a trap; afterwards nobody but ordinary users may have run into it."""
    directory = Path(f"/tmp/oar-lxc-test-trap-{os.getpid()}")
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "victims").mkdir(parents=True)
    (directory / "rootfs").mkdir()
    trap = Trap(directory)
    trap.program.write_text(f'#!/bin/sh\n: > "{directory}/victims/$(/usr/bin/id -u)"\n')
    trap.program.chmod(0o755)
    (directory / "include").write_text(f"lxc.hook.pre-start = {trap.program}\n")
    for path in (directory, directory / "victims", directory / "rootfs"):
        path.chmod(0o777)
    try:
        yield trap
        assert "0" not in trap.victims
        log = directory / "log"
        assert not log.exists() or log.stat().st_uid != 0
    finally:
        shutil.rmtree(directory)


def planted(job: PretendJob, trap: Trap) -> list[Path]:
    """Let a job's user put a configuration wherever LXC might look; return where."""
    home = Path(pwd.getpwnam(job.user).pw_dir)
    containers, private = containers_of(job), JobLayout(job.id).private
    paths = [containers / name / "config" for name in ("trap", "vm1", ".hidden", "config")]
    paths += [private / "config", private / "trap/config", home / ".local/share/lxc/trap/config"]
    paths += [home / ".config/lxc" / name for name in ("default.conf", "lxc.conf")]
    paths += [containers / "lxc.conf", containers / "trap/rcfile"]
    source = trap.directory / "config"
    source.write_text(trap.config())
    code = "import pathlib, shutil, sys\nfor name in sys.argv[2:]:\n"
    code += "    path = pathlib.Path(name)\n    path.parent.mkdir(parents=True, exist_ok=True)\n"
    code += "    shutil.copyfile(sys.argv[1], path)\n"
    done = job.run([PYTHON, "-c", code, str(source), *map(str, paths)])
    assert done.status == 0, done.stderr
    assert all(path.exists() for path in paths)
    return paths


def start_trapped(job: PretendJob) -> None:
    """Let the user start the container, whose hooks then run as the user."""
    argv = ["lxc-start", "-P", str(containers_of(job)), "-n", "trap"]
    with in_cgroups(job, *argv) as process:
        process.communicate(timeout=20)


@pytest.mark.parametrize("command", ["destroy", "leftovers", "reap", "prepare"])
def test_hooks_in_a_users_configurations_never_run_as_root(
    job: PretendJob, trap: Trap, command: str
) -> None:
    first_id = published(job).first_id
    planted(job, trap)
    start_trapped(job)
    assert trap.victims == {str(pwd.getpwnam(job.user).pw_uid)}
    home = pwd.getpwnam(job.user).pw_dir
    environ = {"HOME": home, "XDG_CONFIG_HOME": f"{home}/.config", "LXC_CONFIG_FILE": str(trap)}
    options = ["--job", str(job.id), "--user", job.user, "--cgroup", job.cgroup]
    more = {"reap": [], "prepare": [*options, "--node", job.node, "--nodes", job.node]}
    for name, arguments in ((command, more.get(command, options)), ("destroy", options)):
        subprocess.run(
            [PYTHON, "-m", "oar_lxc.root.main", name, *arguments],
            env={**os.environ, **environ, "PYTHONPATH": str(checkout())},
            cwd=containers_of(job) if containers_of(job).exists() else "/",
            capture_output=True,
            timeout=30,
            check=False,
        )
    assert left(job, first_id) == {"cgroups": oar_cgroups(job)}


MODULES = ("oar_lxc", "sitecustomize", "usercustomize", "argparse", "json", "re", "encodings")
PROGRAMS = ("rm", "ip", "bridge", "nft", "sh", "systemctl", "umount", "python3", "id", "nsenter")


def test_a_forged_environment_and_directory_do_not_change_what_root_runs(
    job: PretendJob, trap: Trap, tmp_path: Path
) -> None:
    first_id = published(job).first_id
    command = tmp_path / "oar-lxc-node"
    text = OAR_LXC_NODE.replace("/usr/lib/python3/dist-packages", str(checkout()))
    assert str(checkout()) in text
    command.write_text(text)
    command.chmod(0o755)
    place = trap.directory / "here"
    (place / "oar_lxc" / "root").mkdir(parents=True)
    spring = f"import os; os.system({str(trap.program)!r})\n"
    for name in MODULES:
        (place / f"{name}.py").write_text(spring)
    for path in ("oar_lxc/__init__.py", "oar_lxc/root/__init__.py", "oar_lxc/root/main.py"):
        (place / path).write_text(spring)
    for name in PROGRAMS:
        (place / name).symlink_to(trap.program)
    environ = {
        "PATH": str(place),
        "PYTHONPATH": str(place),
        "PYTHONHOME": str(place),
        "PYTHONSTARTUP": str(place / "json.py"),
        "PYTHONUSERBASE": str(place),
        "PYTHONINSPECT": "1",
        "PYTHONPLATLIBDIR": "x",
        "HOME": str(place),
        "XDG_RUNTIME_DIR": str(place),
        "XDG_CONFIG_HOME": str(place),
        "TMPDIR": str(place),
        "LC_ALL": "xx_XX.no-such",
        "LANG": "\udcff",
        "OAR_JOB_ID": "1",
        "OAR_CPUSET": "/oar/root_1",
        "OAR_NODEFILE": str(trap.program),
        "BASH_ENV": str(trap.program),
        "ENV": str(trap.program),
        "IFS": "/",
    }
    # The trap works: who believes in this environment runs into it.
    subprocess.run(
        ["/usr/bin/setpriv", "--reuid", "nobody", PYTHON, "-c", ""],
        env={**environ, "PYTHONHOME": ""},
        cwd=place,
        check=False,
        capture_output=True,
    )
    assert trap.victims == {str(pwd.getpwnam("nobody").pw_uid)}
    options = ["--job", str(job.id), "--user", job.user, "--cgroup", job.cgroup]
    for arguments in (["leftovers", *options], ["reap", "--dry-run"], ["destroy", *options]):
        done = subprocess.run(
            [str(command), *arguments],
            env=environ,
            cwd=place,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert b"Traceback" not in done.stderr
        assert "0" not in trap.victims
    assert done.returncode == 0
    assert left(job, first_id) == {"cgroups": oar_cgroups(job)}


def test_a_job_key_that_is_no_file_of_oars_is_not_given_away(
    unprepared: PretendJob, trap: Trap
) -> None:
    """Root reads it for the user: where OAR keeps keys where users write, it could be a link."""
    job = unprepared
    secret = trap.directory / "secret"
    secret.write_text("of root alone\n")
    secret.chmod(0o600)
    key = trap.directory / "alice.jobkey"
    key.symlink_to(secret)
    os.chown(key, pwd.getpwnam(job.user).pw_uid, -1, follow_symlinks=False)
    more = ["--node", job.node, "--nodes", job.node, "--job-key", str(key)]
    job.node_side("prepare", *more, check=False)
    given = JobLayout(job.id).job_key
    assert not given.exists() or "of root" not in given.read_text()


def test_a_job_key_that_never_ends_does_not_hold_the_node(
    unprepared: PretendJob, trap: Trap
) -> None:
    job = unprepared
    key = trap.directory / "alice.jobkey"
    os.mkfifo(key)
    options = ["--job", str(job.id), "--user", job.user, "--cgroup", job.cgroup]
    options += ["--node", job.node, "--nodes", job.node, "--job-key", str(key)]
    subprocess.run(
        [PYTHON, "-m", "oar_lxc.root.main", "prepare", *options],
        env={**os.environ, "PYTHONPATH": str(checkout())},
        capture_output=True,
        timeout=10,
        check=False,
    )


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.mkdir()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _binary(path: Path) -> None:
    path.write_bytes(os.urandom(1 << 20))


def _huge(path: Path) -> None:
    path.write_bytes(b"node1\n" * 5 + b"x" * (64 << 20))


def _commands(path: Path) -> None:
    path.write_text("node1\n$(touch /tmp/x)\n; reboot\n-oProxyCommand=id\n")


@pytest.mark.parametrize(
    "make",
    [_fifo, _directory, _socket, _device, _loop, _binary, _huge, _commands],
)
def test_a_nodefile_that_is_none_is_told_and_holds_no_hook(trap: Trap, make: object) -> None:
    assert callable(make)
    nodefile = trap.directory / "nodefile"
    make(nodefile)
    bin_directory = trap.directory / "bin"
    bin_directory.mkdir()
    for name in ("oardodo", "ssh"):
        (bin_directory / name).symlink_to(trap.program)
    # With little memory, so that one who reads without end does not take the machine's.
    argv = ["prlimit", "--as=1000000000", "--", PYTHON, "-m", "oar_lxc.oar.hook", "epilogue"]
    done = subprocess.run(
        [*argv, "42", "alice", str(nodefile)],
        env={"PYTHONPATH": str(checkout()), "PATH": f"{bin_directory}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert trap.victims == set()
    assert "Traceback" not in done.stderr
    assert done.returncode == 0  # the stanza comes after it, on every node
    assert done.stderr.startswith("oar-lxc-node: ")
    assert len(done.stderr) < 1000
