"""Run a program on many nodes at once, through oarsh: ``python3 -m oar_lxc.fanout <ORDER``.

The order is one line of JSON: ``nodes``, ``argv``, and ``input``, what each reads. For each
line that one of them writes a line is written, a JSON list of node, ``stdout`` or ``stderr``, and
text; and one of node, ``end`` and exit status when it has ended.

A process of its own, for ClusterShell waits for what it started, also when it is told to leave
off; and oarsh runs as oar, whose processes a user cannot kill. This one can be killed at any time.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from ClusterShell.Event import EventHandler
from ClusterShell.NodeSet import NodeSet
from ClusterShell.Task import task_self


class _Handler(EventHandler):  # type: ignore[misc]  # ClusterShell has no types
    """Writes what ClusterShell tells."""

    def ev_read(self, worker: Any, node: str, sname: str, msg: bytes) -> None:
        """Pass one line on that a node wrote."""
        _tell(node, sname, msg.decode("utf-8", "surrogateescape"))

    def ev_hup(self, worker: Any, node: str, rc: int) -> None:
        """Tell the exit status of a node's program."""
        _tell(node, "end", rc)


def _tell(*what: str | int) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def run_everywhere(argv: Sequence[str], nodes: Sequence[str], payload: bytes) -> None:
    """Run a program on nodes, and wait for all.

    Args:
        argv: the program and its arguments.
        nodes: names of the nodes.
        payload: what each reads.
    """
    task = task_self()
    task.set_default("stderr", True)
    task.set_info("ssh_path", "oarsh")
    nodeset = NodeSet.fromlist(list(nodes))
    worker = task.shell(shlex.join(argv), nodes=nodeset, handler=_Handler())
    worker.write(payload)
    worker.set_write_eof()
    task.run()


def main() -> None:
    """Carry out the order on standard input."""
    order = json.loads(sys.stdin.readline())
    run_everywhere(order["argv"], order["nodes"], order["input"].encode())


if __name__ == "__main__":
    main()
