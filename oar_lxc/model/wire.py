"""What an agent and its caller write to each other: JSON, one message a line.

A request is what an agent reads; an event is what it writes. Each is a class here, with a
``kind``, by which the other side knows it. :func:`encode` makes a line of one, and :func:`decode`
one of a line.

The nodes of a job may have different versions. What one does not know of another it leaves alone:
fields and events of a newer version are ignored, and what an older one does not write has its
default. Whoever adds a field to a class gives it one. A spec and a plan are what a user asked for:
of these nothing is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, field, fields
from typing import TYPE_CHECKING, Any

from oar_lxc.errors import ContainerError, UsageError
from oar_lxc.model.message import AnyMessage, Later, Message, message, names_of

if TYPE_CHECKING:
    from oar_lxc.model.plan import Plan
    from oar_lxc.model.spec import Port, Spec

# The line that a program of ours begins with on a node. What stands before it is of the user's
# login shell. Only then is it given what it is to read, which the shell could take from it.
UP = b'["", "up"]'

Names = Mapping[str, Mapping[str, tuple[str, str]]]


class NoMessageError(ValueError):
    """A line is no message, but something that a program of the user's wrote."""


@message
class Request(Message):
    """What an agent is asked to do.

    Attributes:
        heartbeat: whether it is to write something every second. What is between it and its
            reader, oarsh, ends where that cannot be handed on.
    """

    heartbeat: bool = field(default=False, kw_only=True)


@message
class Allot(Request):
    """Give a session addresses, cores and keys; answered by :class:`Allotted` or :class:`Refused`.

    Attributes:
        spec: what it asks for.
        user: the job's user.
        cores: how many cores the job has, by node.
        session: its token.
        owner: its node, and :func:`oar_lxc.linux.stat.identity`.
    """

    kind = "allot"
    spec: Spec
    user: str
    cores: Mapping[str, int]
    session: str
    owner: tuple[str, ...]


@message
class Release(Request):
    """Take back what a session was allotted.

    Attributes:
        session: its token.
    """

    kind = "release"
    session: str


@message
class Launch(Request):
    """Create and start each node's share of a plan, and wait until it is ready.

    Attributes:
        plan: what there is to be, on all nodes.
        keys: of the job; see :class:`oar_lxc.container.launch.Launch`.
        host_keys: the secret of each container's key, in hexadecimal digits, by its name.
        names: address and public host key by container, of each session of the job.
        session: whose they are.
        wait: when they are ready; see :attr:`oar_lxc.model.spec.Spec.wait`.
        timeout: seconds that this may take.
        cores: how many cores OAR reserved, by node.
        variables: of the job, which sessions and commands in containers get.
    """

    kind = "launch"
    plan: Plan
    keys: Mapping[str, str]
    host_keys: Mapping[str, str]
    names: Names
    session: str
    wait: str
    timeout: float
    cores: Mapping[str, int] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)


@message
class AwaitReady(Request):
    """Wait until containers are ready.

    Attributes:
        plan: which containers, on all nodes.
        wait: when they are ready.
        timeout: seconds that this may take.
    """

    kind = "ready"
    plan: Plan
    wait: str
    timeout: float


@message
class Destroy(Request):
    """Kill and remove containers.

    Attributes:
        session: those of a session; of all where None.
        grace: seconds that they get to halt by themselves.
    """

    kind = "destroy"
    session: str | None
    grace: float = 0.0


@message
class OnContainers(Request):
    """What is asked of containers by their names.

    Attributes:
        containers: names; each node acts on those that it has. All of it where None.
    """

    containers: tuple[str, ...] | None


@message
class Start(OnContainers):
    """Start those containers that are stopped."""

    kind = "start"


@message
class Stop(OnContainers):
    """Stop containers.

    Attributes:
        timeout: seconds that they get to halt by themselves.
    """

    kind = "stop"
    timeout: float


@message
class Restart(OnContainers):
    """Stop containers, and start them again.

    Attributes:
        timeout: seconds that they get to halt by themselves.
    """

    kind = "restart"
    timeout: float


@message
class Freeze(OnContainers):
    """Stop all processes of containers where they are."""

    kind = "freeze"


@message
class Unfreeze(OnContainers):
    """Let frozen containers run on."""

    kind = "unfreeze"


@message
class Exec(OnContainers):
    """Run a command as root in containers, in all at once.

    Attributes:
        argv: the command.
        stdin: what it reads; bytes that are no UTF-8 as surrogates.
        timeout: seconds after which it is killed; None for as long as it takes.
    """

    kind = "exec"
    argv: tuple[str, ...]
    stdin: str = ""
    timeout: float | None = None


@message
class Watch(Request):
    """Tell what befalls the containers of a session, until nobody listens.

    Attributes:
        session: its token.
    """

    kind = "watch"
    session: str


@message
class List(Request):
    """Tell of each container, by a :class:`Container`."""

    kind = "list"


@message
class Show(OnContainers):
    """Tell all that is known of containers, by a :class:`Shown` each."""

    kind = "show"
    containers: tuple[str, ...]


@message
class TellKeys(Request):
    """Tell the job's key, by a :class:`Keys` from the node that has it."""

    kind = "keys"


@message
class Timeline(Request):
    """Tell what each phase of the job's containers took, by a :class:`Phase` each."""

    kind = "timeline"


@message
class Images(Request):
    """Tell which images the job has, by an :class:`Image` each."""

    kind = "images"


@message
class Event(Message):
    """What an agent tells.

    A field can also be had by its name in brackets, as in ``event["container"]``, and the kind by
    ``event["event"]``.
    """


@message
class Done(Event):
    """The request was carried out."""

    kind = "done"


@message
class Error(Event):
    """The request failed as a whole.

    Attributes:
        reason: why, one sentence.
    """

    kind = "error"
    reason: str


@message
class Allotted(Event):
    """What a session was given; see :class:`Launch`."""

    kind = "allotted"
    plan: Plan
    keys: Mapping[str, str]
    host_keys: Mapping[str, str]
    names: Names


@message
class Refused(Event):
    """What a session asked for is wrong, or not to be had.

    Attributes:
        reason: why, one sentence.
    """

    kind = "refused"
    reason: str


@message
class OfContainer(Event):
    """What is told of one container.

    Attributes:
        container: its name.
    """

    container: str

    @property
    def name(self) -> str:
        """The container's name."""
        return self.container


@message
class Planned(OfContainer):
    """A container is about to be made: what a session tells itself.

    Attributes:
        wait: when it will be ready.
    """

    kind = "planned"
    wait: str


@message
class Started(OfContainer):
    """A container runs.

    Attributes:
        seconds: from the start call to RUNNING.
        pid: its init, as the node counts processes.
        cpus: CPUs it may use, as the kernel lists them.
        cgroup: its cgroup in the cpuset hierarchy.
    """

    kind = "started"
    seconds: float
    pid: int
    cpus: str
    cgroup: str


@message
class Reached(OfContainer):
    """A container has booted, and its provision script can run.

    Attributes:
        what: what was waited for.
    """

    kind = "reached"
    what: str


@message
class Provisioned(OfContainer):
    """A container's provision script has succeeded."""

    kind = "provisioned"


@message
class Ready(OfContainer):
    """A container is what was waited for.

    Attributes:
        seconds: since its launch began.
    """

    kind = "ready"
    seconds: float


@message
class Failed(OfContainer):
    """What was asked of a container failed.

    Attributes:
        reason: why, one sentence without the container's name.
        log: the last lines of a log that tells more, oldest first.
    """

    kind = "failed"
    reason: str
    log: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: ContainerError) -> Failed:
        """Return what tells of an error."""
        return cls(error.container, error.reason, tuple(error.log))

    def error(self, node: str) -> ContainerError:
        """Return the error that was told of, with the node that told it."""
        return ContainerError(self.container, node, self.reason, self.log)


@message
class Output(OfContainer):
    """A command in a container wrote something.

    Attributes:
        stream: ``stdout`` or ``stderr``.
        data: whole lines, where they are not very long; bytes that are no UTF-8 as surrogates.
    """

    kind = "output"
    stream: str
    data: str


@message
class Exit(OfContainer):
    """A command in a container has ended.

    Attributes:
        status: 0 to 255; 128 + number where a signal ended it, 124 where its time was up.
    """

    kind = "exit"
    status: int


@message
class Changed(OfContainer):
    """A container was started, stopped, frozen or thawed, or was so already.

    Attributes:
        state: LXC's word for what it is.
        was: LXC's word for what it was.
        killed: whether it was killed, as it did not halt in time.
    """

    kind = "changed"
    state: str
    was: str
    killed: bool = False


@message
class Gone(OfContainer):
    """A container was destroyed."""

    kind = "gone"


@message
class OutOfMemory(OfContainer):
    """The memory of a container was full, and the kernel killed processes in it.

    Attributes:
        killed: how many.
    """

    kind = "out-of-memory"
    killed: int


@message
class Stopped(OfContainer):
    """A container that ran does so no more."""

    kind = "stopped"


@message
class Container(OfContainer):
    """A container as its node tells of it now.

    Attributes:
        node: the node it is on.
        state: LXC's word: RUNNING, STOPPED, FROZEN …
        address: its IPv4 address.
        pid: its init, as the node counts processes; 0 where it does not run.
        cpus: CPUs it may use.
        cgroup: its cgroup in the cpuset hierarchy.
        start_seconds: from the start call to RUNNING.
        ready_seconds: from launch to the answer of its sshd, 0 where that was not waited for.
        ready: whether it runs and is ready; while it is waited for or provisioned it is not.
        host_key: the public key of its ssh server, which no other container has.
    """

    kind = "container"
    node: str
    state: str
    address: str
    pid: int
    cpus: str
    cgroup: str
    start_seconds: float = 0.0
    ready_seconds: float = 0.0
    ready: bool = False
    host_key: str = ""


@message
class Shown(OfContainer):
    """All that can be known of a container; what could not be read is None.

    Attributes:
        state: LXC's word.
        node: the node it is on.
        address: its IPv4 address.
        group: its group's name.
        image: its image's name.
        cores: how many cores are reserved for it alone.
        ports: those of the node that lead into it.
        pid: its init, as the node counts processes; 0 where it does not run.
        ready: whether it runs and is not waited for any more.
        launched: when its launch began, in seconds since the epoch.
        start_seconds: from the start call to RUNNING.
        ready_seconds: from launch to ready.
        cpus: CPUs it may use.
        started: when its init started, in seconds since the epoch.
        processes: how many there are in it.
        processes_limit: the most that there may be; 0 where there is no limit of its own.
        memory: bytes that it uses.
        memory_limit: the most that it may use; 0 where there is no limit of its own.
        oom_kills: how many processes the kernel killed, as its memory was full.
        cpu_seconds: time of CPUs that it used.
        listens: TCP ports that something in it listens at.
    """

    kind = "shown"
    state: str
    node: str
    address: str
    group: str
    image: str
    cores: int
    ports: tuple[Port, ...]
    pid: int
    ready: bool
    launched: float | None = None
    start_seconds: float | None = None
    ready_seconds: float | None = None
    cpus: str | None = None
    started: float | None = None
    processes: int | None = None
    processes_limit: int | None = None
    memory: int | None = None
    memory_limit: int | None = None
    oom_kills: int | None = None
    cpu_seconds: float | None = None
    listens: tuple[int, ...] | None = None


@message
class Keys(Event):
    """The job's key, by which a client gets into its containers.

    Attributes:
        client: the private key.
    """

    kind = "keys"
    client: str


@message
class Phase(Event):
    """What one phase of the job's containers took on a node.

    Attributes:
        phase: its name, one of :data:`oar_lxc.agent.timeline.PHASES`.
        begin: when it began, in seconds since the epoch.
        seconds: what it took.
        containers: how many it was of.
        steps: seconds by the name of a step; of ``prepare`` alone.
    """

    kind = "phase"
    phase: str
    begin: float
    seconds: float
    containers: int
    steps: Mapping[str, float] = field(default_factory=dict)


@message
class Image(Event):
    """An image that the job has on a node; see :class:`oar_lxc.image.record.Record`.

    Attributes:
        image: name and tag.
        whose: ``public`` or ``own``.
        name: its name.
        tag: its tag.
        digest: of its tree.
        created: when it was published.
        source: what it was made from.
        size: bytes of all files' contents.
        files: how many paths it has.
        halt_signal: what its init takes for the wish to shut down.
        path: where it is.
    """

    kind = "image"
    image: str
    whose: str
    name: str
    tag: str
    digest: str
    created: str
    source: str
    size: int
    files: int
    halt_signal: str
    path: str


def _kinds(base: type[AnyMessage]) -> dict[str, type[AnyMessage]]:
    found: dict[str, type[AnyMessage]] = {}
    for cls in base.__subclasses__():
        found |= {cls.kind: cls} if "kind" in vars(cls) else _kinds(cls)
    return found


# By their kinds.
REQUESTS = _kinds(Request)
EVENTS = _kinds(Event)


def encode(message: Message) -> bytes:
    """Return a message as a line, without the newline."""
    told = {name: getattr(message, name) for name in names_of(message)}
    if isinstance(message, Event):
        told = {"event": message.kind, **told}
    return json.dumps(told, default=asdict).encode()


def decode(
    line: str | bytes, known: Mapping[str, type[AnyMessage]], kind: str = ""
) -> AnyMessage | None:
    """Return the message that a line is; None where it is of a kind that is not known.

    Args:
        line: what :func:`encode` made, here or there.
        known: :data:`REQUESTS` or :data:`EVENTS`.
        kind: which one it is; by default the line says so itself, as events do.

    Raises:
        NoMessageError: it is something else.
    """
    try:
        told = json.loads(line)
        cls = known.get(kind or told["event"])
        if cls is None:
            return None
        types = {one.name: str(one.type) for one in fields(cls)}
        return cls(**{k: _value(told[k], types[k]) for k in types if k in told})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise NoMessageError(f"it is no message: {error}") from error


def _value(data: Any, type_: str) -> Any:
    """Make a field's value of JSON's types; one of another module's class later.

    A node's agent reads a plan while what starts its containers comes up, and not before: the
    module of plans takes longer to load than all else until then.
    """
    if type_ in _MADE_LATER:
        return Later(_MADE_LATER[type_], data)
    if type_ == "Names":
        return {
            str(session): {str(name): (str(ip), str(key)) for name, (ip, key) in names.items()}
            for session, names in data.items()
        }
    if type_.startswith("tuple[") and data is not None:
        return tuple(data)
    return data


def _plan(data: Any) -> Plan:
    from oar_lxc.model.plan import Plan

    try:
        return Plan.from_data(data)
    except (TypeError, KeyError, AttributeError) as error:
        # Not to be left alone: a container would lack what was asked for.
        raise UsageError(
            f"the plan is of another version of oar-lxc ({error}): install one version on all "
            "nodes and frontends"
        ) from error


def _spec(data: Any) -> Spec:
    from oar_lxc.model.spec import Spec

    return Spec.from_data(data)


def _ports(data: Any) -> tuple[Port, ...]:
    from oar_lxc.model.spec import Port

    return tuple(Port(**port) for port in data)


_MADE_LATER: dict[str, Callable[[Any], Any]] = {
    "Plan": _plan,
    "Spec": _spec,
    "tuple[Port, ...]": _ports,
}
