"""The messages between an agent and its caller: JSON, one message per line.

An agent reads requests and writes events. Each is a class here, with a ``kind`` that names it in
a line. :func:`encode` turns a message into a line, and :func:`decode` a line into a message.

The nodes of a job may have different versions. A reader ignores fields and events of a newer
version, and uses the default of a field that an older version does not write. So each new field
of a class needs a default. A spec and a plan hold what a user asked for; unknown fields in them
are errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, field, fields
from typing import TYPE_CHECKING, Any

from oar_lxc.errors import ContainerError, UsageError
from oar_lxc.model.message import AnyMessage, LazyValue, Message, message, names_of

if TYPE_CHECKING:
    from oar_lxc.model.plan import Plan
    from oar_lxc.model.spec import Port, Spec

# The first line that a program of oar-lxc writes on a node. Output before it is from the user's
# login shell. The caller sends input only after this line, as the shell could read it before.
UP = b'["", "up"]'

Names = Mapping[str, Mapping[str, tuple[str, str]]]


class NoMessageError(ValueError):
    """A line is not a message; another program of the user wrote it."""


@message
class Request(Message):
    """A request to an agent.

    Attributes:
        heartbeat: whether the agent writes a line every second. oarsh, between the agent and its
            reader, ends when it cannot pass the line on.
    """

    heartbeat: bool = field(default=False, kw_only=True)


@message
class Allot(Request):
    """Give a session addresses, cores and keys; answered by :class:`Allotted` or :class:`Refused`.

    Attributes:
        spec: what the session asks for.
        user: the job's user.
        cores: how many cores the job has, by node.
        session: its token.
        owner: its node, and the :func:`oar_lxc.linux.process.identity` of its process.
    """

    kind = "allot"
    spec: Spec
    user: str
    cores: Mapping[str, int]
    session: str
    owner: tuple[str, ...]


@message
class Release(Request):
    """Take back the addresses, cores and keys of a session.

    Attributes:
        session: its token.
    """

    kind = "release"
    session: str


@message
class Launch(Request):
    """Create and start each node's share of a plan, and wait until it is ready.

    Attributes:
        plan: the containers of all nodes.
        keys: the job's keys; see :class:`oar_lxc.container.node_launch.NodeLaunch`.
        host_keys: the secret of each container's key, in hexadecimal digits, by its name.
        names: address and public host key by container, for each session of the job.
        session: token of the containers' session.
        wait: when they are ready; see :attr:`oar_lxc.model.spec.Spec.wait`.
        timeout: seconds that this may take.
        cores: how many cores OAR reserved, by node.
        variables: the job's variables for logins and commands in containers.
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
        plan: the containers of all nodes.
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
        session: token of the session that has them; None for all containers.
        grace: seconds that they get to halt by themselves.
    """

    kind = "destroy"
    session: str | None
    grace: float = 0.0


@message
class OnContainers(Request):
    """A request about containers, by their names.

    Attributes:
        containers: names; each node acts on those that it has. None for all containers.
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
    """Pause all processes of containers."""

    kind = "freeze"


@message
class Unfreeze(OnContainers):
    """Let frozen containers run on."""

    kind = "unfreeze"


@message
class Exec(OnContainers):
    """Run a command as root in containers, in all at the same time.

    Attributes:
        argv: the command.
        stdin: its standard input; bytes that are not UTF-8 are surrogates.
        timeout: seconds after which it is killed; None for no limit.
    """

    kind = "exec"
    argv: tuple[str, ...]
    stdin: str = ""
    timeout: float | None = None


@message
class Watch(Request):
    """Report what happens to the containers of a session, until the caller closes the connection.

    Attributes:
        session: its token.
    """

    kind = "watch"
    session: str


@message
class List(Request):
    """List all containers; each answer is a :class:`Container`."""

    kind = "list"


@message
class Show(OnContainers):
    """Tell all facts of containers; each answer is a :class:`Shown`."""

    kind = "show"
    containers: tuple[str, ...]


@message
class TellKeys(Request):
    """Tell the job's key; the node that has it answers with :class:`Keys`."""

    kind = "keys"


@message
class Timeline(Request):
    """Tell how long each phase of the job's containers took; each answer is a :class:`Phase`."""

    kind = "timeline"


@message
class Images(Request):
    """List the job's images; each answer is an :class:`Image`."""

    kind = "images"


@message
class Event(Message):
    """A report of an agent.

    ``event["container"]`` is the same as ``event.container``, and so for each field.
    ``event["event"]`` is the kind.
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
    """The addresses, cores and keys that a session has; see :class:`Launch`."""

    kind = "allotted"
    plan: Plan
    keys: Mapping[str, str]
    host_keys: Mapping[str, str]
    names: Names


@message
class Refused(Event):
    """A session's spec is wrong, or asks for more than there is.

    Attributes:
        reason: why, one sentence.
    """

    kind = "refused"
    reason: str


@message
class OfContainer(Event):
    """An event about one container.

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
    """A container will be made; the session itself makes this event, not an agent.

    Attributes:
        wait: the condition for "ready".
    """

    kind = "planned"
    wait: str


@message
class Started(OfContainer):
    """A container runs.

    Attributes:
        seconds: from the start call to RUNNING.
        pid: process id of its init on the node.
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
        what: the condition that it meets.
    """

    kind = "reached"
    what: str


@message
class Provisioned(OfContainer):
    """A container's provision script has succeeded."""

    kind = "provisioned"


@message
class Ready(OfContainer):
    """A container meets the condition for "ready".

    Attributes:
        seconds: since its launch began.
    """

    kind = "ready"
    seconds: float


@message
class Failed(OfContainer):
    """A request failed for a container.

    Attributes:
        reason: why, one sentence without the container's name.
        log: the last lines of a log with details, oldest first.
    """

    kind = "failed"
    reason: str
    log: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: ContainerError) -> Failed:
        """Make the event for an error."""
        return cls(error.container, error.reason, tuple(error.log))

    def error(self, node: str) -> ContainerError:
        """Return the error of this event, for the node that reported it."""
        return ContainerError(self.container, node, self.reason, self.log)


@message
class Output(OfContainer):
    """A command in a container wrote something.

    Attributes:
        stream: ``stdout`` or ``stderr``.
        data: whole lines, unless they are very long; bytes that are not UTF-8 are surrogates.
    """

    kind = "output"
    stream: str
    data: str


@message
class Exit(OfContainer):
    """A command in a container has ended.

    Attributes:
        status: 0 to 255; 128 + number if a signal ended it, 124 after its timeout.
    """

    kind = "exit"
    status: int


@message
class Changed(OfContainer):
    """A container was started, stopped, frozen or unfrozen, or had that state already.

    Attributes:
        state: its state now, in LXC's words.
        was: its state before, in LXC's words.
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
        killed: how many processes.
    """

    kind = "out-of-memory"
    killed: int


@message
class Stopped(OfContainer):
    """A container stopped running."""

    kind = "stopped"


@message
class Container(OfContainer):
    """The present state of a container.

    Attributes:
        node: name of its node.
        state: LXC's word: RUNNING, STOPPED, FROZEN …
        address: its IPv4 address.
        pid: process id of its init on the node; 0 if it does not run.
        cpus: CPUs it may use.
        cgroup: its cgroup in the cpuset hierarchy.
        start_seconds: from the start call to RUNNING.
        ready_seconds: from launch to the answer of its sshd; 0 if the launch did not wait for it.
        ready: whether it runs and is ready; not while the launch waits for it or provisions it.
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
    """All facts of a container; a fact that could not be read is None.

    Attributes:
        state: LXC's word.
        node: name of its node.
        address: its IPv4 address.
        group: its group's name.
        image: its image's name.
        cores: how many cores it has for itself.
        ports: ports of the node that lead into it.
        pid: process id of its init on the node; 0 if it does not run.
        ready: whether it runs, and no launch waits for it any more.
        launched: when its launch began, in seconds since the epoch.
        start_seconds: from the start call to RUNNING.
        ready_seconds: from launch to ready.
        cpus: CPUs it may use.
        started: when its init started, in seconds since the epoch.
        processes: how many there are in it.
        processes_limit: the most that it may have; 0 if it has no limit of its own.
        memory: bytes that it uses.
        memory_limit: the most bytes that it may use; 0 if it has no limit of its own.
        oom_kills: how many processes the kernel killed, as its memory was full.
        cpu_seconds: CPU time that it used.
        listens: TCP ports on which its processes listen.
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
    """The job's key, with which a client logs in to the job's containers.

    Attributes:
        client: the private key.
    """

    kind = "keys"
    client: str


@message
class Phase(Event):
    """How long one phase of the job's containers took on a node.

    Attributes:
        phase: its name, one of :data:`oar_lxc.agent.timeline.PHASES`.
        begin: when it began, in seconds since the epoch.
        seconds: how long it took.
        containers: how many containers it covered.
        steps: seconds by the name of a step; only for ``prepare``.
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
        digest: the digest of its files.
        created: when it was published.
        source: what it was made from.
        size: bytes of all files' contents.
        files: how many paths it has.
        halt_signal: the signal on which its init shuts down.
        path: its directory.
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


# Classes by their kinds.
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
    """Return the message of a line; None if its kind is not known.

    Args:
        line: a line that :func:`encode` made, perhaps in another version.
        known: :data:`REQUESTS` or :data:`EVENTS`.
        kind: the message's kind; by default the line names it, as the lines of events do.

    Raises:
        NoMessageError: the line is not a message.
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
    """Make a field's value from JSON's types; a value of another module's class is made later.

    The module of plans takes longer to load than all code before it. So an agent reads the plan
    only while the process that starts the containers comes up.
    """
    if type_ in _LAZY:
        return LazyValue(_LAZY[type_], data)
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
        # An error, not ignored: a container would lack what the user asked for.
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


_LAZY: dict[str, Callable[[Any], Any]] = {
    "Plan": _plan,
    "Spec": _spec,
    "tuple[Port, ...]": _ports,
}
