"""What an agent is asked: a class for each request, with a ``kind`` that names it.

The nodes of a job may have different versions: each new field needs a default. See
:mod:`oar_lxc.model.wire`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from oar_lxc.model.message import Message, Names, message

if TYPE_CHECKING:
    from oar_lxc.model.plan import Plan
    from oar_lxc.model.spec import Spec


@message
class Request(Message):
    """A request to an agent.

    Attributes:
        heartbeat: whether the agent writes a line every second. If the agent's reader is gone,
            oarsh cannot pass the line on, and ends.
    """

    heartbeat: bool = field(default=False, kw_only=True)


@message
class Allot(Request):
    """Give a session addresses, cores and keys; the answer is :class:`.Allotted` or ``Refused``.

    Attributes:
        spec: what the session asks for.
        user: the job's user.
        cores: how many cores OAR reserved, by node.
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
        names: how containers know each other, by container, for each session of the job.
        session: token of the containers' session.
        wait: when they are ready; see :attr:`oar_lxc.model.spec.Spec.wait`.
        timeout: seconds that the wait for ready containers may take.
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
    """List all containers; each answer is a :class:`.Container`."""

    kind = "list"


@message
class Show(OnContainers):
    """Tell all facts of containers; each answer is a :class:`.Shown`."""

    kind = "show"
    containers: tuple[str, ...]


@message
class TellKeys(Request):
    """Tell the job's key; the node that has it answers with :class:`.Keys`."""

    kind = "keys"


@message
class Networks(Request):
    """Tell the job's networks, members and links; the answer is :class:`.NetworksHere`.

    Attributes:
        abilities: whether to try what the kernel can do for links.
    """

    kind = "networks"
    abilities: bool = False


@message
class Emulate(Request):
    """Add links to those of the job, and change what is done at all interfaces of a node.

    The answer is :class:`.Emulated`.

    Attributes:
        links: their keys, as a spec file has them.
    """

    kind = "emulate"
    links: tuple[Mapping[str, str | bool], ...]


@message
class Plug(OnContainers):
    """Pull the cables of containers in a network, or plug them in; see :class:`.Plugged`.

    Attributes:
        network: the network's name.
        up: whether to plug them in.
    """

    kind = "plug"
    network: str
    up: bool


@message
class Timeline(Request):
    """Tell how long each phase of the job's containers took; each answer is a :class:`.Phase`."""

    kind = "timeline"


@message
class Images(Request):
    """List the job's images; each answer is an :class:`.Image`."""

    kind = "images"
