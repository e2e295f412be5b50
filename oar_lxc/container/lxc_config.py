"""The text of a container's LXC configuration, made by pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from oar_lxc.container.limits import Limits, limit_files
from oar_lxc.container.node_launch import NodeLaunch
from oar_lxc.model.addresses import MTU, SEGMENT_MTU
from oar_lxc.model.layout import (
    LOG_FILE,
    ONLINE_FILE,
    UPPER,
    WORK,
    bridge_of,
    links_file,
    outer_device,
)
from oar_lxc.model.plan import PlannedContainer

CGROUP = "lxc.payload"  # the cgroup of a container's processes, inside its limit cgroup
MONITOR = "lxc.monitor"  # the cgroup of LXC's monitor is called MONITOR.CONTAINER
PIVOT = "lxc.pivot"

# "volatile": an unmount does not sync the files to disk, as they are thrown away with the job. The
# kernel then leaves a mark in the work directory, and refuses the next mount, such as that of a
# reboot inside, while the mark is there. The post-stop hook removes it when a container ends; no
# start waits for a hook. LXC writes "exec" before it.
# "userxattr": in a user namespace, overlay can mark removed files only in this way.
_CONFIG = """\
lxc.uts.name = {name}
lxc.rootfs.path = overlay:{layer}:{rootfs}:{directory}/{upper}
lxc.rootfs.options = volatile,userxattr
lxc.hook.version = 1
lxc.hook.post-stop = rm -rf {mark}
lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed
lxc.autodev = 1
lxc.tty.max = 1
lxc.pty.max = 1024
lxc.apparmor.profile = unconfined
lxc.init.cmd = /sbin/init
lxc.signal.halt = {halt}
lxc.log.file = {directory}/{log}
lxc.log.level = WARN
"""

# Files of /proc and /sys that lxcfs provides, with the container's share, not the node's numbers.
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
# lxcfs numbers the CPUs anew, from 0. A program that compares them with the CPUs that the kernel
# allows, such as hwloc and with it every mpirun, then finds no CPU at all. So with a cpuset, we
# write this file ourselves, from ONLINE_FILE.
ONLINE = "sys/devices/system/cpu/online"


@dataclass(frozen=True)
class Bind:
    """A directory or file of the node that a container sees.

    Attributes:
        source: its path on the node.
        target: its path in the container, with all links resolved.
        writable: whether the container may write to it.
        directory: whether it is a directory.
    """

    source: Path
    target: Path
    writable: bool
    directory: bool = True


@dataclass(frozen=True)
class NodeSettings:
    """What a container gets of its node, and how the container learns of it.

    Attributes:
        limits: what the container may use.
        binds: the directories and files of the node that it sees.
        cpus: the CPUs that its cpuset allows, as in :data:`ONLINE_FILE`; empty if there is no
            cpuset, and therefore no such file.
        lxcfs: whether lxcfs shows the container its share of the node.
        halt: the signal at which its init halts; by default that of systemd.
    """

    limits: Limits
    binds: Sequence[Bind] = ()
    cpus: str = ""
    lxcfs: bool = False
    halt: str = "SIGRTMIN+3"


def config_text(launch: NodeLaunch, planned: PlannedContainer, settings: NodeSettings) -> str:
    """Return a container's configuration."""
    published, directory = launch.published, launch.directory(planned)
    text = _CONFIG.format(
        name=planned.name,
        rootfs=launch.rootfs(planned),
        layer=launch.layers / planned.group,
        directory=directory,
        upper=UPPER,
        mark=overlay_mark(directory),
        log=LOG_FILE,
        halt=settings.halt,
    )
    lines = [
        *published.ids.config_lines(),
        *_network_lines(planned, published.gateway.partition("/")[0], directory),
        *_cgroup_lines(planned.name, settings.limits, bool(published.unit)),
        *map(_bind_line, settings.binds),
    ]
    if settings.lxcfs:
        lines += [_entry(LXCFS / name, Path(name), "bind,optional") for name in LXCFS_FILES]
    if settings.cpus:
        lines.append(_entry(directory / ONLINE_FILE, Path(ONLINE), "bind,ro,optional"))
    elif settings.lxcfs:
        lines.append(_entry(LXCFS / ONLINE, Path(ONLINE), "bind,optional"))
    return text + "".join(f"{line}\n" for line in lines)


def _cgroup_lines(name: str, limits: Limits, unified: bool) -> Iterator[str]:
    """Yield the lines of a container's cgroups, relative to that in which it is started."""
    yield "lxc.cgroup.relative = 1"
    if unified:  # it is started within the limits
        container, monitor, pivot = CGROUP, MONITOR, PIVOT
    else:
        container, monitor = f"{name}/{CGROUP}", f"{MONITOR}.{name}"
        # LXC's monitor moves here when the container ends. After a reboot from inside, it starts
        # the container again from here: so this cgroup must be within the limits, too.
        pivot = f"{name}/{PIVOT}"
    yield f"lxc.cgroup.dir.container = {container}"
    yield f"lxc.cgroup.dir.monitor = {monitor}"
    yield f"lxc.cgroup.dir.monitor.pivot = {pivot}"
    # lxcfs reads the quota only in the cgroup of the processes, not in those above.
    for file, value in limit_files(limits, unified):
        if file.startswith("cpu."):
            yield f"lxc.{'cgroup2' if unified else 'cgroup'}.{file} = {value}"


def overlay_mark(directory: Path) -> Path:
    """Return what keeps a container from its next start; its monitor removes it if it can.

    Args:
        directory: the container's.
    """
    return directory / WORK / "work/incompat"


def _network_lines(planned: PlannedContainer, gateway: str, directory: Path) -> Iterator[str]:
    """Yield the lines of a container's interfaces.

    Args:
        planned: the container.
        gateway: the main network's gateway.
        directory: the container's own directory.
    """
    for interface in planned.all_interfaces:
        net = f"lxc.net.{interface.index}"
        address = IPv4Interface(interface.address)
        yield f"{net}.type = veth"
        yield f"{net}.link = {bridge_of(interface.number)}"
        yield f"{net}.name = {interface.device}"
        yield f"{net}.veth.pair = {outer_device(planned.ip, interface.index)}"
        yield f"{net}.flags = up"
        yield f"{net}.mtu = {SEGMENT_MTU if interface.number else MTU}"
        yield f"{net}.hwaddr = {interface.hardware}"
        yield f"{net}.ipv4.address = {interface.address} {address.network.broadcast_address}"
        if interface.ipv6:
            yield f"{net}.ipv6.address = {interface.ipv6}"
        if not interface.number:
            yield f"{net}.ipv4.gateway = {gateway}"
        elif planned.gateway and IPv4Address(planned.gateway) in address.network:
            yield f"{net}.ipv4.gateway = {planned.gateway}"
        if planned.emulated:
            yield f"{net}.script.up = /bin/sh {directory / links_file(interface.index)}"
    if planned.interfaces or planned.forward:
        # Without this, it would be as on the node, which may forward.
        yield f"lxc.sysctl.net.ipv4.ip_forward = {planned.forward:d}"
        if any(interface.ipv6 for interface in planned.interfaces):
            yield f"lxc.sysctl.net.ipv6.conf.all.forwarding = {planned.forward:d}"


def _bind_line(bind: Bind) -> str:
    options = "bind" if bind.writable else "bind,ro"
    kind = "dir" if bind.directory else "file"
    return _entry(bind.source, bind.target, f"{options},create={kind}")


def _entry(source: Path, target: Path, options: str) -> str:
    """Return the configuration line of a mount: fstab's, with a target relative to the root."""
    relative = str(target).lstrip("/")
    return f"lxc.mount.entry = {_escape(str(source))} {_escape(relative)} none {options} 0 0"


def _escape(text: str) -> str:
    """Write blanks and other special characters in octal, as in fstab(5)."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\r\\#" else c for c in text)
