"""The text of a container's LXC configuration. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from oar_lxc.container.launch import Launch
from oar_lxc.container.runtime import LOG_FILE
from oar_lxc.model.addresses import MTU
from oar_lxc.model.plan import PlannedContainer

UPPER = "upper"
WORK = "work"  # where LXC looks for it: beside the upper directory
CGROUP = "lxc.payload"  # a container's own cgroup, inside the one that carries its limits
MONITOR = "lxc.monitor"  # with a dot and the container's name: the cgroup of LXC's monitor
PIVOT = "lxc.pivot"
PERIOD = 100_000  # microseconds; the kernel's default for cpu.cfs_quota_us

# "volatile": what is thrown away with the job need not be synced to disk when it is unmounted. The
# kernel leaves a mark then; after a reboot inside it refuses the mount unless the mark is removed.
# LXC writes "exec" before a hook: with a redirection alone the shell goes on, and runs no program
# where there is no mark yet, as at every first start.
# "userxattr": all that overlay may use in a user namespace to mark what was removed.
_CONFIG = """\
lxc.uts.name = {name}
lxc.rootfs.path = overlay:{layer}:{rootfs}:{directory}/{upper}
lxc.rootfs.options = volatile,userxattr
lxc.hook.version = 1
lxc.hook.pre-mount = </dev/null; [ ! -d {mark} ] || rm -rf {mark}
lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed
lxc.autodev = 1
lxc.tty.max = 1
lxc.pty.max = 1024
lxc.apparmor.profile = unconfined
lxc.net.0.type = veth
lxc.net.0.link = {bridge}
lxc.net.0.flags = up
lxc.net.0.mtu = {mtu}
lxc.net.0.hwaddr = {hardware}
lxc.net.0.ipv4.address = {address} {broadcast}
lxc.net.0.ipv4.gateway = {gateway}
lxc.init.cmd = /sbin/init
lxc.signal.halt = {halt}
lxc.log.file = {directory}/{log}
lxc.log.level = WARN
"""

# What lxcfs has of /proc and /sys, with the container's share in place of the node's numbers.
LXCFS = Path("/var/lib/lxcfs")
LXCFS_FILES = (
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/loadavg",
    "proc/meminfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
)
# lxcfs numbers CPUs anew, from 0. Who compares with the CPUs that the kernel allows, as hwloc and
# with it every mpirun does, then finds none at all: where there is a cpuset, we write this one.
ONLINE = "sys/devices/system/cpu/online"
ONLINE_FILE = "cpus"


# Where a layer's directory has what the kernel of each container is told of its neighbours; groups
# have no such name. The kernel has one table for all containers of a node, with few entries, that
# does not count what is permanent. So containers that all talk to each other do not fill it.
NEIGHBOURS_FILE = ".neighbours"
# Entries on one node: fewer fill nothing. Each takes half a KiB of the kernel's and some
# 20 microseconds of a start: for more, the administrator makes room in the table.
FEWEST_PAIRS, MOST_PAIRS = 64, 65536
# After the network is set up, before the root is the container's: the programs are the node's.
_NEIGHBOURS = "lxc.hook.mount = </dev/null >/dev/null 2>&1; ip -force -batch {file} || :"


@dataclass(frozen=True)
class Limits:
    """What a container may use of its node.

    Attributes:
        cpus: numbers of its CPUs, as ``0-1,4``; empty where it has all of the job's.
        quota: CPUs' worth of time that it may use; 0 where there is no limit.
        memory: bytes; 0 where there is no limit.
        swap: whether the kernel counts swap, so that memory and swap together are limited.
        processes: processes and threads; 0 where there is no limit.
    """

    cpus: str = ""
    quota: int = 0
    memory: int = 0
    swap: bool = False
    processes: int = 0


@dataclass(frozen=True)
class Bind:
    """A directory or file of the node that a container sees.

    Attributes:
        source: its path on the node.
        target: its path in the container, without links on the way.
        writable: whether it can be written to.
        directory: whether it is a directory.
    """

    source: Path
    target: Path
    writable: bool
    directory: bool = True


@dataclass(frozen=True)
class Means:
    """What a container is given of its node, and how it is told of it.

    Attributes:
        limits: what it may use.
        binds: what it sees.
        cpus: the CPUs that its cpuset allows, as its file :data:`ONLINE_FILE` has them; empty
            where there is no cpuset, and no such file.
        lxcfs: whether lxcfs tells it its share.
        halt: the signal that its init takes for the wish to shut down; systemd's by default.
        neighbours: whether the directory of layers has :data:`NEIGHBOURS_FILE`.
    """

    limits: Limits
    binds: Sequence[Bind] = ()
    cpus: str = ""
    lxcfs: bool = False
    halt: str = "SIGRTMIN+3"
    neighbours: bool = False


def render(launch: Launch, planned: PlannedContainer, means: Means) -> str:
    """Return a container's configuration."""
    published, directory = launch.published, launch.directory(planned)
    text = _CONFIG.format(
        name=planned.name,
        rootfs=launch.rootfs(planned),
        layer=launch.layers / planned.group,
        directory=directory,
        upper=UPPER,
        mark=directory / WORK / "work/incompat",
        bridge=published.bridge,
        mtu=MTU,
        hardware=hardware_address(planned.ip),
        address=planned.address,
        broadcast=IPv4Interface(planned.address).network.broadcast_address,
        gateway=published.gateway.partition("/")[0],
        log=LOG_FILE,
        halt=means.halt,
    )
    quota = (pair for pair in limit_files(means.limits) if "cfs_" in pair[0])
    lines = [
        *published.ids.config_lines(),
        f"lxc.cgroup.dir.container = {planned.name}/{CGROUP}",
        f"lxc.cgroup.dir.monitor = {MONITOR}.{planned.name}",
        # Where LXC's monitor goes when the container ends, and where it starts it again from when
        # it was booted anew from inside: within the limits, too.
        f"lxc.cgroup.dir.monitor.pivot = {planned.name}/{PIVOT}",
        # lxcfs reads this where the processes are, and what is further out it does not see.
        *(f"lxc.cgroup.{file} = {value}" for file, value in quota),
        *map(_bind_line, means.binds),
    ]
    if means.neighbours:
        lines.append(_NEIGHBOURS.format(file=launch.layers / NEIGHBOURS_FILE))
    if means.lxcfs:
        lines += [_entry(LXCFS / name, Path(name), "bind,optional") for name in LXCFS_FILES]
    if means.cpus:
        lines.append(_entry(directory / ONLINE_FILE, Path(ONLINE), "bind,ro,optional"))
    elif means.lxcfs:
        lines.append(_entry(LXCFS / ONLINE, Path(ONLINE), "bind,optional"))
    return text + "".join(f"{line}\n" for line in lines)


def hardware_address(address: str) -> str:
    """Return the hardware address of a container, made of its IPv4 address.

    A random one would be another after each start, and its neighbours would for seconds send to
    the one before.
    """
    return "02:6c:" + ":".join(f"{byte:02x}" for byte in IPv4Address(address).packed)


def neighbours_text(addresses: Collection[str], here: int) -> str:
    """Return what ``ip -batch`` makes permanent neighbours of; empty for too few or too many.

    As hardware addresses follow from addresses, none is ever wrong.

    Args:
        addresses: those of all containers of the job.
        here: how many containers of a node are told of them.
    """
    if not FEWEST_PAIRS <= here * len(addresses) <= MOST_PAIRS:
        return ""
    return "".join(
        f"neigh replace {address} lladdr {hardware_address(address)} nud permanent dev eth0\n"
        for address in addresses
    )


def limit_files(limits: Limits) -> Iterator[tuple[str, str]]:
    """Yield the cgroup files of limits and what goes into each, in the order of writing."""
    if limits.cpus:
        yield "cpuset.cpus", limits.cpus
    if limits.quota:
        yield "cpu.cfs_period_us", str(PERIOD)
        yield "cpu.cfs_quota_us", str(limits.quota * PERIOD)
    if limits.memory:
        yield "memory.limit_in_bytes", str(limits.memory)
        if limits.swap:
            yield "memory.memsw.limit_in_bytes", str(limits.memory)
    if limits.processes:
        yield "pids.max", str(limits.processes)


def _bind_line(bind: Bind) -> str:
    options = "bind" if bind.writable else "bind,ro"
    kind = "dir" if bind.directory else "file"
    return _entry(bind.source, bind.target, f"{options},create={kind}")


def _entry(source: Path, target: Path, options: str) -> str:
    """Return the line of a mount; LXC reads it as a line of fstab, relative to the root."""
    relative = str(target).lstrip("/")
    return f"lxc.mount.entry = {_escape(str(source))} {_escape(relative)} none {options} 0 0"


def _escape(text: str) -> str:
    """Write blanks and the like as fstab(5) does, in octal."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\r\\#" else c for c in text)
