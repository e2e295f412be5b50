"""A pretend job on this machine: the cgroups that OAR would make, a user, and the real root side.

For tests and measurements on real LXC without an OAR around it. Needs root.
"""

from __future__ import annotations

import atexit
import itertools
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from oar_lxc.linux.login_shell import NO_MARK, pack
from oar_lxc.linux.run import Result, run
from oar_lxc.model.layout import STATE, STORE
from oar_lxc.setup.deb import OAR_LXC_NODE

SOURCE = Path(__file__).resolve().parent.parent
CGROUPS = Path("/sys/fs/cgroup")
VERSION_2 = (CGROUPS / "cgroup.controllers").exists()  # and no other
CONTROLLERS = ("cpuset", "cpu", "cpuacct", "devices", "freezer")
PYTHON = "/usr/bin/python3"  # the one that sees Debian's lxc bindings
USER = "oarlxctest"
MANAGER = (
    "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
)
_scopes = itertools.count()


@cache
def checkout() -> Path:
    """Return a copy of this checkout that every user may read, wherever it lies itself."""
    copy = Path(tempfile.mkdtemp(prefix="oar-lxc-checkout-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    copy.chmod(0o755)
    for name in ("oar_lxc", "jobscripts", "hooks"):
        shutil.copytree(SOURCE / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = copy / "oar-lxc-node"
    command.write_text(OAR_LXC_NODE.replace("/usr/lib/python3/dist-packages", str(copy)))
    # As the Debian package does: users could not write what Python compiles.
    run([PYTHON, "-m", "compileall", "-q", str(copy / "oar_lxc")])
    run(["chmod", "-R", "a+rX", str(copy)])
    return copy


def make_state() -> None:
    """Make the directories of a node's state, as set-up does."""
    for name, mode in (("records", 0o700), ("jobs", 0o711), (STORE, 0o700)):
        (STATE / name).mkdir(mode=mode, parents=True, exist_ok=True)


@contextmanager
def ordinary_user(name: str = USER) -> Iterator[str]:
    """Make an ordinary user, and remove it with its home in the end."""
    with suppress(KeyError):
        pwd.getpwnam(name)
        run(["userdel", "-r", "-f", name], check=False)
    run(["useradd", "--badname", "-m", "-s", "/bin/bash", name])
    try:
        yield name
    finally:
        run(["userdel", "-r", "-f", name], check=False)


@dataclass
class PretendJob:
    """One job of an ordinary user on this machine.

    Attributes:
        id: its job id.
        user: its user.
        cpus: what its cpuset allows.
        in_cpuset: whether OAR makes cgroups for it; False where OAR's cpuset is off.
    """

    id: int
    user: str
    cpus: str = "0"
    in_cpuset: bool = True

    @property
    def node(self) -> str:
        """This machine's name."""
        return os.uname().nodename

    @property
    def cgroup(self) -> str:
        """The path of its cgroup in OAR's hierarchies."""
        return f"/oar/{self.user}_{self.id}"

    def make_cgroups(self) -> None:
        """Do what OAR's job resource manager does at init."""
        if not self.in_cpuset:
            return
        if VERSION_2:
            run(["busctl", "call", *MANAGER, "StartUnit", "ss", self.slice, "fail"])
            argv = ["systemctl", "set-property", "--runtime", self.slice]
            run([*argv, f"AllowedCPUs={self.cpus}", "AllowedMemoryNodes=0"])
            return
        for controller in CONTROLLERS:
            (CGROUPS / controller / self.cgroup.lstrip("/")).mkdir(parents=True, exist_ok=True)
        outer = CGROUPS / "cpuset/oar"
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not (outer / name).read_text().strip():
                (outer / name).write_text((outer.parent / name).read_text())
        inner = CGROUPS / "cpuset" / self.cgroup.lstrip("/")
        (inner / "cpuset.cpus").write_text(self.cpus)
        (inner / "cpuset.mems").write_text((outer / "cpuset.mems").read_text())

    def remove_cgroups(self) -> None:
        """Do what OAR's job resource manager does at clean, once all is dead."""
        if VERSION_2:
            for method, rest in (
                ("ThawUnit", ["s", self.slice]),
                ("KillUnit", ["ssi", self.slice, "all", "9"]),
                ("StopUnit", ["ss", self.slice, "fail"]),
            ):
                run(["busctl", "call", *MANAGER, method, *rest], check=False)
        end = time.monotonic() + 10
        while VERSION_2 and self.slice_path.exists():
            if time.monotonic() > end:
                raise OSError(f"{self.slice_path} is still there")
            time.sleep(0.01)
        for controller in CONTROLLERS:
            path = CGROUPS / controller / self.cgroup.lstrip("/")
            while path.exists():
                try:
                    path.rmdir()
                except OSError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.01)

    @property
    def slice(self) -> str:
        """The name of its slice, where cgroups are of version 2."""
        return f"oar-u{pwd.getpwnam(self.user).pw_uid}-j{self.id}.slice"

    @property
    def slice_path(self) -> Path:
        """Where its slice is."""
        outer = self.slice.rpartition("-")[0]
        return CGROUPS / "oar.slice" / f"{outer}.slice" / self.slice

    def node_side(self, command: str, *arguments: str, check: bool = True) -> Result:
        """Run ``oar-lxc-node`` of this checkout for the job."""
        argv = [PYTHON, "-IS", str(checkout() / "oar-lxc-node"), command]
        argv += ["--job", str(self.id), "--user", self.user]
        argv += ["--cgroup", self.cgroup] if self.in_cpuset else []
        return run([*argv, *arguments], check=check)

    def prepare(self) -> Result:
        """Prepare this machine for the job."""
        return self.node_side("prepare", "--node", self.node, "--nodes", self.node)

    def destroy(self) -> Result:
        """Destroy what the job has on this machine."""
        return self.node_side("destroy")

    def environ(self) -> dict[str, str]:
        """The environment that OAR gives to the job, and the way to this checkout."""
        account = pwd.getpwnam(self.user)
        nodefile = Path(f"/tmp/oar-lxc-nodefile-{self.id}")
        cores = len(self.cpus.replace("-", ",").split(","))
        nodefile.write_text(f"{self.node}\n" * cores)
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": account.pw_dir,
            "USER": self.user,
            "PYTHONPATH": str(checkout()),
            "OAR_JOB_ID": str(self.id),
            "OAR_USER": self.user,
            "OAR_NODEFILE": str(nodefile),
        }

    def attach_command(self, *words: str) -> list[str]:
        """Return the command that runs the attach program on this machine."""
        program = str(checkout() / "oar_lxc/linux/isolated.py")
        return [PYTHON, "-I", program, "oar_lxc.agent.attach", str(self.id), NO_MARK, pack(words)]

    def start(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[str]:
        """Start a program as the user inside the job's cgroups, as OAR would."""
        account = pwd.getpwnam(self.user)
        controllers = CONTROLLERS if self.in_cpuset and not VERSION_2 else ()
        in_scope = self.in_cpuset and VERSION_2
        if in_scope:  # as oarsh_shell does
            scope = f"{self.slice.removesuffix('.slice')}-p{next(_scopes)}"
            scoped = ["systemd-run", "--quiet", "--scope", "--collect", f"--unit={scope}"]
            become = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}"]
            become += ["--init-groups", "env", f"--chdir={account.pw_dir}"]
            argv = [*scoped, f"--slice={self.slice}", *become, *argv]
        tasks = [CGROUPS / c / self.cgroup.lstrip("/") / "tasks" for c in controllers]

        def enter() -> None:
            for path in tasks:
                path.write_text(str(os.getpid()))
            if in_scope:
                return
            os.initgroups(account.pw_name, account.pw_gid)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            os.chdir(account.pw_dir)  # as the user: it may be closed to root, as on NFS

        return subprocess.Popen(
            list(argv),
            env=dict(environ or self.environ()),
            preexec_fn=enter,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, argv: Sequence[str], timeout: float = 60) -> Result:
        """Run a program as the user inside the job's cgroups; its status is not checked."""
        with self.start(argv) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        return Result(tuple(argv), process.returncode, out, err)

    def script(self, *arguments: str, timeout: float = 60) -> Result:
        """Run the job script in the job."""
        script = str(checkout() / "jobscripts/lxc_job.py")
        return self.run([PYTHON, script, *arguments], timeout)


@contextmanager
def pretend_job(
    job_id: int, user: str, cpus: str = "0", in_cpuset: bool = True
) -> Iterator[PretendJob]:
    """Make a job, prepared on this machine; destroy it in the end, whatever became of it."""
    make_state()
    job = PretendJob(job_id, user, cpus, in_cpuset)
    job.make_cgroups()
    try:
        job.prepare()
        yield job
    finally:
        job.destroy()
        job.remove_cgroups()
        Path(f"/tmp/oar-lxc-nodefile-{job.id}").unlink(missing_ok=True)


if __name__ == "__main__":
    with ordinary_user() as name, pretend_job(int(sys.argv[1]), name) as made:
        result = made.script(*sys.argv[2:])
        print(result.stdout, result.stderr, result.status)
