"""Check that the host has what the sandbox needs, before anything is made.

Otherwise a program inside a node would fail minutes later, with a message that does not name the
cause.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.errors import CommandError
from oar_lxc.linux.run import Result, run
from oar_lxc.linux.unshare import in_own_namespaces
from oar_lxc.model.addresses import VXLAN_PORT
from oar_lxc.sandbox import suites
from oar_lxc.sandbox.state import SandboxError, Settings
from oar_lxc.setup import requirements

GIB = 1 << 30
# Bytes, measured with the demonstration's job: the disk space of the caches and four machines, the
# memory of a node, and the memory of server and frontend together.
DISK = 3 * GIB
MEMORY_OF_NODE = GIB // 4
MEMORY_BESIDES = GIB // 2

_FUSE = Path("/dev/fuse")
_IN_A_CONTAINER = "in a container, its host has to"


@dataclass(frozen=True)
class Host:
    """The facts about a host.

    Attributes:
        fuse: why /dev/fuse cannot be opened, in the system's words; empty if it can.
        user_namespaces: how many user namespaces may exist.
        unprivileged: whether an ordinary user may make a user namespace.
        memory: bytes that programs can still get.
        disk: free bytes on the file system of each directory.
        storage: why overlays cannot write to the state directory, a sentence; empty if they can.
        cgroups: why OAR could not make a job's cgroups, a sentence; empty if it could.
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
    """A trial of a kernel feature, in own namespaces; only a trial tells if the kernel has it.

    Attributes:
        what: the feature.
        need: why the sandbox needs it.
        module: the kernel module that has it.
        argv: the command that tries it.
        input: the command's standard input.
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


def look(directories: Sequence[Path], settings: Settings) -> Host:
    """Return the facts about this host.

    Args:
        directories: directories for the sandbox's files; they need not exist.
        settings: what the sandbox shall be.
    """
    return Host(
        fuse=_refusal(_FUSE),
        user_namespaces=_number(Path("/proc/sys/user/max_user_namespaces"), 0),
        # Only Debian's kernel has this switch.
        unprivileged=_number(Path("/proc/sys/kernel/unprivileged_userns_clone"), 1) != 0,
        memory=available_memory(Path("/proc/meminfo").read_text()),
        disk={path: shutil.disk_usage(existing(path)).free for path in directories},
        storage=requirements.storage_is_real(directories[0]).pending() or "",
        cgroups=_cgroup_problem(settings.suite, settings.cpuset),
    )


def problems(host: Host, nodes: int, new: bool) -> list[str]:
    """Return a sentence for each thing that the host lacks, with what to do.

    Args:
        host: the facts about the host.
        nodes: how many nodes the sandbox shall have.
        new: whether the sandbox must still be built; only then it needs free disk and memory.
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
        found.append(host.cgroups)
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
    """Return a sentence for each feature that the kernel lacks, with what to do.

    Args:
        directory: the directory of the sandbox's files.
        run: runs a command, as :func:`oar_lxc.linux.run.run` does.
        probes: the trials, besides an overlay on the directory.
    """
    with tempfile.TemporaryDirectory(prefix=".oar-lxc-probe.", dir=existing(directory)) as name:
        overlay = _overlay(Path(name), directory)
        tried = [(probe, _failure(probe, run)) for probe in (overlay, *probes)]
    return [
        f"this kernel refuses {probe.what} ({why}): {probe.need}. Load the module (modprobe "
        f"{probe.module}); {_IN_A_CONTAINER}"
        for probe, why in tried
        if why
    ]


def _overlay(place: Path, directory: Path) -> Probe:
    """Return the probe of an overlay; its layers are made in the empty directory ``place``."""
    layers = []
    for name in ("lower", "upper", "work"):
        (place / name).mkdir()
        layers.append(f"{name}dir={place / name}")
    mount = ["mount", "-t", "overlay", "-o", ",".join(layers), "overlay", str(place)]
    return Probe(
        f"an overlay below {directory}",
        "machines share files through it",
        "overlay",
        tuple(in_own_namespaces(mount)),
    )


def _failure(probe: Probe, run: Callable[..., Result]) -> str:
    """Run a probe; return the first line of its error, or an empty text if it succeeds."""
    try:
        run(probe.argv, input=probe.input, timeout=10)
    except CommandError as error:
        lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
        return lines[0] if lines else f"status {error.status}"
    return ""


def refuse(found: Sequence[str]) -> None:
    """Raise an error with all problems, one per line.

    Raises:
        SandboxError: there is a problem.
    """
    if found:
        raise SandboxError("\n".join(("this machine cannot hold a sandbox:", *found)))


def _cgroup_problem(suite: str, cpuset: bool) -> str:
    """Return why jobs could not have their cgroups on this host; empty if they could."""
    version = suites.cgroup_version()
    if wrong := suites.problem(suite, cpuset, version):
        return wrong
    if cpuset and version == 1:
        step = requirements.cgroups_are_usable()
    else:
        step = requirements.containers_have_cgroups(
            requirements.OF_JOBS if cpuset else requirements.OF_CONTAINERS
        )
    missing = step.pending()
    return f"machines would have the cgroups of this host, and {missing}" if missing else ""


def existing(path: Path) -> Path:
    """Return the nearest existing directory at or above a path."""
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


def available_memory(text: str) -> int:
    """Return how many bytes programs can still get, from the text of /proc/meminfo."""
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
