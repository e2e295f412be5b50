"""A fresh Debian in a container: minimal, with this checkout's last commit, gone afterwards."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.image.apt import host_sources
from oar_lxc.linux.mounts import unmount_below
from oar_lxc.linux.resolver import resolver_text
from oar_lxc.linux.run import run
from oar_lxc.linux.unshare import dies_with_caller
from oar_lxc.sandbox import controllers, network
from oar_lxc.sandbox import host as sandbox_host
from oar_lxc.sandbox.images import Cache, apt_options, bootstrap, digest
from oar_lxc.sandbox.machine import Definition, Machine
from oar_lxc.sandbox.report import Report
from oar_lxc.sandbox.state import CACHE, Settings, State, locked
from oar_lxc.sandbox.suites import SUITES, cgroup_version, has_cpuset
from tests.fresh import host
from tests.fresh.commit import copy_commit

CHECKOUT = Path(__file__).resolve().parents[2]
STATE = Path("/var/lib/oar-lxc-fresh")
NAME = "fresh"
# A minimal Debian, what makes it a machine, and the two programs that a person brings.
PACKAGES = ("systemd", "systemd-sysv", "dbus", "ca-certificates", "make", "git")
_REPOSITORY = "srv/oar_lxc.git"


class FreshMachine:
    """The fresh machine of this host; there is one at a time.

    Args:
        report: is told what is done.
        suite: the machine's Debian release.
    """

    def __init__(self, report: Report, suite: str) -> None:
        self.report = report
        self.suite = suite
        self.state = State(STATE, CHECKOUT)
        self._machine = Machine(NAME, self.state)

    @contextmanager
    def running(self, place: str) -> Iterator[None]:
        """Make the machine, clone the checkout to a place in it, and remove it in the end.

        What an earlier run that was killed has left is removed first.

        Args:
            place: absolute path, on the machine, of the clone.

        Raises:
            SandboxError: this host cannot hold it, it does not start, or another run has it.
            CommandError: the checkout has no commit, or a file system is not to be had.
        """
        busy = locked(self.state.tag, wait=False, changing="the fresh machine")
        with busy, ExitStack() as stack:
            self._remove()
            cpuset = has_cpuset(self.suite, cgroup_version())
            here = sandbox_host.look((STATE, CACHE), Settings(suite=self.suite, cpuset=cpuset))
            sandbox_host.refuse(sandbox_host.problems(here, Settings().nodes, new=True))
            sandbox_host.refuse(sandbox_host.kernel_problems(STATE))
            stack.callback(self._remove)
            self.state.claim()
            base = self._base()
            where = network.addresses(self.state)
            network.up(self.state, where)
            controllers.keep(self.state)
            with self.report.step(f"booting a fresh {SUITES[self.suite].debian}"):
                self._machine.define(self._definition(base, where))
                target = self._machine.directory / "upper" / _REPOSITORY
                copy_commit(CHECKOUT, target, self.report)
                self._machine.start()
            self._machine.run(["git", "clone", "--quiet", f"/{_REPOSITORY}", place], timeout=120)
            yield

    def call(self, script: str, place: str) -> int:
        """Run a shell script in the clone, as root without a terminal; return its exit status.

        What it says goes to our standard output.
        """
        names = [name for name in ("CI",) if name in os.environ]
        shell = [
            "bash",
            "-e",
            "-u",
            "-x",
            "-o",
            "pipefail",
            "-c",
            f"cd {shlex.quote(place)}\n{script}",
        ]
        argv = ["env", *(f"{name}={os.environ[name]}" for name in names), *shell]
        process = subprocess.Popen(
            dies_with_caller(self._machine.command(argv)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        with process:
            try:
                assert process.stdout is not None
                while data := os.read(process.stdout.fileno(), 1 << 16):
                    os.write(1, data)
            except BaseException:
                process.kill()
                raise
        return process.returncode

    def _base(self) -> Path:
        sources, options = host_sources(self.suite), apt_options()

        def make(half: Path) -> None:
            bootstrap(half, self.suite, "minbase", PACKAGES, sources)

        key = digest("fresh", *sources, *options, *PACKAGES)
        what = f"a minimal {SUITES[self.suite].debian} with make and git"
        return Cache(self.report).entry("fresh", key, what, make) / "rootfs"

    def _definition(self, base: Path, where: network.Addresses) -> Definition:
        files = {
            "etc/hostname": f"{NAME}\n",
            "etc/hosts": where.hosts([]) + f"{where.of('server')} {NAME}\n",
            "etc/resolv.conf": resolver_text(),
            "etc/pip.conf": host.caller_pip_conf(),
        }
        if certificates := host.certificates():
            files[host.CERTIFICATES] = certificates
        return Definition(
            lowers=[base],
            mounts=[],
            address=where.of("server"),
            prefix=where.network.prefixlen,
            gateway=where.gateway,
            files=files,
            copy=True,
        )

    def _remove(self) -> None:
        if not self.state.exists:
            return
        with self.report.step("removing the fresh machine"):
            self._machine.remove()
            network.down(self.state)
            controllers.release(self.state)
            unmount_below(self.state.root)
            run(["rm", "-rf", "--one-file-system", str(self.state.root)], timeout=900)
        left = [*network.leftovers(self.state), *map(str, self._machine.cgroups())]
        if left:
            raise OarLxcError(f"the fresh machine is not gone, left are: {', '.join(left)}")
