"""Start and end the process that forwards ports of this node into a session's containers."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.atomic import write_atomic
from oar_lxc.linux.isolated import isolated
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.plan import PlannedContainer

_TIMEOUT = 20.0


def open_ports(layout: JobLayout, session: str, share: Sequence[PlannedContainer]) -> None:
    """Forward the ports that containers ask for, until :func:`close_ports` or the job's end.

    Raises:
        OarLxcError: a port cannot be opened; no port of the session is open then.
    """
    if not any(c.ports for c in share):
        return
    from oar_lxc.agent.forward import Forward  # it imports asyncio, which is slow

    forwards = [Forward(p.node, c.ip, p.container) for c in share for p in c.ports]
    out_r, out_w = os.pipe()
    argv = isolated("oar_lxc.agent.forward", list(map(str, forwards)))
    null = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)]
    both = [(os.POSIX_SPAWN_DUP2, out_w, fd) for fd in (1, 2)]
    # The process outlives the agent. It is in the job's cgroups, and ends with the job.
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=[*null, *both], setsid=True)
    os.close(out_w)
    with os.fdopen(out_r) as out:
        said = out.readline().strip() if select.select([out], [], [], _TIMEOUT)[0] else "no answer"
    if said != "listening":
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise OarLxcError(said)
    note = {"pid": pid, "argv": argv}
    write_atomic(layout.port_forward(session), json.dumps(note) + "\n")


def close_ports(layout: JobLayout, session: str | None) -> None:
    """Close the ports of a session; None: of all sessions."""
    for path in layout.private.glob(layout.port_forward("*" if session is None else session).name):
        with suppress(OSError, ValueError, KeyError):
            note = json.loads(path.read_text())
            command = Path(f"/proc/{note['pid']}/cmdline").read_bytes()
            # Another process may have this process id by now.
            if command == b"".join(os.fsencode(word) + b"\0" for word in note["argv"]):
                os.kill(note["pid"], signal.SIGKILL)
        path.unlink(missing_ok=True)
