"""Whether the kernel of a node has what containers need, found out by trials.

A trial makes a device or a mount in namespaces of its own, which are gone with it. As at the start
of a job, the kernel may load a module for it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from oar_lxc.container.links import lacking
from oar_lxc.doctor.findings import (
    AS_ROOT,
    Finding,
    Machine,
    Outcome,
    problem,
    unknown,
    warning,
    well,
)
from oar_lxc.errors import ConfigError
from oar_lxc.linux.bounded import bounded
from oar_lxc.linux.run import Result, run
from oar_lxc.linux.setns import NEW_NETWORK, NEW_USER, unshare
from oar_lxc.model.abilities import MODULES
from oar_lxc.model.addresses import VXLAN_PORT
from oar_lxc.model.config import Config, read_config
from oar_lxc.model.idmap import IdMap
from oar_lxc.model.layout import STATE
from oar_lxc.root import idmapped

PATIENCE = 20.0  # seconds for all trials of one check
DEVICES = {
    "bridge": ("a job's containers are plugged into one: no job of type lxc starts", []),
    "veth": ("each container has one: no job of type lxc starts", []),
    "vxlan": (
        "it joins the containers of a job on several nodes: no such job starts",
        ["id", "1", "dstport", str(VXLAN_PORT)],
    ),
}
LIMITS = ("max_user_namespaces", "max_net_namespaces", "max_mnt_namespaces")
_USER = Path("/proc/sys/user")
_FUSE, _FUSE_NUMBER = Path("/dev/fuse"), os.makedev(10, 229)  # of the kernel's devices.txt
_NO_IDMAP = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
_ID = 65000  # any id that is not root's


class _Here:
    """The network namespace of this process."""

    def in_network(self, argv: Sequence[str], text: str = "") -> str:
        """Run a program that reads ``text``."""
        return run(argv, input=text).stdout


def devices(machine: Machine) -> Iterator[Finding]:
    """Look for the network devices of jobs, and for what links need."""
    said = bounded(lambda: _try_devices(machine.root), PATIENCE, "trying network devices")
    for finding in judge_devices(dict(line.split("=", 1) for line in said)):
        yield _as_seen(finding, machine)


def judge_devices(refused: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the findings for devices of jobs, and for what links need.

    Args:
        refused: what the kernel does not have, with its words.
    """
    for kind, (meaning, _) in DEVICES.items():
        if kind in refused:
            text = f"this kernel refuses a device of type {kind} ({refused[kind]})"
            yield problem(text, f"Without: {meaning}.", f"modprobe {kind}")
        else:
            yield well(f"this kernel has devices of type {kind}")
    for kind, module in MODULES.items():
        if kind in refused:
            yield warning(
                f"this kernel has no {kind}",
                "Links of a spec that need it are refused on this node; all else works.",
                f"modprobe {module}",
            )
        else:
            yield well(f"this kernel has {kind} for links")


def _as_seen(finding: Finding, machine: Machine) -> Finding:
    """Return a finding of a trial: what fails for a user might not fail for root."""
    if machine.root or finding.outcome is Outcome.WELL:
        return finding
    return unknown(f"as a user: {finding.said}", AS_ROOT)


def _try_devices(root: bool) -> list[str]:
    """Return what is refused, each as NAME=WHY; called in a child, whose namespaces go with it."""
    _own_network(root)
    refused = {}
    for number, (kind, (_, options)) in enumerate(DEVICES.items()):
        argv = ["ip", "link", "add", f"trial{number}", "type", kind, *options]
        if why := _why(run(argv, check=False)):
            refused[kind] = why
    refused |= dict.fromkeys(lacking(_Here()), "")
    return [f"{kind}={why}" for kind, why in refused.items()]


def _own_network(root: bool) -> None:
    uid, gid = os.geteuid(), os.getegid()
    unshare(NEW_NETWORK if root else NEW_USER | NEW_NETWORK)
    if not root:
        maps = {"setgroups": "deny", "uid_map": f"0 {uid} 1", "gid_map": f"0 {gid} 1"}
        for name, text in maps.items():
            Path(f"/proc/self/{name}").write_text(text)


def _why(result: Result) -> str:
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    return (lines or [f"status {result.status}"])[-1] if result.status else ""


def overlay(machine: Machine) -> Iterator[Finding]:
    """Try an overlay in a user namespace, as a container's root file system is."""
    script = (
        "mount -t tmpfs none /mnt && mkdir /mnt/l /mnt/u /mnt/w && "
        "mount -t overlay -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w none /mnt/l"
    )
    tried = run(["unshare", "--map-root-user", "--mount", "sh", "-c", script], check=False)
    yield _as_seen(judge_overlay(_why(tried)), machine)


def judge_overlay(why: str) -> Finding:
    """Return the finding for a trial of an overlay; ``why`` it failed, empty if it did not."""
    if not why:
        return well("this kernel has overlays in user namespaces")
    if "unshare" in why:
        return unknown(f"an overlay could not be tried ({why})", AS_ROOT)
    return problem(
        f"this kernel refuses an overlay in a user namespace ({why})",
        "No container starts: its root file system is one.",
        "modprobe overlay",
    )


def fuse(machine: Machine) -> Iterator[Finding]:
    """Look for the device that lxcfs needs."""
    try:
        if _FUSE.stat().st_rdev != _FUSE_NUMBER:
            raise OSError(errno.ENODEV, "it is another device")
        os.close(os.open(_FUSE, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        yield unknown(f"only root can open {_FUSE}", AS_ROOT)
    except OSError as error:
        yield problem(
            f"{_FUSE} cannot be opened ({error.strerror})",
            "lxcfs cannot run: containers see all cores and all memory of the node.",
            "modprobe fuse",
        )
    else:
        yield well(f"{_FUSE} can be opened")


def namespaces(machine: Machine) -> Iterator[Finding]:
    """Look whether users may have namespaces at all."""
    yield from judge_limits({name: (_USER / name).read_text().strip() for name in LIMITS})


def judge_limits(limits: dict[str, str]) -> Iterator[Finding]:
    """Yield a finding for each limit of namespaces, by its name in ``/proc/sys/user``."""
    for name, most in limits.items():
        if int(most) < 1:
            yield problem(
                f"user.{name} is {most}",
                "No job of type lxc starts: containers live in namespaces of their own.",
                f"sysctl -w user.{name}=10000",
            )
        else:
            yield well(f"user.{name} is {most}")


def idmaps(machine: Machine) -> Iterator[Finding]:
    """Look whether the file systems of images and homes can be mounted with other ids."""
    if not machine.root:
        yield unknown("only root can try idmapped mounts", AS_ROOT)
        return
    try:
        config = read_config()
    except ConfigError:
        config = Config()
    yield _images(config.store if config.store.exists() else STATE)
    for tree in config.trees:
        yield _tree(Path(tree))


def _images(store: Path) -> Finding:
    if not (why := _refusal(store)):
        return well(f"{store} can be mounted with a job's ids")
    return warning(
        f"{store} cannot be mounted with a job's ids ({why})",
        "Each job unpacks the images that it uses, which takes seconds and disk space.",
        'editor /etc/oar-lxc/oar-lxc.toml    # store = "/a/local/directory" in [images]',
    )


def _tree(tree: Path) -> Finding:
    if not tree.exists():
        return warning(
            f"the tree {tree} does not exist",
            "Jobs that want it are told that it is not there.",
            f"mkdir {tree}",
        )
    if not (why := _refusal(tree)):
        return well(f"{tree} can be mounted with the ids of a job's user")
    return warning(
        f"{tree} cannot be mounted with the ids of a job's user ({why})",
        "It is mounted as it is, and its file server decides who owns what containers write.",
        f"stat -f -c %T {tree}    # ext4, xfs, btrfs and tmpfs can, NFS cannot",
    )


def _refusal(directory: Path) -> str:
    """Return why a directory cannot be idmapped; empty if it can. Nothing is mounted anywhere."""

    def act() -> list[str]:
        idmapped.try_idmap(Path(os.path.realpath(directory)), IdMap.only(_ID, _ID))
        return []

    try:
        bounded(act, PATIENCE, f"trying {directory}")
    except OSError as error:
        if error.errno in _NO_IDMAP:
            return "its file system cannot"
        return error.strerror or str(error)
    return ""
