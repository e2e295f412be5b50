"""One machine of the sandbox: a privileged LXC container with systemd, run with LXC's commands."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from oar_lxc.linux.atomic import write_atomic
from oar_lxc.linux.cgroups import remove_cgroups
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.run import Result, run
from oar_lxc.sandbox.state import SandboxError, State

CGROUPS = Path("/sys/fs/cgroup")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
READY = "ready"

# Like a real machine: all capabilities, all devices, and cgroups that it manages itself.
_CONFIG = """\
lxc.uts.name = {name}
lxc.rootfs.path = {root}
lxc.autodev = 1
lxc.tty.max = 0
lxc.pty.max = 1024
lxc.signal.halt = SIGRTMIN+3
lxc.mount.auto = proc:rw sys:rw cgroup:rw:force
lxc.mount.entry = proc dev/.lxc/proc proc create=dir,optional 0 0
lxc.mount.entry = sys dev/.lxc/sys sysfs create=dir,optional 0 0
lxc.mount.entry = /dev/fuse dev/fuse none bind,optional,create=file 0 0
lxc.mount.entry = /dev/net/tun dev/net/tun none bind,optional,create=file 0 0
lxc.cap.drop =
lxc.apparmor.profile = unconfined
lxc.net.0.type = veth
lxc.net.0.link = {bridge}
lxc.net.0.flags = up
lxc.net.0.name = eth0
lxc.net.0.ipv4.address = {address}/{prefix}
lxc.net.0.ipv4.gateway = {gateway}
lxc.log.file = {log}
lxc.log.level = WARN
"""


@dataclass(frozen=True)
class HostMount:
    """A directory of the host that a machine sees."""

    source: Path
    target: str


@dataclass(frozen=True)
class Definition:
    """The parts of a machine.

    Attributes:
        lowers: root directories that it shares, the topmost first.
        mounts: directories of the host that it sees.
        address: its address.
        prefix: length of its network's prefix.
        gateway: the host's address on the bridge.
        files: text of files that it has from the start, by path without the leading slash.
        copy: whether it gets a copy of the single directory in ``lowers``; then overlays can be
            mounted on all of it.
    """

    lowers: Sequence[Path]
    mounts: Sequence[HostMount]
    address: IPv4Address
    prefix: int
    gateway: IPv4Address
    files: dict[str, str]
    copy: bool = False


class Machine:
    """A machine, whether it exists or not.

    Args:
        name: its host name.
        state: the state of its sandbox.
    """

    def __init__(self, name: str, state: State) -> None:
        self.name = name
        self.lxc_name = f"{state.tag}-{name}"  # also names its cgroups, so it must be unique
        self.directory = state.machines / self.lxc_name
        self._bridge = state.tag
        self._which = ["-P", str(state.machines), "-n", self.lxc_name]

    @property
    def exists(self) -> bool:
        """Whether it is completely defined."""
        return (self.directory / "config").exists()

    @property
    def ready(self) -> bool:
        """Whether its set-up has once been completed."""
        return self.exists and (self.directory / READY).exists()

    def mark_ready(self) -> None:
        """Note that its set-up is complete."""
        (self.directory / READY).touch()

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.pid is not None

    @property
    def pid(self) -> int | None:
        """The host's process id of its init; None if it does not run."""
        if not self.exists:
            return None
        result = run(["lxc-info", *self._which, "-p", "-H"], check=False)
        return int(result.stdout) if result.stdout.strip().isdigit() else None

    def define(self, definition: Definition) -> None:
        """Write its configuration and files, after removing an earlier machine of its name."""
        self.remove()
        upper = self.directory / "upper"
        if definition.copy:
            (whole,) = definition.lowers
            self.directory.mkdir(parents=True)
            run(["cp", "-a", str(whole), str(upper)], timeout=600)
            root = f"dir:{upper}"
        else:
            upper.mkdir(parents=True)
            root = f"overlayfs:{':'.join(str(path) for path in definition.lowers)}:{upper}"
        for name, text in definition.files.items():
            path = upper / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        text = _CONFIG.format(
            name=self.name,
            root=root,
            bridge=self._bridge,
            address=definition.address,
            prefix=definition.prefix,
            gateway=definition.gateway,
            log=self.directory / "lxc.log",
        )
        for mount in definition.mounts:
            text += f"lxc.mount.entry = {mount.source} {mount.target} none bind,create=dir 0 0\n"
        write_atomic(self.directory / "config", text, 0o644)

    def start(self, timeout: float = 60) -> None:
        """Start it and wait until systemd takes commands; services may still be starting.

        Raises:
            SandboxError: it does not start; the message has the end of LXC's log.
        """
        if not self.running:
            (self.directory / "lxc.log").unlink(missing_ok=True)
            if run(["lxc-start", *self._which, "-d"], check=False).status != 0:
                raise SandboxError(f"machine {self.name} does not start:\n{self._log()}")
        deadline = Deadline.after(timeout)
        while not deadline.passed:
            status = self.run(["systemctl", "is-active", "basic.target"], check=False).status
            if status == 0:
                return
            if status < 0:
                raise SandboxError(f"machine {self.name}: its start was interrupted")
            time.sleep(0.1)
        raise SandboxError(f"machine {self.name}: systemd does not answer after {timeout:g} s")

    def stop(self) -> None:
        """Stop it at once, if it runs.

        Raises:
            SandboxError: it still runs.
        """
        if self.directory.exists():
            run(["lxc-stop", *self._which, "-k"], check=False)
        if self.running:
            raise SandboxError(f"machine {self.name} cannot be stopped:\n{self._log()}")

    def remove(self) -> None:
        """Stop it, and remove its directory and cgroups."""
        self.stop()
        deadline = Deadline.after(5)
        while (left := self.cgroups()) and not deadline.passed:
            # LXC's monitor removes them, too, a moment after the machine has stopped.
            for cgroup in left:
                remove_cgroups(cgroup)
        # For the files of a whole machine, rm takes a fraction of the time of shutil.
        run(["rm", "-rf", "--one-file-system", str(self.directory)], timeout=900)

    def cgroups(self) -> list[Path]:
        """Return its cgroups that exist on the host."""
        return [
            path
            for kind in ("payload", "monitor")
            for pattern in (f"lxc.{kind}.{self.lxc_name}", f"*/lxc.{kind}.{self.lxc_name}")
            for path in CGROUPS.glob(pattern)
        ]

    def command(self, argv: Sequence[str], user: str = "root", term: str = "") -> list[str]:
        """Return the host's command that runs another here, with unchanged arguments.

        The environment is that of a login, with no variable of the caller except TERM.

        Args:
            argv: program and arguments.
            user: the user that runs it, in the user's home directory.
            term: value of TERM.
        """
        command = ["lxc-attach", *self._which, "--clear-env", "-v", f"PATH={PATH}"]
        command += ["-v", "LANG=C.UTF-8", *(["-v", f"TERM={term}"] if term else []), "--"]
        home = ["sh", "-c", 'cd "$HOME" && exec "$@"', "sh", *argv]
        if user == "root":
            return [*command, "env", "HOME=/root", "USER=root", "LOGNAME=root", *home]
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env"]
        return [*command, *become, "env", f"PATH={PATH}", "LANG=C.UTF-8", *home]

    def require_user(self, user: str) -> None:
        """Refuse a user that this machine does not have, or that :meth:`command` cannot become.

        Raises:
            SandboxError: there is no such user, or no group of the same name; or the machine
                does not run.
        """
        if not self.running:
            raise SandboxError(
                f"machine {self.name} does not run: `oar-lxc sandbox up` brings it up"
            )
        lines = [line.split(":") for line in self.read("/etc/passwd").splitlines()]
        if user not in (line[0] for line in lines):
            # Those that people use: with a shell.
            shells = sorted(line[0] for line in lines if line[-1].endswith("sh"))
            raise SandboxError(
                f"machine {self.name} has no user {user}; users with a shell: {', '.join(shells)}"
            )
        if user not in (line.partition(":")[0] for line in self.read("/etc/group").splitlines()):
            raise SandboxError(
                f"user {user} of machine {self.name} has no group of the same name, which "
                "--user needs"
            )

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        timeout: float = 60,
        input: str | bytes | None = None,
        check: bool = True,
    ) -> Result:
        """Run a command here and wait for it.

        Raises:
            CommandError: its status is not 0, and ``check`` is true.
            CommandTimeoutError: it did not end in time.
        """
        return run(self.command(argv, user), timeout=timeout, input=input, check=check)

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file here atomically."""
        script = 'umask 077; cat > "$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"'
        self.run(["sh", "-c", script, "sh", path, f"{mode:o}"], input=data)

    def read(self, path: str) -> str:
        """Return the text of a file here."""
        return self.run(["cat", path]).stdout

    def describe(self) -> dict[str, object]:
        """Return the facts about it."""
        pid = self.pid
        return {
            "name": self.name,
            "state": "running" if pid else "stopped" if self.exists else "absent",
            "ready": self.ready,
            "pid": pid,
        }

    def _log(self) -> str:
        try:
            lines = (self.directory / "lxc.log").read_text().splitlines()
        except FileNotFoundError:
            return "LXC wrote no log"
        return "\n".join(lines[-10:])


def remove_shared_cgroups() -> None:
    """Remove the cgroups that LXC makes for all its containers together, if they are unused."""
    for path in (*CGROUPS.glob("lxc.pivot"), *CGROUPS.glob("*/lxc.pivot")):
        remove_cgroups(path)
