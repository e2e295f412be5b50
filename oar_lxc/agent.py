"""What acts on one node as the job's user: ``python3 -m oar_lxc.agent JOB OPERATION``.

The session starts it through oarsh on each node of the job, writes one request to its standard
input and reads events from its standard output, both JSON, an object a line. Every event has a
key ``event``; the last one is ``done`` or ``error``.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import select
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from oar_lxc import control
from oar_lxc.bringup import provision, wait_ready
from oar_lxc.cgroups import enter_cgroups, thaw
from oar_lxc.container import LxcRuntime, Runtime
from oar_lxc.create import (
    containers_of,
    create_containers,
    in_user_namespace_argv,
    remove_containers,
)
from oar_lxc.errors import (
    CommandError,
    ContainerError,
    OarLxcError,
    UsageError,
)
from oar_lxc.execute import execute, failed_event
from oar_lxc.facts import (
    configured_address,
    init_facts,
    read_times,
    show_container,
    write_times,
)
from oar_lxc.here import open_job
from oar_lxc.image.provide import provide
from oar_lxc.job import Job
from oar_lxc.keys import JobKeys
from oar_lxc.layout import JobLayout, check_job_id
from oar_lxc.plan import Plan, PlannedContainer
from oar_lxc.ports import close_ports, open_ports
from oar_lxc.published import PublishedJob
from oar_lxc.remote import HEARTBEAT
from oar_lxc.spec import BOOT, RUNNING
from oar_lxc.timeline import note, noted, read_timeline
from oar_lxc.watch import watch

Emit = Callable[[dict[str, Any]], None]
KILL_TIMEOUT = 10.0
HEARTBEAT_SECONDS = 1.0


class Agent:
    """The user side's work on one node.

    Args:
        layout: the job's names.
        published: what the root side says of this node.
        runtime: the containers of the job on this node.
        emit: is given every event.
        abandoned: whether nobody reads the events any more.
    """

    def __init__(
        self,
        layout: JobLayout,
        published: PublishedJob,
        runtime: Runtime,
        emit: Emit,
        abandoned: Callable[[], bool] = lambda: False,
    ) -> None:
        self._abandoned = abandoned
        self._layout = layout
        self._published = published
        self._runtime = runtime
        self._emit = emit

    def run(self, operation: str, request: Mapping[str, Any]) -> None:
        """Carry out one operation.

        Raises:
            OarLxcError: it failed as a whole; what fails of single containers is an event.
        """
        operations = {
            "launch": self._launch,
            "ready": self._ready,
            "list": self._list,
            "exec": self._exec,
            "watch": self._watch,
            "destroy": self._destroy,
            "keys": self._keys,
            "show": self._show,
            "timeline": self._timeline,
        }
        if operation in control.OPERATIONS:
            return self._control().run(operation, request)
        if operation not in operations:
            known = ", ".join((*operations, *control.OPERATIONS))
            raise UsageError(f"operation {operation!r}; known: {known}")
        return operations[operation](request)

    def _launch(self, request: Mapping[str, Any]) -> None:
        """Create and start this node's share of a plan; undo all of it where one fails."""
        plan = Plan.from_data(request["plan"])
        share = plan.on(self._published.node)
        enter_cgroups(self._published.cgroups)
        begin = time.time()
        with noted(self._layout, "image", 0):
            images = self._images({planned.image for planned in share})
        with self._locked():
            self._refuse_existing(share)
            failed = False
            try:
                hosts = {c.name: c.ip for c in plan.containers}
                with noted(self._layout, "create", len(share)):
                    create_containers(
                        self._layout,
                        self._published,
                        share,
                        images=images,
                        hosts=hosts,
                        keys=request["keys"],
                        session=request["session"],
                        cores=reserved_cores(request, self._published.node),
                        variables=request["variables"],
                        nodefile=plan.nodefile(),
                    )
                if self._abandoned():
                    raise OarLxcError("whoever asked for the launch is gone")
                with noted(self._layout, "start", len(share)):
                    for event in self._start([planned.name for planned in share]):
                        if event["event"] == "started":
                            times = {"launched": begin, "start_seconds": event["seconds"]}
                            write_times(self._layout, event["container"], times)
                        else:
                            failed = True
                        self._emit(event)
                if failed:
                    self._undo(share)
                    return
                open_ports(self._layout, request["session"], share)
            except (OSError, CommandError) as error:
                self._undo(share)
                why = error.strerror if isinstance(error, OSError) else first_line(error.stderr)
                where = self._layout.containers
                raise OarLxcError(f"cannot create containers in {where}: {why}") from error
            except BaseException:
                self._undo(share)
                raise
        self._bring_up(share, request["wait"], request["timeout"])

    def _images(self, names: Collection[str]) -> dict[str, Path]:
        """Return the root directory of each image, unpacked for the job where it is an archive."""
        home = Path(pwd.getpwuid(os.getuid()).pw_dir)

        def inside(argv: Sequence[str]) -> list[str]:
            return in_user_namespace_argv(self._published, argv)

        return {name: provide(self._layout, name, home, inside) for name in sorted(names)}

    def _start(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Start containers; yield what became of each as an event."""
        for one in self._runtime.start_all(names):
            if isinstance(one, ContainerError):
                yield failed_event(one)
            else:
                seconds = round(one.seconds, 4)
                facts = init_facts(one.init_pid)
                yield {"event": "started", "container": one.name, "seconds": seconds, **facts}

    def _refuse_existing(self, share: Sequence[PlannedContainer]) -> None:
        for planned in share:
            # Also where what has the name is not ours: it would be in the way.
            if (self._layout.containers / planned.name).exists():
                raise ContainerError(
                    planned.name,
                    self._published.node,
                    f"job {self._published.job_id} has one of this name already: give the spec "
                    "another name",
                )

    def _undo(self, share: Sequence[PlannedContainer]) -> None:
        with suppress(OSError, OarLxcError):
            names = [planned.name for planned in share]
            self._runtime.kill(names, KILL_TIMEOUT, for_good=True)
            remove_containers(self._layout, self._published, names)

    def _ready(self, request: Mapping[str, Any]) -> None:
        """Wait until each container of this node is ready."""
        share = Plan.from_data(request["plan"]).on(self._published.node)
        enter_cgroups(self._published.cgroups)
        self._wait_ready(share, request["wait"], request["timeout"])

    def _bring_up(self, share: Sequence[PlannedContainer], what: str, timeout: float) -> None:
        """Provision containers that have just started, and wait until they are ready."""
        scripted = [planned for planned in share if planned.provision]
        if scripted:
            with noted(self._layout, "boot", len(scripted)):
                booted = self._wait(scripted, BOOT, timeout)
            booted_ones = [planned for planned in scripted if planned.name in booted]
            with noted(self._layout, "provision", len(booted_ones)):
                good = provision(self._runtime, booted_ones, self._emit, self._abandoned)
            failed = {planned.name for planned in scripted} - set(good)
            share = [planned for planned in share if planned.name not in failed]
        self._wait_ready(share, what, timeout)

    def _wait(self, share: Sequence[PlannedContainer], what: str, timeout: float) -> set[str]:
        """Wait for something on the way to being ready; return who got there."""
        got = wait_ready(self._runtime, share, what, timeout, self._emit, self._abandoned)
        return set(got)

    def _wait_ready(self, share: Sequence[PlannedContainer], what: str, timeout: float) -> None:
        if what == RUNNING:
            return

        def emit(event: dict[str, Any]) -> None:
            if event["event"] == "reached":
                name = event["container"]
                times = read_times(self._layout, name)
                seconds = round(time.time() - times.get("launched", time.time()), 4)
                write_times(self._layout, name, {**times, "ready_seconds": seconds})
                event = {"event": "ready", "container": name, "seconds": seconds}
            self._emit(event)

        with noted(self._layout, "ready", len(share)):
            wait_ready(self._runtime, share, what, timeout, emit, self._abandoned)

    def _list(self, request: Mapping[str, Any]) -> None:
        """Tell each container's state and what the kernel knows of it."""
        for name in self._runtime.names():
            state = self._runtime.state(name)
            facts = init_facts(self._runtime.init_pid(name))
            address = configured_address(self._layout, name)
            times = read_times(self._layout, name)
            self._emit(
                {
                    "event": "container",
                    "container": name,
                    "node": self._published.node,
                    "state": state,
                    "address": address,
                    "start_seconds": times.get("start_seconds", 0.0),
                    "ready_seconds": times.get("ready_seconds", 0.0),
                    **facts,
                }
            )

    def _exec(self, request: Mapping[str, Any]) -> None:
        """Run a command in containers of this node at once, all or those named."""
        wanted = request["containers"]
        present = self._runtime.names()
        names = present if wanted is None else [name for name in wanted if name in present]
        enter_cgroups(self._published.cgroups)
        stdin = request.get("stdin", "").encode("utf-8", "surrogateescape")
        argv, timeout = request["argv"], request["timeout"]
        execute(self._runtime, names, argv, stdin, timeout, self._emit, self._abandoned)

    def _watch(self, request: Mapping[str, Any]) -> None:
        """Tell what befalls the containers of a session until nobody listens."""
        names = containers_of(self._layout, request["session"])
        watch(self._runtime, names, self._published.cgroups, self._emit, self._abandoned)

    def _destroy(self, request: Mapping[str, Any]) -> None:
        """Kill and remove containers of this node: those of a session, or all."""
        begin, start = time.time(), time.monotonic()
        with self._locked():
            close_ports(self._layout, request["session"])
            names = containers_of(self._layout, request["session"])
            thaw(self._published.cgroups, names)
            if request.get("grace"):
                self._runtime.shutdown(names, request["grace"])
            left = self._runtime.kill(names, KILL_TIMEOUT, for_good=True)
            gone = [name for name in names if name not in left]
            remove_containers(self._layout, self._published, gone)
        if names:
            note(self._layout, "destroy", begin, time.monotonic() - start, len(gone))
        for name in gone:
            self._emit({"event": "gone", "container": name})
        for name in left:
            reason = f"it still ran {KILL_TIMEOUT:g} s after SIGKILL"
            self._emit(failed_event(ContainerError(name, "", reason)))

    def _control(self) -> control.Control:
        """Return what starts and stops single containers."""

        def launched(name: str, begin: float, seconds: float) -> None:
            write_times(self._layout, name, {"launched": begin, "start_seconds": seconds})

        return control.Control(
            self._published, self._runtime, self._emit, self._start, self._locked, launched
        )

    def _show(self, request: Mapping[str, Any]) -> None:
        """Tell all that can be known of containers that are named."""
        for name in sorted(set(self._runtime.names()) & set(request["containers"])):
            facts = show_container(self._layout, self._published, self._runtime, name)
            self._emit({"event": "shown", "container": name, **facts})

    def _keys(self, request: Mapping[str, Any]) -> None:
        """Tell the job's keys, where they are: on the node that launched."""
        keys = JobKeys(self._layout.private)
        with suppress(FileNotFoundError):
            self._emit({"event": "keys", **keys.to_client_data()})

    def _timeline(self, request: Mapping[str, Any]) -> None:
        """Tell what each phase of the job's containers took on this node."""
        for fact in read_timeline(self._layout, self._published):
            self._emit({"event": "phase", **fact})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Launch and destroy one after the other, whichever session asked."""
        fd = os.open(self._layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def reserved_cores(request: Mapping[str, Any], node: str) -> int:
    """Return how many cores OAR reserved on a node; 0 where nothing tells.

    Args:
        request: may have ``cores``, cores by node; else OAR's nodefile is read.
        node: the node.
    """
    if "cores" in request:
        return int(request["cores"].get(node, 0))
    with suppress(OarLxcError):
        return Job.from_environ().cores.get(node, 0)
    return 0


def first_line(text: str) -> str:
    """Return the first line that a program wrote: what follows mostly follows from it."""
    return (text.strip().splitlines() or ["it said nothing"])[0]


def _emit_line(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


class _Reader:
    """Who reads standard output, as seen from here.

    Args:
        heartbeat: whether it is to be written to every second, for what is between to notice.
    """

    def __init__(self, heartbeat: bool) -> None:
        self._due = time.monotonic() + HEARTBEAT_SECONDS if heartbeat else float("inf")

    def is_gone(self) -> bool:
        """Whether nobody reads any more."""
        if time.monotonic() > self._due:
            self._due = time.monotonic() + HEARTBEAT_SECONDS
            sys.stdout.write("\n")
            sys.stdout.flush()
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(happened & (select.POLLERR | select.POLLHUP) for _, happened in poll.poll(0))


def _request(line: str) -> dict[str, Any]:
    try:
        request = json.loads(line or "{}")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the request is no JSON: {error}") from error
    if not isinstance(request, dict):
        raise UsageError("the request is no JSON object")
    return request


def main() -> None:
    """Carry out one operation; failures are events, and the exit status."""
    try:
        if len(sys.argv) != 3:
            raise UsageError("usage: python3 -m oar_lxc.agent JOB OPERATION <REQUEST")
        request = _request(sys.stdin.readline())
        layout, published = open_job(check_job_id(sys.argv[1]))
        runtime = LxcRuntime(layout.containers, published.node)
        abandoned = _Reader(bool(request.get(HEARTBEAT))).is_gone
        Agent(layout, published, runtime, _emit_line, abandoned).run(sys.argv[2], request)
        _emit_line({"event": "done"})
    except OarLxcError as error:
        _emit_line({"event": "error", "reason": str(error)})
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
