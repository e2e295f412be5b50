"""Boot the virtual machine, run a script in a clone of the last commit there, and power it off."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.removal import remove_tree
from oar_lxc.linux.run import KILL_WAIT
from oar_lxc.linux.unshare import in_own_namespaces
from oar_lxc.sandbox.report import Report
from oar_lxc.sandbox.state import State, locked
from tests.fresh.commit import PLACE, copy_commit
from tests.vm.disk import SERIAL, SHARE
from tests.vm.kernel import Kernel
from tests.vm.needs import CHECKOUT, MEMORY, STATE

RESULTS = CHECKOUT / "build/vm"
BOOT = 300.0  # seconds; 20 on a machine that has nothing else to do
PROCESSORS = 4  # at most; the kernel is configured for so many
_TAIL = 20  # lines of the console that are told of a machine that ended early


@dataclass(frozen=True)
class Order:
    """What is run in the machine.

    Attributes:
        script: lines of bash, as root in the clone.
        limit: seconds that the script may take.
        environ: variables of the script.
    """

    script: str
    limit: float
    environ: Mapping[str, str]


class VirtualMachine:
    """The virtual machine of this host; there is one at a time.

    Args:
        report: is told what is done.
        kernel: its kernel.
        disk: its disk, which is only read: what it writes goes to another file.
    """

    def __init__(self, report: Report, kernel: Kernel, disk: Path) -> None:
        self._report = report
        self._kernel = kernel
        self._disk = disk
        self._share = STATE / "share"

    def call(self, order: Order) -> int:
        """Boot, run the script, power off; return the script's exit status.

        What the script says goes to our standard output; that, and what it writes into the
        directory ``$RESULTS``, is in :data:`RESULTS` afterwards, with the machine's console.

        A script that makes the file ``cut`` in the shared directory, and then says something, has
        the machine killed and booted again, as if its power had failed; it then runs again.

        Raises:
            OarLxcError: the machine did not boot, ended early, or the script took too long.
        """
        tag = State(STATE, CHECKOUT).tag
        with locked(tag, wait=False, changing="the virtual machine"), ExitStack() as stack:
            remove_tree(STATE)
            stack.callback(remove_tree, STATE)
            remove_tree(RESULTS)
            self._give(order)
            try:
                boot = 1
                while self._boot(order, boot):
                    boot += 1
            finally:
                shutil.copytree(self._share / "results", RESULTS, dirs_exist_ok=True)
            return self._status(order.limit)

    def _give(self, order: Order) -> None:
        """Make the directory that the machine sees, with what it shall do."""
        STATE.mkdir(mode=0o700)
        (self._share / "results").mkdir(parents=True)
        RESULTS.mkdir(parents=True)
        copy_commit(CHECKOUT, self._share / "oar_lxc.git", self._report)
        for name, text in (("run", run_script(order.environ)), ("script", order.script + "\n")):
            (self._share / name).write_text(text)
            (self._share / name).chmod(0o755)

    def _boot(self, order: Order, number: int) -> bool:
        """Boot, and run the script; return whether it asked to have the power cut."""
        cut = self._share / "cut"
        cut.unlink(missing_ok=True)
        (self._share / "boot").write_text(f"{number}\n")
        with ExitStack() as stack:
            console = stack.enter_context((RESULTS / "console.log").open("ab"))
            said = stack.enter_context((RESULTS / "output.log").open("ab"))
            mine, its = os.pipe()
            stack.callback(os.close, mine)
            try:
                process = subprocess.Popen(
                    in_own_namespaces(self._command(its)),
                    cwd=STATE,
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                    pass_fds=[its],
                    start_new_session=True,
                )
            finally:
                os.close(its)
            stack.enter_context(_killed(process))

            def tell(data: bytes) -> None:
                said.write(data)
                said.flush()
                os.write(1, data)

            with self._report.step("booting the virtual machine"):
                first = _read(mine, time.monotonic() + BOOT)
                if not first:
                    raise OarLxcError(self._failed("did not boot", BOOT))
            tell(first)
            end = time.monotonic() + order.limit
            while data := _read(mine, end):
                tell(data)
                if cut.exists():
                    return True
            if data is None:
                raise OarLxcError(self._failed("did not end its script", order.limit))
            process.wait()  # the pipe was its last
        return False

    def _command(self, channel: int) -> list[str]:
        cow = STATE / "written.cow"
        return [
            str(self._kernel.program),
            f"mem={MEMORY >> 20}M",
            f"ncpus={min(len(os.sched_getaffinity(0)), PROCESSORS)}",
            "seccomp=on",  # the way to make a system call that works with several processors
            f"ubd0={cow},{self._disk}",
            "root=/dev/ubda",
            "rw",
            f"hostfs={self._share}",
            f"uml_dir={STATE}",
            "con=null",
            "con0=null,fd:1",
            "ssl=null",
            f"ssl0=null,fd:{channel}",
            "quiet",
        ]

    def _status(self, limit: float) -> int:
        try:
            return int((self._share / "status").read_text())
        except (FileNotFoundError, ValueError):
            raise OarLxcError(self._failed("ended before its script", limit)) from None

    def _failed(self, what: str, limit: float) -> str:
        """Return a sentence about what the machine did, with the end of its console."""
        lines = (RESULTS / "console.log").read_text("utf-8", "replace").splitlines()
        told = "".join(f"\n    {line}" for line in lines[-_TAIL:])
        return f"the virtual machine {what} (it has {limit:.0f} s); its console:{told}"


def run_script(environ: Mapping[str, str]) -> str:
    """Return the script that the machine runs once it has booted.

    Args:
        environ: variables of the script that is asked for.
    """
    variables = "".join(f"export {name}={shlex.quote(text)}\n" for name, text in environ.items())
    return f"""\
#!/bin/bash
stty -F {SERIAL} -opost  # lines end as they do in a file
echo "$(uname -sr), $(systemctl --version | head -n 1), cgroups: \\
$(cat /sys/fs/cgroup/cgroup.controllers)"
export HOME=/root RESULTS={SHARE}/results
{variables}export BOOT=$(cat {SHARE}/boot)
[ -e {PLACE} ] || git clone --quiet {SHARE}/oar_lxc.git {PLACE}
cd {PLACE}
bash -e -u -x -o pipefail {SHARE}/script </dev/null 2>&1 | cat  # no program draws for a terminal
echo "${{PIPESTATUS[0]}}" >{SHARE}/status
journalctl --boot --no-hostname --output=short-monotonic >{SHARE}/results/journal.log
sync
"""


def _read(fd: int, end: float) -> bytes | None:
    """Return what comes from a pipe; empty at its end, None if nothing comes until then."""
    if not select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
        return None
    return os.read(fd, 1 << 16)


@contextmanager
def _killed(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill a process, and with it the machine that it holds, at the end of the block."""
    try:
        yield
    finally:
        process.kill()
        process.wait(KILL_WAIT * 5)
