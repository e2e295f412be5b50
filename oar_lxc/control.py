"""Start, stop, freeze and look at containers of one node, one by one, while their job runs.

These are operations of :class:`oar_lxc.agent.Agent`. What a container has become is an event
``changed`` with ``state`` (LXC's word) and ``was``; where it could not be changed, ``failed``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from oar_lxc.cgroups import enter_cgroups
from oar_lxc.container import FROZEN, RUNNING, STOPPED, Runtime
from oar_lxc.errors import ContainerError, UsageError
from oar_lxc.execute import failed_event
from oar_lxc.published import PublishedJob

KILL_TIMEOUT = 10.0
OPERATIONS = ("start", "stop", "restart", "freeze", "unfreeze")


@dataclass(frozen=True)
class Control:
    """The containers of one job on one node.

    Args:
        published: what the root side says of the node.
        runtime: the containers.
        emit: is given every event.
        start: starts containers at once and yields what became of each, as events ``started`` and
            ``failed``.
        locked: held while containers are started, so that no launch and no end comes between.
        launched: is told of each container that was started again: name, when, seconds.
    """

    published: PublishedJob
    runtime: Runtime
    emit: Callable[[dict[str, Any]], None]
    start: Callable[[Sequence[str]], Iterator[dict[str, Any]]]
    locked: Callable[[], AbstractContextManager[None]]
    launched: Callable[[str, float, float], None]

    def run(self, operation: str, request: Mapping[str, Any]) -> None:
        """Carry out one operation of :data:`OPERATIONS`.

        Args:
            operation: which.
            request: ``containers``, names, or None for all of this node; for those that stop,
                ``timeout``: seconds that an orderly stop may take, 0 to kill at once.

        Raises:
            OarLxcError: it failed as a whole.
        """
        present = self.runtime.names()
        wanted = request["containers"]
        names = present if wanted is None else [name for name in wanted if name in present]
        # LXC makes and finds cgroups below those that the caller is in.
        enter_cgroups(self.published.cgroups)
        if operation == "start":
            self._start(names)
        elif operation == "stop":
            self._stop(names, request["timeout"])
        elif operation == "restart":
            gone = self._stop(names, request["timeout"], silent=True)
            self._start(gone)
        elif operation in ("freeze", "unfreeze"):
            self._freeze(names, freeze=operation == "freeze")
        else:
            raise UsageError(f"operation {operation!r}; known: {', '.join(OPERATIONS)}")

    def _start(self, names: Sequence[str]) -> None:
        with self.locked():
            states = {name: self.runtime.state(name) for name in names}
            for name, state in states.items():
                if state != STOPPED:
                    self._tell(name, state, state)
            begin = time.time()
            stopped = [name for name, state in states.items() if state == STOPPED]
            for event in self.start(stopped):
                if event["event"] != "started":
                    self.emit(event)
                    continue
                name = event["container"]
                self.launched(name, begin, event["seconds"])
                self._tell(name, RUNNING, STOPPED)

    def _stop(self, names: Sequence[str], timeout: float, *, silent: bool = False) -> list[str]:
        """Stop containers, orderly first; return those that are stopped."""
        before = {name: self.runtime.state(name) for name in names}
        left = [name for name, state in before.items() if state != STOPPED]
        if timeout > 0:
            left = self.runtime.shutdown(left, timeout)
        killed = list(left)
        thaw(self.published, self.runtime, left)
        left = self.runtime.kill(left, KILL_TIMEOUT)
        for name in left:
            reason = f"it still ran {KILL_TIMEOUT:g} s after SIGKILL"
            self.emit(failed_event(ContainerError(name, "", reason)))
        gone = [name for name in names if name not in left]
        for name in gone:
            if not silent:
                late = timeout > 0 and name in killed
                self._tell(name, STOPPED, before[name], killed=late)
        return gone

    def _freeze(self, names: Sequence[str], *, freeze: bool) -> None:
        before, after = (RUNNING, FROZEN) if freeze else (FROZEN, RUNNING)
        for name in names:
            state = self.runtime.state(name)
            try:
                if state == before:
                    (self.runtime.freeze if freeze else self.runtime.unfreeze)(name)
                elif state != after:
                    raise ContainerError(name, "", f"it is {state}, not {before}")
            except ContainerError as error:
                self.emit(failed_event(error))
                continue
            self._tell(name, after, state)

    def _tell(self, name: str, state: str, was: str, *, killed: bool = False) -> None:
        event = {"event": "changed", "container": name, "state": state, "was": was}
        self.emit({**event, "killed": killed})


def thaw(published: PublishedJob, runtime: Runtime, names: Sequence[str]) -> None:
    """Thaw those of some containers that are frozen: what is frozen does not even die.

    Raises:
        OarLxcError: this process may not enter the job's cgroups.
        ContainerError: LXC could not thaw one.
    """
    frozen = [name for name in names if runtime.state(name) == FROZEN]
    if frozen:
        enter_cgroups(published.cgroups)
    for name in frozen:
        runtime.unfreeze(name)
