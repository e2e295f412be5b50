"""What the sandbox needs of its host, looked at before anything is made.

A machine that lacks one of these things would else be told so minutes later, by a program inside
a node, in words that do not name the cause.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.errors import CommandError
from oar_lxc.linux.contain import contained
from oar_lxc.linux.run import Result, run
from oar_lxc.model.addresses import VXLAN_PORT
from oar_lxc.sandbox.state import SandboxError
from oar_lxc.setup import requirements

GIB = 1 << 30
# Measured with the demonstration's job: what the caches and four machines keep on the disk, and
# what a node, and the server with the frontend, have in memory.
DISK = 3 * GIB
MEMORY_OF_NODE = GIB // 4
MEMORY_BESIDES = GIB // 2

_FUSE = Path("/dev/fuse")
_IN_A_CONTAINER = "in a container, its host has to"


@dataclass(frozen=True)
class Host:
    """What a host has.

    Attributes:
        fuse: why /dev/fuse cannot be opened, in the system's words; empty where it can.
        user_namespaces: how many there may be.
        unprivileged: whether an ordinary user may make one.
        memory: bytes that programs can still have.
        disk: bytes that are free, by the directory on whose file system they are.
        storage: why overlays cannot write there, a sentence; empty where they can.
        cgroups: why OAR could not make a job's cgroups, a sentence; empty where it can.
    """

    fuse: str
    user_namespaces: int
    unprivileged: bool
    memory: int
    disk: dict[Path, int]
    storage: str
    cgroups: str


@dataclass(frozen=True)
class Probe:
    """Something of the kernel that is tried, in namespaces of its own, as nothing else tells.

    Attributes:
        what: what the kernel is asked for.
        need: what the sandbox needs it for.
        module: the module that has it.
        argv: the command that tries it.
        input: what the command reads.
    """

    what: str
    need: str
    module: str
    argv: tuple[str, ...]
    input: str = ""


_APART = ("unshare", "--net", "--")
_LINK = (*_APART, "ip", "link", "add", "probe0", "type")
PROBES = (
    Probe("a veth pair", "machines and containers have one", "veth", (*_LINK, "veth")),
    Probe("a bridge", "they are plugged into it", "bridge", (*_LINK, "bridge")),
    Probe(
        "a VXLAN device",
        "a job's containers on different nodes reach each other through it",
        "vxlan",
        (*_LINK, "vxlan", "id", "1", "dstport", str(VXLAN_PORT)),
    ),
    Probe(
        "nftables with address translation",
        "machines reach Debian's packages through it",
        "nft_chain_nat nft_masq",
        (*_APART, "nft", "-f", "-"),
        "table ip probe {\nchain c {\ntype nat hook postrouting priority 100;\nmasquerade\n}\n}\n",
    ),
)


def look(directories: Sequence[Path], cpuset: bool) -> Host:
    """Look at this host.

    Args:
        directories: where the sandbox will keep files; they need not exist.
        cpuset: whether OAR shall confine jobs to their CPUs.
    """
    return Host(
        fuse=_refusal(_FUSE),
        user_namespaces=_number(Path("/proc/sys/user/max_user_namespaces"), 0),
        # Debian's own switch; other kernels have none.
        unprivileged=_number(Path("/proc/sys/kernel/unprivileged_userns_clone"), 1) != 0,
        memory=_available_memory(Path("/proc/meminfo").read_text()),
        disk={path: shutil.disk_usage(_existing(path)).free for path in directories},
        storage=requirements.storage_is_real(directories[0]).pending() or "",
        cgroups=(requirements.cgroups_are_usable().pending() or "") if cpuset else "",
    )


def problems(host: Host, nodes: int, new: bool) -> list[str]:
    """Return what is missing, each with what to do, a sentence each.

    Args:
        host: what there is.
        nodes: how many nodes the sandbox shall have.
        new: whether it has yet to be built; what it has already is not asked for again.
    """
    found = []
    if host.fuse:
        found.append(
            f"{_FUSE} cannot be opened ({host.fuse}): nodes run lxcfs, which needs it. Load the "
            f"module (modprobe fuse); {_IN_A_CONTAINER} give it the device "
            "(lxc.mount.entry = /dev/fuse dev/fuse none bind,create=file 0 0)"
        )
    if host.user_namespaces < 1 or not host.unprivileged:
        key = "kernel.unprivileged_userns_clone=1"
        if host.user_namespaces < 1:
            key = "user.max_user_namespaces=10000"
        found.append(
            "ordinary users cannot make user namespaces here, which containers of jobs live in: "
            f"sysctl -w {key}"
        )
    if host.cgroups:
        found.append(f"machines would have the cgroups of this host, and {host.cgroups}")
    if host.storage:
        found.append(host.storage)
    if new:
        found += _too_small(host, nodes)
    return found


def _too_small(host: Host, nodes: int) -> list[str]:
    found = [
        f"{path} has {free / GIB:.1f} GiB free, and the sandbox needs {DISK / GIB:.0f}: make "
        "room, or mount a larger file system there"
        for path, free in host.disk.items()
        if free < DISK
    ]
    needed = MEMORY_BESIDES + nodes * MEMORY_OF_NODE
    if host.memory < needed:
        found.append(
            f"this machine has {host.memory / GIB:.1f} GiB of memory left, and a sandbox of "
            f"{nodes} nodes needs {needed / GIB:.1f}: end something, or ask for fewer --nodes"
        )
    return found


def kernel_problems(
    directory: Path, run: Callable[..., Result] = run, probes: Sequence[Probe] = PROBES
) -> list[str]:
    """Return what the kernel does not do, each with what to do, a sentence each.

    Args:
        directory: where the sandbox keeps files.
        run: runs a command, as :func:`oar_lxc.linux.run.run` does.
        probes: what is tried, besides an overlay on the directory.
    """
    with tempfile.TemporaryDirectory(prefix=".oar-lxc-probe.", dir=_existing(directory)) as name:
        overlay = _overlay(Path(name), directory)
        tried = [(probe, _failure(probe, run)) for probe in (overlay, *probes)]
    return [
        f"this kernel refuses {probe.what} ({why}): {probe.need}. Load the module (modprobe "
        f"{probe.module}); {_IN_A_CONTAINER}"
        for probe, why in tried
        if why
    ]


def _overlay(place: Path, directory: Path) -> Probe:
    """Return what tries an overlay in an empty directory, which gets what it is made of."""
    layers = []
    for name in ("lower", "upper", "work"):
        (place / name).mkdir()
        layers.append(f"{name}dir={place / name}")
    mount = ["mount", "-t", "overlay", "-o", ",".join(layers), "overlay", str(place)]
    return Probe(
        f"an overlay below {directory}",
        "machines share files through it",
        "overlay",
        tuple(contained(mount)),
    )


def _failure(probe: Probe, run: Callable[..., Result]) -> str:
    """Return the first line of what a probe said, where it failed."""
    try:
        run(probe.argv, input=probe.input, timeout=10)
    except CommandError as error:
        lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
        return lines[0] if lines else f"status {error.status}"
    return ""


def refuse(found: Sequence[str]) -> None:
    """Raise what was found, one problem a line.

    Raises:
        SandboxError: something was.
    """
    if found:
        raise SandboxError("\n".join(("this machine cannot hold a sandbox:", *found)))


def _existing(path: Path) -> Path:
    """Return a directory, or the nearest above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def _refusal(path: Path) -> str:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _number(path: Path, default: int) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return default


def _available_memory(text: str) -> int:
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
