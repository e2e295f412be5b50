"""The containers of a job, as a context manager over all its nodes.

::

    with Session(Group(per_node=2), wait="ssh") as session:
        for outcome in session.run(["hostname"]):
            print(outcome.container, outcome.stdout)

Whatever ends the block, the containers are gone after it: its end, an exception, SIGTERM, SIGINT,
or the signal that OAR sends at a checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from ipaddress import IPv4Network
from types import TracebackType

from oar_lxc.errors import (
    ContainerError,
    LaunchError,
    NodeError,
    NodeNotPreparedError,
    NotReadyError,
    OarLxcError,
    SpecError,
)
from oar_lxc.linux.cgroups import enter_cgroups
from oar_lxc.linux.signals import Checkpoint, deferred_signals, raising_signals
from oar_lxc.linux.stat import identity
from oar_lxc.model import wire
from oar_lxc.model.arguments import (
    check_callable,
    check_command,
    check_input,
    check_names,
    check_seconds,
    shown,
)
from oar_lxc.model.hints import refuse_unknown
from oar_lxc.model.job import Job
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.message import message
from oar_lxc.model.plan import Plan, PlannedContainer, head_of, make_plan
from oar_lxc.model.published import PublishedJob, read_published
from oar_lxc.model.spec import SSH, TIMEOUT, Group, Spec, as_spec
from oar_lxc.remote.agents import Coming, Remote, raise_first


@message
class ContainerHandle(wire.Container):
    """A container of a session, and the way to it.

    It has the attributes of :class:`oar_lxc.model.wire.Container`, as they were when it had
    started; ``ready_seconds`` and ``ready`` follow.

    Attributes:
        image: name of its image.
        session: whose it is.
    """

    image: str = ""
    session: Session = field(kw_only=True, repr=False, compare=False)

    @property
    def init_pid(self) -> int:
        """Its ``pid``, as scripts of version 0.1 call it."""
        return self.pid

    def run(
        self, argv: Sequence[str], timeout: float | None = None, stdin: str | bytes = ""
    ) -> Outcome:
        """Run a command as root in this container; see :meth:`Session.run`."""
        return self.session.run(argv, [self.name], timeout, stdin)[0]


@dataclass(frozen=True)
class Outcome:
    """How a command ended in one container.

    Attributes:
        container: the container's name.
        status: exit status; 128 + number where a signal ended it, 124 where its time was up, 127
            where there is no such command.
        stdout: what it wrote there (bytes that are no UTF-8 kept as surrogates).
        stderr: likewise.
    """

    container: str
    status: int
    stdout: str
    stderr: str


GRACE = 10.0  # seconds that containers get to halt at a checkpoint
OnProgress = Callable[[str, wire.Event], None]
OnOutput = Callable[[str, str, str], None]


class Session:
    """The containers of a job.

    Args:
        spec: what to start, a spec, a group or a list of groups; by default one container of the
            default image on each node.
        job: the job; the one this process runs in by default.
        wait: when the containers count as launched, instead of the spec's word (see
            :attr:`oar_lxc.model.spec.Spec.wait`).
        timeout: seconds that this may take, instead of the spec's.
        on_progress: is given node and event for all that becomes of containers, such as a
            :class:`~oar_lxc.client.progress.Progress`. The events of a launch are
            :class:`~oar_lxc.model.wire.Planned`, :class:`~oar_lxc.model.wire.Started`,
            :class:`~oar_lxc.model.wire.Reached`, :class:`~oar_lxc.model.wire.Provisioned`,
            :class:`~oar_lxc.model.wire.Ready` and :class:`~oar_lxc.model.wire.Failed`, that of
            its end :class:`~oar_lxc.model.wire.Gone`; see also :meth:`wait`. All have the
            container's name, ``event.container``.

    Raises:
        JobEnvironmentError: this is no job (see :meth:`oar_lxc.model.job.Job.from_environ`).
        NodeNotPreparedError: the root side did not prepare this node for the job.
        SpecError: an argument is not allowed, or the spec does not fit the job.
    """

    def __new__(cls, *values: object, **keys: object) -> Session:
        """Refuse a key that there is not, before Python does it without a hint."""
        for key in keys:
            if key in {f.name for f in fields(Group)}:
                raise SpecError(f"Session: {key} is a Group's: write Session(Group({key}=…))")
        refuse_unknown("Session", keys, ("spec", "job", "wait", "timeout", "on_progress"))
        return super().__new__(cls)

    def __init__(
        self,
        spec: Spec | Group | Sequence[Group] | None = None,
        job: Job | None = None,
        *,
        wait: str | None = None,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._token = ""  # tells this session's containers from others'
        asked = as_spec(spec)
        self.spec: Spec = replace(
            asked,
            wait=asked.wait if wait is None else wait,
            timeout=asked.timeout if timeout is None else timeout,
        )
        check_callable("on_progress", on_progress)
        if job is not None and not isinstance(job, Job):
            raise SpecError(f"job is {shown(job)}; it is a Job, such as Job.from_environ()")
        self.job = job or Job.from_environ()
        self.layout = JobLayout(self.job.id)
        self.published: PublishedJob = self._read_published()
        pool = IPv4Network(self.published.pool)
        self.plan: Plan = make_plan(self.spec, self.job, pool)
        self._on_progress = on_progress or (lambda node, event: None)
        self._remote = Remote(self.job.id, self.job.nodes, self.published.node)
        self._planned: dict[str, PlannedContainer] = {}
        self._host_keys: dict[str, str] = {}
        self._handles: dict[str, ContainerHandle] = {}
        self._failed_nodes: set[str] = set()  # those that the launch's error names already
        self._signals: contextlib.ExitStack = contextlib.ExitStack()
        self._has_numbers = False

    def _read_published(self) -> PublishedJob:
        here = os.uname().nodename
        names = {name.partition(".")[0] for name in self.job.nodes}
        if here.partition(".")[0] not in names and not self.layout.published.exists():
            raise NodeNotPreparedError(
                f"{here} is not a node of job {self.job.id}: jobs of type deploy or cosystem run "
                "their script elsewhere and cannot have containers; submit with `-t lxc` alone"
            )
        return read_published(self.layout.published, self.job.id, here)

    @property
    def containers(self) -> tuple[ContainerHandle, ...]:
        """The containers that run, in the order of the plan."""
        return tuple(
            self._handles[c.name] for c in self.plan.containers if c.name in self._handles
        )

    def __enter__(self) -> Session:
        """Launch the plan on all nodes at once, beside what other sessions of the job have.

        Raises:
            SpecError: other sessions leave too little, or have a container of one of the names.
            LaunchError: a container or node failed; all that was started is gone again.
        """
        self._token = os.urandom(8).hex()
        self._signals = contextlib.ExitStack()
        self._signals.enter_context(raising_signals())
        try:
            self._launch()
        except BaseException:
            self._finish()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Destroy all containers of the session; at a checkpoint they are halted first."""
        self._finish(GRACE if isinstance(error, Checkpoint) else 0)

    def _finish(self, grace: float = 0) -> None:
        try:
            from oar_lxc.client.sshfiles import forget_ended  # a launch need not wait for it

            with deferred_signals():
                self.stop(grace)
                forget_ended(self.layout)
        finally:
            self._signals.close()

    def _launch(self) -> None:
        if not self.published.in_cpuset:
            # What OAR does not find at the job's end, the root side does.
            enter_cgroups(self.published.cgroups)
        if failures := self._call(Coming(wire.Launch, self._launch_request)):
            self._failed_nodes = {f.node for f in failures if isinstance(f, NodeError)}
            raise LaunchError(failures)
        for name, handle in self._handles.items():
            self._handles[name] = replace(handle, ready=True)

    def _launch_request(self) -> wire.Launch:
        """Get what there is to get, and tell what is planned."""
        allotted = self._allot()
        self.plan = allotted.plan
        self._planned = {container.name: container for container in self.plan.containers}
        self._host_keys = {name: key for name, (_, key) in allotted.names[self._token].items()}
        for container in self.plan.containers:
            self._on_progress(container.node, wire.Planned(container.name, self.spec.wait))
        return wire.Launch(
            plan=allotted.plan,
            keys=allotted.keys,
            host_keys=allotted.host_keys,
            names=allotted.names,
            session=self._token,
            wait=self.spec.wait,
            timeout=self.spec.timeout,
            cores=dict(self.job.cores),
            variables=self.job.variables(),
        )

    def _call(self, request: wire.Request | Coming) -> list[ContainerError | NodeError]:
        """Have agents act, tell what becomes of containers; return what failed."""
        failures: list[ContainerError | NodeError] = []

        def take(node: str, event: wire.Event) -> None:
            match event:
                case wire.Failed():
                    failures.append(event.error(node))
                case wire.Started():
                    self._handles[event.container] = self._handle(event)
                case wire.Ready():
                    handle = self._handles[event.container]
                    known = replace(handle, ready_seconds=event.seconds)
                    self._handles[event.container] = known
            self._on_progress(node, event)

        errors = self._remote.call(request, take)
        return [*failures, *errors]

    def _allot(self) -> wire.Allotted:
        """Get addresses, cores and keys; see :func:`oar_lxc.agent.ledger.allot`."""
        request = wire.Allot(
            spec=self.spec,
            user=self.job.user,
            cores=dict(self.job.cores),
            session=self._token,
            owner=(self.published.node, *identity(os.getpid())),
        )
        self._has_numbers = True
        head = head_of(self.published.nodes)
        for _, answer in self._remote.collect(request, wire.Event, [head]):
            match answer:
                case wire.Allotted():
                    return answer
                case wire.Refused():
                    raise SpecError(answer.reason)
        raise NodeError(head, "it allotted nothing: is another version of oar-lxc there?")

    def _release(self) -> None:
        """Give back what :meth:`_allot` got; the containers are gone."""
        head = head_of(self.published.nodes)
        self._remote.collect(wire.Release(self._token), wire.Event, [head])
        self._has_numbers = False

    def _handle(self, event: wire.Started) -> ContainerHandle:
        planned = self._planned[event.container]
        return ContainerHandle(
            container=planned.name,
            node=planned.node,
            state="RUNNING",
            address=planned.ip,
            pid=event.pid,
            cpus=event.cpus,
            cgroup=event.cgroup,
            start_seconds=event.seconds,
            host_key=self._host_keys[planned.name],
            image=planned.image,
            session=self,
        )

    def wait_ready(self, what: str = SSH, timeout: float = TIMEOUT) -> None:
        """Wait until all containers are ready.

        Args:
            what: as :attr:`oar_lxc.model.spec.Spec.wait`.
            timeout: seconds for all together.

        Raises:
            NotReadyError: some were not ready in time; they run on until the block ends.
        """
        asked = replace(self.spec, wait=what, timeout=timeout)
        if failures := self._call(wire.AwaitReady(self.plan, asked.wait, asked.timeout)):
            raise NotReadyError(failures)

    def run(
        self,
        argv: Sequence[str],
        containers: str | Sequence[str] | None = None,
        timeout: float | None = None,
        stdin: str | bytes = "",
        on_output: OnOutput | None = None,
    ) -> list[Outcome]:
        """Run a command as root in containers, in all at once.

        Args:
            argv: the command and its arguments, found through PATH inside.
            containers: names, or one name; all by default.
            timeout: seconds after which it is killed where it still runs.
            stdin: what it reads.
            on_output: is given container, stream (``stdout`` or ``stderr``) and text as it comes;
                the outcomes then carry none.

        Returns:
            One outcome a container, in the order of the plan.

        Raises:
            SpecError: an argument is not allowed.
            ContainerError: a name is not one of the session's, or a container does not run.
            NodeError: a node could not be reached.
        """
        by_name = {c.name: c.node for c in self.plan.containers}
        names = [*by_name] if containers is None else check_names(containers, by_name)
        nodes = [n for n in self.job.nodes if n in {by_name[name] for name in names}]
        return run_in_containers(
            self._remote, names, nodes, argv, timeout=timeout, stdin=stdin, on_output=on_output
        )

    def stop(self, grace: float = 0) -> None:
        """Destroy the session's containers now; the end of the block does it too.

        Args:
            grace: seconds that they get to halt by themselves before they are killed.

        What cannot be destroyed here is logged: the hooks do it when the job ends.

        Raises:
            SpecError: the grace is no number of seconds.
        """
        check_seconds("grace", grace)
        if not self._token:
            return  # the block has not begun
        failures = self._call(wire.Destroy(self._token, grace))
        self._handles.clear()
        if self._has_numbers and not failures:
            with contextlib.suppress(OarLxcError):  # they are the job's, and end with it
                self._release()
        failures = [f for f in failures if f.node not in self._failed_nodes]
        if failures:
            # The job's end destroys what is left; an error here would hide why the block ended.
            import structlog  # takes 0.1 s, which a launch should not

            # Unless the program set it up, structlog writes to standard output, which is the
            # program's own.
            log = (
                structlog.get_logger()
                if structlog.is_configured()
                else structlog.wrap_logger(structlog.PrintLogger(sys.stderr))
            ).bind(job=self.job.id)
            for failure in failures:
                log.warning("not destroyed yet", reason=str(failure))

    def wait(self) -> None:
        """Stay until a signal ends the job, or OAR does at its walltime.

        Meanwhile ``on_progress`` is told of containers in which memory was full, by
        :class:`~oar_lxc.model.wire.OutOfMemory`, or that stopped, by
        :class:`~oar_lxc.model.wire.Stopped`.
        """
        self._remote.call(wire.Watch(self._token), self._on_progress)
        while True:  # where no agent watches any more
            # Not pause(): a signal just before it would be seen at the next one only.
            time.sleep(5)


def run_in_containers(
    remote: Remote,
    names: Sequence[str],
    nodes: Sequence[str],
    argv: Sequence[str],
    *,
    timeout: float | None = None,
    stdin: str | bytes = "",
    on_output: OnOutput | None = None,
) -> list[Outcome]:
    """Run a command in containers through the agents of their nodes; see :meth:`Session.run`."""
    check_callable("on_output", on_output)
    request = wire.Exec(
        containers=tuple(names),
        argv=tuple(check_command(argv)),
        stdin=check_input(stdin),
        timeout=None if timeout is None else check_seconds("timeout", timeout),
    )
    text: dict[tuple[str, str], list[str]] = {}
    status: dict[str, int] = {}
    failures: list[OarLxcError] = []

    def take(node: str, event: wire.Event) -> None:
        match event:
            case wire.Output() if on_output:
                on_output(event.container, event.stream, event.data)
            case wire.Output():
                text.setdefault((event.container, event.stream), []).append(event.data)
            case wire.Exit():
                status[event.container] = event.status
            case wire.Failed():
                failures.append(event.error(node))

    failures += remote.call(request, take, nodes)
    raise_first(failures)
    for name in names:
        if name not in status:
            raise ContainerError(name, "", "there is no such container in the job")
    return [
        Outcome(
            name,
            status[name],
            "".join(text.get((name, "stdout"), ())),
            "".join(text.get((name, "stderr"), ())),
        )
        for name in names
    ]
