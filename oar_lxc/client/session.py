"""The session: a context manager that launches and destroys containers on all nodes of a job.

::

    with Session(Group(per_node=2), wait="ssh") as session:
        for outcome in session.run(["hostname"]):
            print(outcome.container, outcome.stdout)

The containers are gone after the block, however it ends: normally, by an exception, by SIGTERM or
SIGINT, or by the signal that OAR sends at a checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import field, fields, replace
from importlib import import_module
from ipaddress import IPv4Network
from types import TracebackType

from oar_lxc.client.commands import OnOutput, Outcome, run_in_containers
from oar_lxc.client.networks import set_link
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
from oar_lxc.linux.logger import get_logger
from oar_lxc.linux.process import identity
from oar_lxc.linux.signals import Checkpoint, deferred_signals, raising_signals
from oar_lxc.model import events, requests
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
from oar_lxc.model.links import Link
from oar_lxc.model.message import message
from oar_lxc.model.plan import Plan, PlannedContainer, head_of, make_plan
from oar_lxc.model.published import PublishedJob, read_published
from oar_lxc.model.spec import DEFAULT_TIMEOUT, WAIT_SSH, Group, Spec, as_spec
from oar_lxc.model.states import RUNNING
from oar_lxc.remote.agents import LateRequest, Remote


@message
class ContainerHandle(events.Container):
    """A container of a session, in which commands can be run.

    It has the attributes of :class:`oar_lxc.model.events.Container`. Their values are those of the
    container's start, except ``ready_seconds`` and ``ready``, which are set later.

    Attributes:
        image: name of its image.
        session: the session that it belongs to.
    """

    image: str = ""
    session: Session = field(kw_only=True, repr=False, compare=False)

    @property
    def init_pid(self) -> int:
        """The same as ``pid``; scripts for version 0.1 use this name."""
        return self.pid

    def run(
        self, argv: Sequence[str], timeout: float | None = None, stdin: str | bytes = ""
    ) -> Outcome:
        """Run a command as root in this container; see :meth:`Session.run`."""
        return self.session.run(argv, [self.name], timeout, stdin)[0]


CHECKPOINT_SECONDS = 10.0  # seconds that containers get to halt at a checkpoint
OnProgress = Callable[[str, events.Event], None]


class Session:
    """The containers that one script of a job launches, and destroys at the end of its block.

    Args:
        spec: what to start: a spec, a group or a list of groups; by default one container of the
            default image on each node.
        job: the job; by default the job that this process runs in.
        wait: when the containers count as launched; overrides the spec's (see
            :attr:`oar_lxc.model.spec.Spec.wait`).
        timeout: seconds that the launch may take; overrides the spec's.
        on_progress: called with the node and an event whenever the state of a container changes;
            a :class:`~oar_lxc.client.progress.Progress`, for example. The events of a launch are
            :class:`~oar_lxc.model.events.Planned`, :class:`~oar_lxc.model.events.Started`,
            :class:`~oar_lxc.model.events.Reached`, :class:`~oar_lxc.model.events.Provisioned`,
            :class:`~oar_lxc.model.events.Ready` and :class:`~oar_lxc.model.events.Failed`. The
            event of the end is :class:`~oar_lxc.model.events.Gone`; see also :meth:`wait`. Each
            has the container's name as ``event.container``.

    Raises:
        JobEnvironmentError: this process does not run in a job (see
            :meth:`oar_lxc.model.job.Job.from_environ`).
        NodeNotPreparedError: root did not prepare this node for the job.
        SpecError: an argument is not allowed, or the spec does not fit the job.
    """

    def __new__(cls, *values: object, **keys: object) -> Session:
        """Refuse an unknown argument with a hint; Python's own error gives none."""
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
        self._token = ""  # identifies the session: its containers carry it
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
        self._log = get_logger(job=self.job.id)
        self.layout = JobLayout(self.job.id)
        self.published: PublishedJob = self._read_published()
        pool = IPv4Network(self.published.pool)
        self.plan: Plan = make_plan(self.spec, self.job, pool)
        self._on_progress = on_progress or (lambda node, event: None)
        self._remote = Remote(self.job.id, self.job.nodes, self.published.node)
        self._planned: dict[str, PlannedContainer] = {}
        self._host_keys: dict[str, str] = {}
        self._handles: dict[str, ContainerHandle] = {}
        self._failed_nodes: set[str] = set()  # named by the launch's error
        self._signals = contextlib.ExitStack()
        self._in_ledger = False  # whether the ledger may have an entry of the session
        self._on_nodes = False  # whether nodes may have containers of the session

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
        """The containers that the session has started, in the order of the plan."""
        return tuple(
            self._handles[c.name] for c in self.plan.containers if c.name in self._handles
        )

    def __enter__(self) -> Session:
        """Launch the containers on all nodes at once; other sessions of the job keep theirs.

        Raises:
            SpecError: other sessions leave too little, or have a container of the same name.
            LaunchError: a container or a node failed; all containers of the session are destroyed.
        """
        self._token = os.urandom(8).hex()
        self._signals = contextlib.ExitStack()
        self._signals.enter_context(raising_signals())
        try:
            with self._log.step("launch"):
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
        """Destroy all containers of the session; at a checkpoint, halt them first."""
        self._finish(CHECKPOINT_SECONDS if isinstance(error, Checkpoint) else 0)

    def _finish(self, grace: float = 0) -> None:
        try:
            from oar_lxc.client.sshfiles import forget_ended

            with deferred_signals(), self._log.step("destroy"):
                self.stop(grace)
                forget_ended(self.layout)
        finally:
            self._signals.close()

    def _launch(self) -> None:
        if not self.published.in_cpuset:
            # At the job's end, root kills the processes in these cgroups that OAR does not find.
            enter_cgroups(self.published.cgroups, self.published.unit)
        if failures := self._call(LateRequest(requests.Launch, self._launch_request)):
            self._failed_nodes = {f.node for f in failures if isinstance(f, NodeError)}
            raise LaunchError(failures)
        for name, handle in self._handles.items():
            self._handles[name] = replace(handle, ready=True)

    def _launch_request(self) -> requests.Launch:
        """Get addresses, cores and keys; tell what is planned; return the request to launch it."""
        # The end of the block needs this module, and an upgrade may replace its file before. The
        # import delays nothing, as the agents come up meanwhile.
        import_module("oar_lxc.client.sshfiles")
        allotted = self._allot()
        self.plan = allotted.plan
        self._planned = {container.name: container for container in self.plan.containers}
        self._host_keys = {name: peer.key for name, peer in allotted.names[self._token].items()}
        self._log.info("planned", containers=len(self.plan.containers))
        for container in self.plan.containers:
            self._on_progress(container.node, events.Planned(container.name, self.spec.wait))
        self._on_nodes = True
        return requests.Launch(
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

    def _call(self, request: requests.Request | LateRequest) -> list[ContainerError | NodeError]:
        """Send a request to the agents, pass on their events, and return the failures."""
        failures: list[ContainerError | NodeError] = []

        def take(node: str, event: events.Event) -> None:
            match event:
                case events.Failed():
                    failures.append(event.error(node))
                case events.Started():
                    self._handles[event.container] = self._handle(event)
                case events.Ready():
                    handle = self._handles[event.container]
                    self._handles[event.container] = replace(handle, ready_seconds=event.seconds)
            self._on_progress(node, event)

        errors = self._remote.call(request, take)
        return [*failures, *errors]

    def _allot(self) -> events.Allotted:
        """Get addresses, cores and keys; see :func:`oar_lxc.agent.ledger.allot`."""
        request = requests.Allot(
            spec=self.spec,
            user=self.job.user,
            cores=dict(self.job.cores),
            session=self._token,
            owner=(self.published.node, *identity(os.getpid())),
        )
        self._in_ledger = True
        head = head_of(self.published.nodes)
        for _, answer in self._remote.collect(request, events.Event, [head]):
            match answer:
                case events.Allotted():
                    return answer
                case events.Refused():
                    raise SpecError(answer.reason)
        raise NodeError(head, "it allotted nothing: is another version of oar-lxc there?")

    def _release(self) -> None:
        """Give back to the ledger what :meth:`_allot` got; the containers must be gone."""
        head = head_of(self.published.nodes)
        self._remote.collect(requests.Release(self._token), events.Event, [head])
        self._in_ledger = False

    def _handle(self, event: events.Started) -> ContainerHandle:
        planned = self._planned[event.container]
        return ContainerHandle(
            container=planned.name,
            node=planned.node,
            state=RUNNING,
            address=planned.ip if planned.main else "",
            pid=event.pid,
            cpus=event.cpus,
            cgroup=event.cgroup,
            start_seconds=event.seconds,
            host_key=self._host_keys[planned.name],
            image=planned.image,
            session=self,
        )

    def wait_ready(self, what: str = WAIT_SSH, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Wait until all containers are ready.

        Args:
            what: what to wait for, as :attr:`oar_lxc.model.spec.Spec.wait`.
            timeout: seconds for all together.

        Raises:
            NotReadyError: some were not ready in time; they run on until the block ends.
        """
        asked = replace(self.spec, wait=what, timeout=timeout)
        if failures := self._call(requests.AwaitReady(self.plan, asked.wait, asked.timeout)):
            raise NotReadyError(failures)

    def run(
        self,
        argv: Sequence[str],
        containers: str | Sequence[str] | None = None,
        timeout: float | None = None,
        stdin: str | bytes = "",
        on_output: OnOutput | None = None,
    ) -> list[Outcome]:
        """Run a command as root in several containers at once.

        Args:
            argv: the command and its arguments, found through PATH inside.
            containers: names, or one name; by default all.
            timeout: seconds after which the command is killed; None: no limit.
            stdin: the command's standard input.
            on_output: called with container, stream (``stdout`` or ``stderr``) and text as the
                output comes; the outcomes then have no output.

        Returns:
            One outcome for each container: in the order of ``containers``, by default in the
            order of the plan.

        Raises:
            SpecError: an argument is not allowed.
            ContainerError: a name is not one of the session's, or a container does not run.
            NodeError: a node could not be reached.
        """
        node_of = {c.name: c.node for c in self.plan.containers}
        names = [*node_of] if containers is None else check_names(containers, node_of)
        wanted = {node_of[name] for name in names}
        nodes = [node for node in self.job.nodes if node in wanted]
        check_callable("on_output", on_output)
        command = requests.Exec(
            containers=tuple(names),
            argv=tuple(check_command(argv)),
            stdin=check_input(stdin),
            timeout=None if timeout is None else check_seconds("timeout", timeout),
        )
        return run_in_containers(self._remote, nodes, command, on_output)

    def link(
        self,
        from_: str,
        to: str | None = None,
        *,
        network: str | None = None,
        **keys: str | bool | None,
    ) -> Link:
        """Set a link of the job while it runs.

        It counts from now on instead of earlier links for the same pairs or interfaces, as a
        whole. All containers of a node take it at once, and no packet passes without a link
        meanwhile. Without further keys, all is as without a link.

        Args:
            from_: a group, a container, or ``*`` for all.
            to: likewise; None for all traffic of each interface of ``from_``.
            network: the network's name; by default the first one that both are in.
            keys: ``rate``, ``delay``, ``jitter``, ``loss``, ``duplicate``, ``corrupt``,
                ``reorder`` and ``both``; see :class:`~oar_lxc.model.links.Link`.

        Raises:
            SpecError: an argument is not allowed, or the kernel of a node cannot do it; nothing
                was changed.
            JobError: no container of the job has networks or links.
            NodeError: a node failed.
        """
        return set_link(self._remote, from_, to, network, keys)

    def stop(self, grace: float = 0) -> None:
        """Destroy the session's containers now, and not only at the end of the block.

        A container that cannot be destroyed is logged; the hooks destroy it when the job ends.

        Args:
            grace: seconds that containers get to halt by themselves before they are killed.

        Raises:
            SpecError: the grace is no number of seconds.
        """
        check_seconds("grace", grace)
        if not self._token:
            return  # the block has not begun
        failures = self._call(requests.Destroy(self._token, grace)) if self._on_nodes else []
        self._handles.clear()
        if self._in_ledger and not failures:
            with contextlib.suppress(OarLxcError):  # the ledger ends with the job anyway
                self._release()
        failures = [f for f in failures if f.node not in self._failed_nodes]
        if failures:
            # Log, and raise nothing: an error here would hide why the block ended.
            for failure in failures:
                self._log.warning("not destroyed yet", reason=str(failure))

    def wait(self) -> None:
        """Wait until a signal ends the job, or OAR ends it at its walltime.

        Meanwhile ``on_progress`` gets :class:`~oar_lxc.model.events.OutOfMemory` when the memory
        of a container was full, and :class:`~oar_lxc.model.events.Stopped` when a container
        stopped.
        """
        self._remote.call(requests.Watch(self._token), self._on_progress)
        while True:  # reached only when no agent watches any more
            # Not pause(): a signal that comes just before it would wait for the next signal.
            time.sleep(5)
