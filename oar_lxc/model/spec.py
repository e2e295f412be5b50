"""A spec, as plain data: a user's groups, each of which makes containers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from oar_lxc.errors import ImageError, SpecError
from oar_lxc.model.arguments import shown
from oar_lxc.model.checks import (
    AllowedError,
    check_list,
    check_name_of,
    check_text,
    check_truth,
    doc,
)
from oar_lxc.model.hints import nearest, refuse_unknown
from oar_lxc.model.image_name import check_name
from oar_lxc.model.links import Link, check_links
from oar_lxc.model.names import MAIN
from oar_lxc.model.networks import (
    MOST_INTERFACES,
    Main,
    Membership,
    Network,
    check_memberships,
    check_networks,
)

DEFAULT_IMAGE = "debian-12"
WAIT_RUNNING = "running"
WAIT_BOOT = "boot"
WAIT_SSH = "ssh"
WAITS = (WAIT_RUNNING, WAIT_BOOT, WAIT_SSH)
DEFAULT_TIMEOUT = 120.0
MAX_TIMEOUT = 86400.0
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
LEAST_MEMORY = 4 << 20  # bytes; an init does not run in less
# Processes and threads. Measured: busybox's init, an ssh server, and two for a login with one
# command. With fewer, no login works, whatever the image is.
LEAST_PROCESSES = 4
# The same for systemd, its journal, sshd, and a login with a pipe. With fewer, units fail at boot;
# with fewer than 7, no login works.
SYSTEMD_PROCESSES = 10
KERNEL = ("/dev", "/proc", "/run", "/sys")  # mounted when a container starts
SYSTEM = (
    *KERNEL,
    *("/bin", "/etc", "/lib", "/lib64", "/sbin", "/usr", "/var"),
    *("/usr/bin", "/usr/lib", "/usr/sbin"),
)
_PATH = re.compile(r"/[^\x00-\x1f]*")
_KEY = re.compile(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]+=*( [^\n]*)?")


@dataclass(frozen=True)
class Mount:
    """A directory or file of the node that containers see.

    Args:
        source: its path on the node.
        target: its path in the containers.
        writable: whether containers may write to it; only below the administrator's trees, such
            as /home.
    """

    source: str
    target: str
    writable: bool = False

    @classmethod
    def parse(cls, text: object) -> Mount:
        """Make a mount from ``SOURCE[:TARGET][:ro|rw]``; the target is the source by default.

        Raises:
            SpecError: the text has another form.
        """
        parts = text.split(":") if isinstance(text, str) else [""]
        writable = parts[-1] == "rw" and len(parts) > 1
        if parts[-1] in ("ro", "rw") and len(parts) > 1:
            parts.pop()
        paths = parts * 2 if len(parts) == 1 else parts
        wrong = len(paths) != 2 or not all(_PATH.fullmatch(p) for p in paths)
        if wrong or any(".." in p.split("/") for p in paths) or not paths[1].strip("/"):
            raise SpecError(
                f"mounts has {shown(text)}, which is not SOURCE[:TARGET][:rw] with absolute paths "
                "without '..', such as '/home/alice/data:/data'"
            )
        target = paths[1].rstrip("/")
        if target in SYSTEM or target.startswith(tuple(f"{path}/" for path in KERNEL)):
            raise SpecError(
                f"mounts has {shown(text)}, which would hide the container's own {target}: choose "
                "another target"
            )
        return cls(paths[0], paths[1], writable)


@dataclass(frozen=True)
class Port:
    """A port of the node that leads to a port of a container.

    Args:
        node: TCP port on the node, from 1024 up.
        container: TCP port in the container.
    """

    node: int
    container: int

    @classmethod
    def parse(cls, text: object) -> Port:
        """Make a port from ``NODE:CONTAINER``.

        Raises:
            SpecError: the text has another form, or a number is out of range.
        """
        match = re.fullmatch(r"([0-9]{1,5}):([0-9]{1,5})", text) if isinstance(text, str) else None
        if match and 1024 <= int(match[1]) < 65536 and 1 <= int(match[2]) < 65536:
            return cls(int(match[1]), int(match[2]))
        raise SpecError(
            f"ports has {shown(text)}, which is not NODE:CONTAINER, such as '8080:80', the first "
            "from 1024 to 65535"
        )


def parse_size(value: object) -> int:
    """Return a size in bytes from a number, or from a text such as ``512M`` (powers of 1,024).

    Raises:
        SpecError: it is neither; the caller puts key and value before the sentence.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = (
        re.fullmatch(r"([0-9]{1,15}) ?([KMGT]?)(i?B)?", value) if isinstance(value, str) else None
    )
    if match is None:
        raise AllowedError("it is a size such as '512M' or '4G', or a number of bytes")
    return int(match[1]) * UNITS[match[2]]


@dataclass(frozen=True)
class Group:
    """Containers that are alike.

    Each key means the same in a spec file. At most one of ``per_node``, ``per_core`` and ``total``
    may be given; without them, each node gets one container.

    Raises:
        SpecError: a value is not allowed; the sentence names key, value and what is allowed.
    """

    image: str = doc("Name of the image, ``NAME`` or ``NAME:TAG``.", DEFAULT_IMAGE)
    per_node: int | None = doc("So many containers on each node.")
    per_core: bool = doc("One container for each reserved core, which it has for itself.", False)
    total: int | None = doc("So many containers in all, spread evenly over the nodes.")
    name: str = doc("What the containers' names start with; a number follows.", "vm")
    cores: int | None = doc(
        "Reserved cores that each container has for itself. Without it, containers share the "
        "job's cores on their node."
    )
    memory: int | str | None = doc(
        "Most memory that each container may use, such as ``512M`` or ``4G``, or a number of "
        "bytes. Where a container needs more, processes in it are killed, and you are told."
    )
    processes: int | None = doc(
        "How many processes and threads each container may have, at least 4; 10 for systemd, sshd "
        "and a login."
    )
    environment: Mapping[str, str] = doc(
        "Variables of sessions and commands in the containers.", default_factory=dict
    )
    home: bool = doc("Whether the containers have your home directory.", False)
    mounts: tuple[Mount, ...] = doc(
        "More directories or files of the node, each ``SOURCE[:TARGET][:rw]``.", ()
    )
    provision: str | None = doc(
        "A script that is run as root in each container when it has booted; in a spec file, its "
        "path, relative to the file's."
    )
    provision_timeout: float = doc("Seconds that the script may take.", 600.0)
    ssh_keys: tuple[str, ...] = doc(
        "More public keys that open the containers; in a spec file, also paths of ``.pub`` files.",
        (),
    )
    ports: tuple[Port, ...] = doc(
        "TCP ports of the node that lead into its container of this group, each "
        "``NODE:CONTAINER``, such as ``8080:80``.",
        (),
    )
    networks: tuple[Membership, ...] = doc(
        "Networks of the spec in which the containers are too, with ``eth1``, ``eth2`` and so on, "
        "each ``NETWORK[:ADDRESS]``: the address is the first container's, and counts up.",
        (),
    )
    main: bool = doc(
        "Whether the containers are in the job's main network, with ``eth0``. Without it, nothing "
        "outside of their networks reaches them but ``oar-lxc exec``, ``shell``, ``console`` and "
        "``cp``.",
        True,
    )
    forward: bool = doc(
        "Whether the containers forward between their interfaces. Containers without ``eth0`` "
        "take the first that does in one of their networks as their gateway.",
        False,
    )

    def __new__(cls, *values: object, **keys: object) -> Group:
        """Refuse an unknown key with a hint, before Python refuses it without one."""
        refuse_unknown("Group", keys, [f.name for f in fields(cls)])
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for key, check in _CHECKS.items():
            value = getattr(self, key)
            try:
                object.__setattr__(self, key, check(value))
            except AllowedError as error:
                raise SpecError(f"{key} is {shown(value)}; {error}") from None
        given = [k for k in ("per_node", "total") if getattr(self, k) is not None]
        given += ["per_core"] * self.per_core
        if len(given) > 1:
            raise SpecError(f"{' and '.join(given)} are both given; allowed is one of them")
        if self.per_core and self.cores is not None:
            raise SpecError(
                f"cores is {self.cores} and per_core is true; a container per core has one core"
            )
        targets = [mount.target.rstrip("/") for mount in self.mounts]
        for target in targets:
            if targets.count(target) > 1:
                raise SpecError(f"mounts has the target {target} more than once")
        for kind in ("node", "container"):
            numbers = [getattr(port, kind) for port in self.ports]
            for number in numbers:
                if kind == "node" and numbers.count(number) > 1:
                    raise SpecError(f"ports has the node's port {number} more than once")
        self._check_interfaces()

    def _check_interfaces(self) -> None:
        names = [membership.network for membership in self.networks]
        for name in names:
            if names.count(name) > 1:
                raise SpecError(f"networks has {name} more than once")
        if len(names) + self.main > MOST_INTERFACES:
            raise SpecError(
                f"networks has {len(names)} networks{' and main is true' * self.main}; "
                f"a container has at most {MOST_INTERFACES} interfaces"
            )
        if not self.main and not names:
            raise SpecError("main is false and networks is empty: name a network")
        if not self.main and self.ports:
            raise SpecError(
                "main is false, and ports lead into the main network: leave out one of the two"
            )


def _image(value: object) -> str:
    try:
        return check_name(check_text(value))
    except ImageError as error:
        raise SpecError(str(error)) from error


def _number(what: str) -> Callable[[object], int | None]:
    def check(value: object) -> int | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise AllowedError("it is a whole number")
        if value < 1:
            raise AllowedError(f"at least 1 {what} is allowed")
        return value

    return check


def _processes(value: object) -> int | None:
    number = _number("process")(value)
    if number is not None and number < LEAST_PROCESSES:
        raise AllowedError(
            f"at least {LEAST_PROCESSES} are allowed, for an init, an ssh server and a login; "
            f"systemd, sshd and a login take {SYSTEMD_PROCESSES}"
        )
    return number


def _memory(value: object) -> int | None:
    if value is None:
        return None
    size = parse_size(value)
    if size < LEAST_MEMORY:
        raise AllowedError(f"at least {LEAST_MEMORY >> 20}M is allowed")
    return size


def _environment(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise AllowedError("it is a table of names and texts")
    for key, text in value.items():
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise AllowedError(f"{key!r} is no name of a variable")
        if not isinstance(text, str) or re.search(r"[\x00\n]", text):
            raise AllowedError(f"{key} is {text!r}, which is not a text of one line")
        if "#" in text:
            raise AllowedError(
                f"{key} is {text!r}, and '#' begins a comment in /etc/environment, from which ssh "
                "and su take it: put the value into a file"
            )
    return dict(value)


def _many(kind: type[Mount | Port | Membership]) -> Callable[[object], tuple[Any, ...]]:
    def check(value: object) -> tuple[Any, ...]:
        items = check_list(value)
        return tuple(item if isinstance(item, kind) else kind.parse(item) for item in items)

    return check


def _keys(value: object) -> tuple[str, ...]:
    for item in check_list(value):
        if not isinstance(item, str) or not _KEY.fullmatch(item):
            raise AllowedError(
                f"{str(item)[:60]!r} is no public key such as 'ssh-ed25519 AAAA… me'"
            )
    return tuple(check_list(value))


def _script(value: object) -> str | None:
    if value is None:
        return None
    # Editors of Windows write a byte order mark first and a carriage return at each end of line.
    # With these, the kernel finds no interpreter.
    text = check_text(value).removeprefix("\ufeff").replace("\r\n", "\n")
    if not text.strip():
        raise AllowedError("it is the text of a script")
    return text


def check_timeout(value: object) -> float:
    """Return a number of seconds.

    Raises:
        SpecError: it is not a number, or out of range.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= MAX_TIMEOUT:  # type: ignore[operator]
        raise AllowedError(f"it is a number of seconds, more than 0 and at most {MAX_TIMEOUT:g}")
    return float(value)  # type: ignore[arg-type]


def check_wait(value: object) -> str:
    """Return the condition for "ready": one of :data:`WAITS`, or a command for a shell.

    Raises:
        SpecError: it is empty, not a text, or a misspelled word of :data:`WAITS`.
    """
    text = check_text(value).strip()
    if text in WAITS:
        return text
    near = nearest(text, WAITS)
    if not text or "\n" in text or (near and not re.search(r"[\s/]", text)):
        hint = f"did you mean {near}? " if near else ""
        raise AllowedError(
            f"{hint}allowed are {', '.join(WAITS)}, or a command such as 'pg_isready -q'"
        )
    return text


_CHECKS: dict[str, Callable[[object], Any]] = {
    "image": _image,
    "per_node": _number("container a node"),
    "per_core": check_truth,
    "total": _number("container"),
    "name": check_name_of,
    "cores": _number("core"),
    "memory": _memory,
    "processes": _processes,
    "environment": _environment,
    "home": check_truth,
    "mounts": _many(Mount),
    "provision": _script,
    "provision_timeout": check_timeout,
    "ssh_keys": _keys,
    "ports": _many(Port),
    "networks": _many(Membership),
    "main": check_truth,
    "forward": check_truth,
}


@dataclass(frozen=True)
class Spec:
    """The containers that a user asks for: groups, and when they count as ready.

    Raises:
        SpecError: a value is not allowed.
    """

    groups: tuple[Group, ...] = (Group(),)
    wait: str = doc(
        "When the containers are ready: ``running`` (init runs), ``boot`` (the system has "
        "booted), ``ssh`` (its ssh server answers), or a command for the container's shell that "
        "is tried until it succeeds.",
        WAIT_RUNNING,
    )
    timeout: float = doc("Seconds that this may take.", DEFAULT_TIMEOUT)
    networks: tuple[Network, ...] = ()
    links: tuple[Link, ...] = ()
    main: Main = field(default_factory=Main)

    def __new__(cls, *values: object, **keys: object) -> Spec:
        """Refuse an unknown key with a hint, before Python refuses it without one."""
        refuse_unknown("Spec", keys, [f.name for f in fields(cls)])
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for key, check in _SPEC_CHECKS:
            value = getattr(self, key)
            try:
                object.__setattr__(self, key, check(value))
            except AllowedError as error:
                raise SpecError(f"{key} is {shown(value)}; {error}") from None
        if not self.groups:
            raise SpecError("the spec has no group: at least one is needed")
        names = [group.name for group in self.groups]
        for name in names:
            if names.count(name) > 1:
                raise SpecError(f"two groups have the name {name!r}: give each its own")
        self._check_topology(names)

    def _check_topology(self, names: Sequence[str]) -> None:
        check_networks(self.networks)
        for group in self.groups:
            check_memberships(group, self.networks)
            if not group.main and self.wait == WAIT_SSH:
                raise SpecError(f'group {group.name}: main is false and wait is "ssh": use "boot"')
        networks = [MAIN, *(network.name for network in self.networks)]
        check_links(self.links, networks, names)

    def to_data(self) -> dict[str, Any]:
        """Return the spec as JSON's types."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Spec:
        """Make a spec from what :meth:`to_data` returned."""
        groups = [
            {
                **group,
                "mounts": [Mount(**mount) for mount in group["mounts"]],
                "ports": [Port(**port) for port in group["ports"]],
                "networks": [Membership(**one) for one in group.get("networks", ())],
            }
            for group in data["groups"]
        ]
        parts = {
            "groups": tuple(Group(**group) for group in groups),
            "networks": tuple(Network(**network) for network in data.get("networks", ())),
            "links": tuple(Link(**link) for link in data.get("links", ())),
            "main": Main(**data.get("main", {})),
        }
        return cls(**{**data, **parts})


def as_spec(what: Spec | Group | Iterable[Group] | None) -> Spec:
    """Return a spec from a spec, a group or several groups; by default, one container per node.

    Raises:
        SpecError: it is something else.
    """
    if what is None:
        return Spec()
    return what if isinstance(what, Spec) else Spec(groups=what)  # type: ignore[arg-type]


def _groups(value: object) -> tuple[Group, ...]:
    if isinstance(value, Group):
        return (value,)
    wanted = "it is a Group or a list of Groups, such as [Group(name='web', total=2)]"
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise AllowedError(wanted)
    groups = tuple(value)
    for number, group in enumerate(groups, 1):
        if not isinstance(group, Group):
            raise SpecError(f"number {number} of the groups is {shown(group)}; {wanted}")
    return groups


def _main(value: object) -> Main:
    if not isinstance(value, Main):
        raise AllowedError("it is a Main, such as Main(internet=False)")
    return value


def _several(kind: type[Network | Link], example: str) -> Callable[[object], tuple[Any, ...]]:
    def check(value: object) -> tuple[Any, ...]:
        items = (value,) if isinstance(value, kind) else tuple(check_list(value))
        for item in items:
            if not isinstance(item, kind):
                raise AllowedError(f"it is a list such as [{example}]")
        return items

    return check


_SPEC_CHECKS: tuple[tuple[str, Callable[[object], Any]], ...] = (
    ("groups", _groups),
    ("wait", check_wait),
    ("timeout", check_timeout),
    ("networks", _several(Network, "Network('left')")),
    ("links", _several(Link, "Link('left', delay='40ms')")),
    ("main", _main),
)


def documented(kind: type[Group | Spec | Network | Link | Main]) -> list[tuple[str, str, Any]]:
    """Return key, sentence and default of each key of a spec file, for the reference."""
    return [(f.name.rstrip("_"), f.metadata["doc"], f.default) for f in fields(kind) if f.metadata]
