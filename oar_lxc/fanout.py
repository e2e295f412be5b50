"""ClusterShell's part of :mod:`oar_lxc.remote`: programs on many nodes at once, through oarsh.

In a module of its own, as it takes time to import that a job of one node need not pay.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

from ClusterShell.Event import EventHandler
from ClusterShell.NodeSet import NodeSet
from ClusterShell.Task import task_self
from ClusterShell.Worker.Worker import StreamWorker

OnLine = Callable[[str, str, bytes], None]
OnEnd = Callable[[str, int], None]


def run_everywhere(
    argv: Sequence[str],
    nodes: Sequence[str],
    payload: bytes,
    on_line: OnLine,
    on_end: OnEnd,
    here: tuple[str, int] | None = None,
) -> None:
    """Run a program on nodes through oarsh, and wait for all.

    Args:
        argv: the program and its arguments.
        nodes: names of the nodes.
        payload: what each reads.
        on_line: is given node, stream and each line that was written, as it comes.
        on_end: is given a node and the exit status of its program.
        here: a node on which the program runs already, and the pipe that it writes to.
    """
    task = task_self()
    task.set_default("stderr", True)
    task.set_info("ssh_path", "oarsh")
    handler = _Handler(on_line, on_end)
    worker = task.shell(shlex.join(argv), nodes=NodeSet.fromlist(list(nodes)), handler=handler)
    worker.write(payload)
    worker.set_write_eof()
    if here:
        node, fd = here
        local = StreamWorker(handler, key=node)
        local.set_reader("stdout", fd, closefd=False)
        task.schedule(local)
    try:
        task.run()
    except BaseException:
        task.abort(kill=True)
        raise


class _Handler(EventHandler):  # type: ignore[misc]  # ClusterShell has no types
    """Hands on what ClusterShell tells."""

    def __init__(self, on_line: OnLine, on_end: OnEnd) -> None:
        self._on_line = on_line
        self._on_end = on_end

    def ev_read(self, worker: Any, node: str, sname: str, msg: bytes) -> None:
        """Take one line that a node wrote."""
        self._on_line(node, sname, msg)

    def ev_hup(self, worker: Any, node: str, rc: int) -> None:
        """Take the exit status of a node's program."""
        self._on_end(node, rc)
