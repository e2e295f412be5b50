"""What an agent answers: a class for each event, with a ``kind`` that names it.

The nodes of a job may have different versions: each new field needs a default. See
:mod:`oar_lxc.model.wire`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from oar_lxc.errors import ContainerError
from oar_lxc.model.message import Message, Names, message

if TYPE_CHECKING:
    from oar_lxc.model.plan import Plan
    from oar_lxc.model.spec import Port


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
    """The addresses, cores and keys that a session has; see :class:`.Launch`."""

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
        address: its IPv4 address in the job's main network; empty if it is not in it.
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
class NetworksHere(Event):
    """The networks, members and links of a job, as a node knows them.

    Attributes:
        plan: containers of all nodes, with no more than what concerns networks.
        running: names of the containers of this node that run.
        lacking: what the kernel of this node cannot do; see :data:`.abilities.MODULES`.
    """

    kind = "networks"
    plan: Plan
    running: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()


@message
class Emulated(Event):
    """Links were set.

    Attributes:
        interfaces: at how many interfaces of this node something is done now.
    """

    kind = "emulated"
    interfaces: int


@message
class Plugged(OfContainer):
    """The cable of a container was pulled, or plugged in.

    Attributes:
        network: the network's name.
        up: whether it is plugged in.
    """

    kind = "plugged"
    network: str
    up: bool


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
    """An image that the job has on a node; see :class:`oar_lxc.image.record.ImageRecord`.

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
