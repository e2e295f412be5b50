"""Steps that check what only a person can correct on a machine, and say what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from oar_lxc.errors import CommandError
from oar_lxc.linux import systemd
from oar_lxc.linux.run import run
from oar_lxc.model.placement import NONE
from oar_lxc.root import placement
from oar_lxc.setup import packages
from oar_lxc.setup.oar_version import parse
from oar_lxc.setup.steps import NotYetError, SetupError, Step

SERVER = "oar-server"  # the package that makes a machine the server
NODE = "oar-node"  # the package that makes a machine a node
CGROUPS = Path("/sys/fs/cgroup")
SYSTEMD = Path("/run/systemd/system")  # exists where it runs as process 1
CONTROLLERS = ("cpuset", "cpu", "cpuacct", "devices", "freezer")
# Of version 2: what limits containers, and with OAR's cpuset on, what it confines jobs with.
OF_CONTAINERS = ("cpu", "memory", "pids")
OF_JOBS = ("cpuset", *OF_CONTAINERS)
# CPUs as job_resource_manager_systemd.pl of OAR 2.6 takes them from hwloc.
_CPUS_OF_SYSTEMD = re.compile(r"ay 0x[0-9a-f]{4}( 0x[0-9a-f]{2})+", re.IGNORECASE)

# File systems that cannot hold an overlay's upper directory.
NOT_REAL = ("overlay", "aufs", "nfs", "nfs4", "fuse", "tmpfs", "ramfs", "9p", "vboxsf")

_BOOT_V1 = (
    "OAR 2.5 knows version 1 only: boot with systemd.unified_cgroup_hierarchy=0 and "
    "systemd.legacy_systemd_cgroup_controller on the kernel's command line "
    "(GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub and a reboot)"
)


def require_root() -> None:
    """Refuse any caller but root, as even a dry run reads files that only root may read.

    Raises:
        SetupError: the caller is not root.
    """
    if os.geteuid() != 0:
        raise SetupError("set-up needs root, also to look: run it with sudo")


def is_debian() -> Step:
    """Make the step that requires apt and systemd."""

    def problem() -> str | None:
        if shutil.which("apt-get") is None:
            return "this machine has no apt-get: set-up knows Debian 12 and later"
        if not SYSTEMD.is_dir():
            return "systemd does not run as process 1 here: services could not be started"
        return None

    return Step("Debian with systemd", problem)


def is_not_the_server(why: str) -> Step:
    """Make the step that requires another machine than the OAR server.

    Args:
        why: what the server needs no other role for, or must not have it for.
    """

    def problem() -> str | None:
        return None if packages.missing([SERVER]) else f"this machine is the OAR server: {why}"

    return Step("not the OAR server", problem)


def cgroups_are_usable(
    cgroups: Path = CGROUPS, mounts: Path = Path("/proc/self/mounts"), trial: bool = True
) -> Step:
    """Make the step that requires the cgroup file systems of OAR's job resource manager.

    Args:
        cgroups: where they are mounted.
        mounts: the table of mounts.
        trial: make a cpuset for a moment; else only look whether one could be made.
    """
    return Step(
        "cgroup file systems are mounted, and the cpuset writable",
        lambda: _cgroup_problem(cgroups, mounts, trial),
    )


def containers_have_cgroups(controllers: Sequence[str] = OF_CONTAINERS) -> Step:
    """Make the step that requires what containers need of cgroup version 2, where it is alone.

    Args:
        controllers: what is needed of it.
    """

    def problem() -> str | None:
        mounted = placement.hierarchies()
        if not placement.is_in_units(NONE, mounted):
            return None
        (unified,) = mounted
        lacking = [name for name in controllers if not placement.has(unified, name)]
        if not lacking:
            return None
        several = "s" if len(lacking) > 1 else ""
        return (
            f"cgroup version 2 at {unified.path} lacks the controller{several} "
            f"{', '.join(lacking)}, by which jobs and containers are confined: boot a kernel that "
            "has it, without cgroup_disable on its command line; in a container, its host has to "
            "delegate it"
        )

    return Step("cgroups are those that containers can have", problem)


def cpuset_can_be_on(
    version: Callable[[], str] = lambda: packages.version_of(NODE), *, trial: bool = True
) -> Step:
    """Make the step that requires the cgroups in which this machine's OAR confines jobs to CPUs.

    Args:
        version: returns the version of OAR's package; empty if there is none.
        trial: make a cpuset for a moment; else only look whether one could be made.
    """

    def problem() -> str | None:
        text = version()
        if not text or not (found := parse(text)).needs_cgroups_v2:
            return cgroups_are_usable(trial=trial).pending()
        if not placement.is_in_units(NONE, placement.hierarchies()):
            return (
                f"OAR {found} confines jobs to their CPUs in cgroups of version 2 alone, and this "
                "machine has version 1: boot it with systemd.unified_cgroup_hierarchy=1 on the "
                "kernel's command line, or set the server up with --no-cpuset, and this machine "
                "with its new bundle"
            )
        return containers_have_cgroups(OF_JOBS).pending()

    return Step("OAR's cpuset can be on", problem)


def systemd_answers() -> Step:
    """Make the step that requires systemd on D-Bus, where it makes the cgroups of jobs."""

    def problem() -> str | None:
        if not placement.is_in_units(NONE, placement.hierarchies()):
            return None
        try:
            systemd.version()
        except CommandError as error:
            return (
                f"systemd does not answer on D-Bus ({error.stderr.strip() or error}), by which it "
                "makes the cgroups of jobs: apt-get install dbus && systemctl start dbus"
            )
        return None

    return Step("systemd makes the cgroups of jobs", problem)


def hwloc_knows_systemd() -> Step:
    """Make the step that requires hwloc's names of CPUs for systemd, which OAR 2.6 asks for.

    Raises:
        NotYetError: hwloc is not installed.
    """

    def problem() -> str | None:
        if not placement.is_in_units(NONE, placement.hierarchies()):
            return None
        if shutil.which("hwloc-calc") is None:
            raise NotYetError("hwloc-calc comes with OAR, which is not installed yet")
        told = run(["hwloc-calc", "--cof", "systemd-dbus-api", "all"], check=False)
        if _CPUS_OF_SYSTEMD.fullmatch(told.stdout.strip()):
            return None
        return (
            "hwloc-calc does not name CPUs as systemd takes them (--cof systemd-dbus-api), so OAR "
            "could not place a job: apt-get install hwloc of version 2.12 or later"
        )

    return Step("OAR can tell systemd a job's CPUs", problem)


def _cgroup_problem(cgroups: Path, mounts: Path, trial: bool) -> str | None:
    lines = [line.split() for line in mounts.read_text().splitlines()]
    mounted = {words[1]: (words[2], words[3].split(",")) for words in lines if len(words) > 3}
    kind, _ = mounted.get(str(cgroups), ("", []))
    for controller in CONTROLLERS:
        path = cgroups / controller
        if mounted.get(os.path.realpath(path), ("", []))[0] == "cgroup":
            continue
        if kind == "cgroup2":
            return f"{cgroups} has cgroup version 2. {_BOOT_V1}"
        return (
            f"the cgroup file system of controller {controller} is not mounted on {path}: OAR "
            f"could not make a job's cgroup. {_BOOT_V1}; where systemd does not mount it: "
            f"mkdir -p {path} && mount -t cgroup -o {controller} {controller} {path}"
        )
    return _cpuset_problem(cgroups / "cpuset", trial)


def _cpuset_problem(cpuset: Path, trial: bool) -> str | None:
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not (cpuset / name).read_text().strip():
            return (
                f"{cpuset / name} is empty: no process can be put into a cpuset below it. In a "
                f"container, its host has to fill {name} of the container's cgroup"
            )
    try:
        if trial:
            _make_cpuset(cpuset)
        elif os.statvfs(cpuset).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    except OSError as error:
        return (
            f"the cpuset below {cpuset} cannot be written ({error.strerror}): OAR could not make "
            "a job's cpuset. Mount it read-write (mount -o remount,rw,bind "
            f"{cpuset}); in a container, its host has to (lxc.mount.auto = cgroup:rw:force)"
        )
    return None


def _make_cpuset(cpuset: Path) -> None:
    """Make a cpuset and remove it.

    Raises:
        OSError: the kernel refuses.
    """
    probe = cpuset / "oar-lxc-probe"
    try:
        with contextlib.suppress(FileExistsError):
            probe.mkdir()
        (probe / "cpuset.cpus").write_text((cpuset / "cpuset.cpus").read_text())
    finally:
        with contextlib.suppress(OSError):
            probe.rmdir()


def storage_is_real(path: Path) -> Step:
    """Make the step that requires a local file system to which overlays can write."""

    def problem() -> str | None:
        place = path
        while not place.exists():
            place = place.parent
        kind = run(["stat", "-f", "-c", "%T", str(place)]).stdout.strip()
        if not kind.startswith(NOT_REAL):
            return None
        return (
            f"{path} is on {kind}: containers need a local file system such as ext4, xfs or btrfs "
            f"there, as their own overlay writes to it. Mount one on {path}"
        )

    return Step(f"{path} is on a local file system", problem)
