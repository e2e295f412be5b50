"""Run the agent on nodes of a job, all at once, and hand on what it says.

ClusterShell does the fan-out; oarsh gets to a node, as the job's user and inside the job's cpuset
there. On the node that this process runs on, the agent is a plain child.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ClusterShell.Event import EventHandler
from ClusterShell.NodeSet import NodeSet
from ClusterShell.Task import task_self

from oar_lxc.errors import NodeError, OarLxcError
from oar_lxc.layout import JobLayout

OnEvent = Callable[[str, dict[str, Any]], None]


class Remote:
    """The way to the agents of a job's nodes.

    Args:
        job_id: OAR's job id.
        nodes: names of the job's nodes.
        local: the one that this process runs on, empty on a frontend.
        python: the interpreter that has oar_lxc on the nodes.
    """

    def __init__(
        self, job_id: int, nodes: Sequence[str], local: str = "", python: str = sys.executable
    ) -> None:
        self.job_id = job_id
        self.nodes = tuple(nodes)
        self.local = local
        self._python = python

    def call(
        self,
        operation: str,
        request: Mapping[str, Any],
        on_event: OnEvent,
        nodes: Sequence[str] | None = None,
    ) -> list[NodeError]:
        """Run one operation of the agent on nodes at once and wait for all.

        Args:
            operation: see :class:`oar_lxc.agent.Agent`.
            request: what every agent reads.
            on_event: is given the node's name and each event as it comes.
            nodes: which nodes; all of the job by default.

        Returns:
            The nodes on which it failed as a whole, and why.
        """
        wanted = self.nodes if nodes is None else tuple(nodes)
        argv = [self._python, "-m", "oar_lxc.agent", str(self.job_id), operation]
        payload = json.dumps(request).encode() + b"\n"
        handler = _Handler(on_event)
        task = task_self()
        task.set_default("stderr", True)
        task.set_info("ssh_path", "oarsh")
        os.environ.update(oarsh_environ(self.job_id))
        far = [node for node in wanted if node != self.local]
        workers = []
        if self.local in wanted:
            workers.append(task.shell(shlex.join(argv), handler=handler, key=self.local))
        if far:
            nodeset = NodeSet.fromlist(far)
            workers.append(task.shell(shlex.join(argv), nodes=nodeset, handler=handler))
        for worker in workers:
            worker.write(payload)
            worker.set_write_eof()
        try:
            task.run()
        except BaseException:
            task.abort(kill=True)
            raise
        return [error for node in wanted if (error := handler.failure(node))]


def oarsh_environ(job_id: int) -> dict[str, str]:
    """Return the variables by which oarsh gets to the nodes of a job.

    Inside a cpuset, oarsh knows the job by itself; on a frontend by its id. With the cpuset off it
    wants OAR's key of the job, of which prepare gave the user a copy.
    """
    environ = {"OAR_JOB_ID": str(job_id)}
    key = JobLayout(job_id).job_key
    if "OAR_JOB_KEY_FILE" not in os.environ and os.access(key, os.R_OK):
        environ["OAR_JOB_KEY_FILE"] = str(key)
    return environ


class _Handler(EventHandler):  # type: ignore[misc]  # ClusterShell has no types
    """Turns lines of agents into events, and ends into failures."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._reason: dict[str, str] = {}
        self._done: set[str] = set()
        self._stderr: dict[str, list[str]] = {}
        self._status: dict[str, int] = {}

    def ev_read(self, worker: Any, node: str, sname: str, msg: bytes) -> None:
        """Take one line that a node wrote."""
        text = msg.decode("utf-8", "surrogateescape")
        if sname == "stderr":
            self._stderr.setdefault(node, []).append(text)
            return
        try:
            event = json.loads(text)
            kind = event["event"]
        except (ValueError, TypeError, KeyError):
            self._stderr.setdefault(node, []).append(text)
            return
        if kind == "done":
            self._done.add(node)
        elif kind == "error":
            self._reason[node] = event["reason"]
        else:
            self._on_event(node, event)

    def ev_hup(self, worker: Any, node: str, rc: int) -> None:
        """Take the exit status of a node's agent."""
        self._status[node] = rc

    def failure(self, node: str) -> NodeError | None:
        """Return why a node failed, None where it did not."""
        if node in self._done:
            return None
        if node in self._reason:
            return NodeError(node, self._reason[node])
        said = "\n".join(self._stderr.get(node, []))
        if re.search(r"No module named '?oar_lxc", said) or self._status.get(node) == 127:
            return NodeError(
                node, "oar-lxc is not installed there: ask the administrator to install it"
            )
        last = (said.strip().splitlines() or ["it said nothing; the job may be ending"])[-1]
        return NodeError(
            node, f"oarsh or the agent failed (status {self._status.get(node)}): {last}"
        )


def raise_first(errors: Sequence[OarLxcError]) -> None:
    """Raise the first of some errors, where there is one."""
    for error in errors:
        raise error
