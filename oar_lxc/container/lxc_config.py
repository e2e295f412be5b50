"""The text of a container's LXC configuration, made by pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from oar_lxc.container.limits import Limits, limit_files
from oar_lxc.container.node_launch import NodeLaunch
from oar_lxc.model.addresses import MTU, SEGMENT_MTU, hardware_address
from oar_lxc.model.interfaces import Interface
from oar_lxc.model.layout import (
    LOG_FILE,
    NEIGHBOURS_FILE,
    ONLINE_FILE,
    UPPER,
    WORK,
    bridge_of,
    links_file,
    outer_device,
)
from oar_lxc.model.names import Peer
from oar_lxc.model.plan import PlannedContainer

CGROUP = "lxc.payload"  # the cgroup of a container's processes, inside its limit cgroup
MONITOR = "lxc.monitor"  # the cgroup of LXC's monitor is called MONITOR.CONTAINER
PIVOT = "lxc.pivot"

# "volatile": an unmount does not sync the files to disk, as they are thrown away with the job. The
# kernel then leaves a mark in the work directory, and refuses the next mount, such as that of a
# reboot inside, while the mark is there. The pre-mount hook removes it.
# LXC writes "exec" before a hook. This hook begins with a redirection and no program, so the shell
# goes on with what follows. If there is no mark, as at every first start, it runs no program.
# "userxattr": in a user namespace, overlay can mark removed files only in this way.
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

# All containers of a node share one neighbour table of the kernel, which has few entries.
# Permanent entries do not count. So NEIGHBOURS_FILE lists the containers' neighbours for the
# kernel: then containers that all talk to each other do not fill the table.
# These are numbers of entries on one node. Fewer than the first do not fill the table. More than
# the last would cost too much, as an entry takes half a KiB of kernel memory and about 20
# microseconds of a start: then the administrator must enlarge the table.
FEWEST_PAIRS, MOST_PAIRS = 64, 65536
# LXC runs this hook after the network is set up and before the container's root is the root
# directory: the programs are the node's.
_NEIGHBOURS = "lxc.hook.mount = </dev/null >/dev/null 2>&1; ip -force -batch {file} || :"


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
        neighbours: whether the directory of layers has a :data:`NEIGHBOURS_FILE` for its group.
    """

    limits: Limits
    binds: Sequence[Bind] = ()
    cpus: str = ""
    lxcfs: bool = False
    halt: str = "SIGRTMIN+3"
    neighbours: bool = False


def config_text(launch: NodeLaunch, planned: PlannedContainer, settings: NodeSettings) -> str:
    """Return a container's configuration."""
    published, directory = launch.published, launch.directory(planned)
    text = _CONFIG.format(
        name=planned.name,
        rootfs=launch.rootfs(planned),
        layer=launch.layers / planned.group,
        directory=directory,
        upper=UPPER,
        mark=directory / WORK / "work/incompat",
        log=LOG_FILE,
        halt=settings.halt,
    )
    quota = (pair for pair in limit_files(settings.limits) if "cfs_" in pair[0])
    lines = [
        *published.ids.config_lines(),
        *_network_lines(planned, published.gateway.partition("/")[0], directory),
        "lxc.cgroup.relative = 1",
        f"lxc.cgroup.dir.container = {planned.name}/{CGROUP}",
        f"lxc.cgroup.dir.monitor = {MONITOR}.{planned.name}",
        # LXC's monitor moves here when the container ends. After a reboot from inside, it starts
        # the container again from here: so this cgroup must be within the limits, too.
        f"lxc.cgroup.dir.monitor.pivot = {planned.name}/{PIVOT}",
        # lxcfs reads the quota only in the cgroup of the processes, not in those above.
        *(f"lxc.cgroup.{file} = {value}" for file, value in quota),
        *map(_bind_line, settings.binds),
    ]
    if settings.neighbours:
        file = launch.layers / f"{NEIGHBOURS_FILE}.{planned.group}"
        lines.append(_NEIGHBOURS.format(file=file))
    if settings.lxcfs:
        lines += [_entry(LXCFS / name, Path(name), "bind,optional") for name in LXCFS_FILES]
    if settings.cpus:
        lines.append(_entry(directory / ONLINE_FILE, Path(ONLINE), "bind,ro,optional"))
    elif settings.lxcfs:
        lines.append(_entry(LXCFS / ONLINE, Path(ONLINE), "bind,optional"))
    return text + "".join(f"{line}\n" for line in lines)


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


def neighbours_text(peers: Mapping[str, Peer], interfaces: Sequence[Interface], here: int) -> str:
    """Return the commands for ``ip -batch`` that make permanent neighbour entries.

    The entries never go out of date, as hardware addresses follow from IPv4 addresses.

    Args:
        peers: all containers of the job.
        interfaces: the interfaces of containers that get the entries; any of a group.
        here: how many containers of this node get entries.

    Returns:
        The commands; empty if there would be too few or too many entries.
    """
    lines = []
    for interface in interfaces:
        for peer in peers.values():
            main = (peer.ip,) if peer.ip else ()
            ips = peer.networks.get(interface.network, ()) if interface.number else main
            for ip in ips:
                hardware = hardware_address(ips[0], interface.number)
                what = f"{ip} lladdr {hardware} nud permanent dev {interface.device}"
                lines.append(f"neigh replace {what}\n")
    return "".join(lines) if FEWEST_PAIRS <= here * len(lines) <= MOST_PAIRS else ""


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
