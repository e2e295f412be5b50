"""Wait inside containers: until they have booted, or until a command succeeds."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from oar_lxc.container.runtime import Runtime
from oar_lxc.container.ssh_probe import ABANDONED, EndedContainers
from oar_lxc.errors import ContainerError, OarLxcError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.model.spec import WAIT_BOOT

_RETRY = 0.1  # seconds between two tries in one container
_POLL = 0.01
# systemd tells when it has booted; "degraded" means booted, with a unit that failed. Any other
# init counts as booted as soon as it runs. The script asks which init the image has, and not the
# name of process 1, which is not yet systemd at first.
_BOOTED = """\
case "$(readlink -f /sbin/init)" in */systemd) ;; *) exit 0 ;; esac
[ -d /run/systemd/system ] || exit 1
case "$(systemctl is-system-running --wait 2>/dev/null)" in running|degraded) exit 0 ;; esac
exit 1
"""


def wait_inside(
    runtime: Runtime,
    names: Sequence[str],
    what: str,
    timeout: float,
    abandoned: Callable[[], bool] = lambda: False,
) -> Iterator[str]:
    """Yield the name of each container in which a condition holds.

    Args:
        runtime: the containers of this node.
        names: the containers to wait for; one that has ended is not waited for.
        what: :data:`~oar_lxc.model.spec.WAIT_BOOT`, or a command for the container's shell.
        timeout: seconds for all together; a container not yielded by then is late.
        abandoned: whether the caller is gone.

    Raises:
        OarLxcError: the caller is gone.
    """
    argv = ["/bin/sh", "-c", _BOOTED if what == WAIT_BOOT else what]
    end = Deadline.after(timeout)
    due = dict.fromkeys(names, Deadline.after(0))
    running: dict[str, int] = {}
    ended = EndedContainers(lambda name: runtime.init_pid(name) > 0)
    try:
        while (due or running) and not end.passed:
            for name in ended.among([*due, *running]):
                due.pop(name, None)
                if name in running:
                    _end(running.pop(name))
            for name in [name for name, when in due.items() if when.passed]:
                del due[name]
                pid = _begin(runtime, name, argv)
                if pid:
                    running[name] = pid
                else:
                    due[name] = Deadline.after(_RETRY)
            for name, pid in list(running.items()):
                gone, status = os.waitpid(pid, os.WNOHANG)
                if gone:
                    del running[name]
                    if status == 0:
                        yield name
                    else:
                        due[name] = Deadline.after(_RETRY)
            if abandoned():
                raise OarLxcError(ABANDONED)
            time.sleep(_POLL)
    finally:
        for pid in running.values():
            _end(pid)


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _begin(runtime: Runtime, name: str, argv: Sequence[str]) -> int:
    """Start a command without streams; return 0 if the container cannot be attached to yet."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        return runtime.attach(name, argv, null, null, null)
    except ContainerError:
        return 0
    finally:
        os.close(null)
