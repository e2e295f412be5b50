"""Delegate cgroups of a job to its user, find and freeze their processes, and remove them.

On a node with cgroup version 1, the delegated cgroup is ``lxc`` inside that which OAR made for the
job (``/oar/alice_42``, cpuset on). In hierarchies that OAR does not use, and in all of them if the
cpuset is off, it is ``/oar-lxc/alice_42``. The unified hierarchy beside them is not delegated, as
it has no controllers there.

On a node with version 2 alone, it is that of a service (:mod:`oar_lxc.root.units`) in OAR's slice
of the job, or in a slice of our own if the cpuset is off.

What is found, killed and removed is looked for in all these places, whatever a record says.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from oar_lxc.errors import OarLxcError, UsageError
from oar_lxc.linux.cgroups import (
    AGENT,
    processes_below,
    remove_cgroups,
    thaw,
    walk,
    write_file,
)
from oar_lxc.linux.deadline import NEVER, Deadline
from oar_lxc.model.placement import OWN_SLICE, SERVICES, SYSTEMD, service_of, slice_pattern
from oar_lxc.root import halted, units
from oar_lxc.root.placement import Hierarchy, has, hierarchies, is_in_units

HOLDING = frozenset({"cpu", "freezer"})  # controllers that can keep a killed process alive
LIMITS = {"pids": "pids.max", "memory": "memory.limit_in_bytes"}  # of a service, by controller
UNLIMITED = {"pids.max": "max", "memory.limit_in_bytes": "-1"}
JOB_SLICE = re.compile(r"-u[0-9]+-j[0-9]+\.slice(/|$)")  # in the path of a process of a job
DELEGATED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")  # files of version 2
OWN = "oar-lxc"
INNER = "lxc"
HOLDER = "holder"  # below a service's cgroup, which holds no process itself: the service's own
# How a cgroup is frozen, by version: the file, and what is written to it.
FREEZER = ("freezer.state", "FROZEN")
FREEZE = ("cgroup.freeze", "1")


def leave_freezers() -> None:
    """Leave the job's freezer cgroup or slice, in which OAR starts hooks.

    A destroy freezes the job and the user's other jobs. Two destroys at once would otherwise
    freeze each other.
    """
    for hierarchy in hierarchies():
        with suppress(OSError):
            if "freezer" in hierarchy.names:
                (hierarchy.path / "cgroup.procs").write_text(str(os.getpid()))
            elif has(hierarchy, "memory") and JOB_SLICE.search(_own_cgroup(hierarchy)):
                # Not to the root, which holds no processes where the node is a container.
                (hierarchy.path / OWN).mkdir(mode=0o755, exist_ok=True)
                (hierarchy.path / OWN / "cgroup.procs").write_text(str(os.getpid()))


def check_oar_cgroup(text: str, job_id: int, user: str) -> str:
    """Check that a path is OAR's cgroup of a job, and return it.

    Raises:
        UsageError: it is not an absolute path that ends in ``USER_JOB``.
    """
    parts = text.split("/")
    plain = all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", part) for part in parts[1:])
    if text.startswith("/") and plain and len(parts) > 2 and parts[-1] == f"{user}_{job_id}":
        return text
    raise UsageError(f"cgroup {text!r} is not OAR's cgroup of job {job_id} of {user}")


@dataclass(frozen=True)
class JobCgroups:
    """The cgroups of one job.

    Args:
        job_id: OAR's job id.
        user: the job's user.
        oar_cgroup: OAR's cgroup of the job; empty if the cpuset is off or it is not known.
        whole: whether OAR's cgroup of the job is removed, too, as OAR itself will not do it.
        deadline: when visits of the cgroups end, as a user can make very many.
        uid: the user's id; -1 if it is not known.
    """

    job_id: int
    user: str
    oar_cgroup: str
    whole: bool = False
    deadline: Deadline = NEVER
    uid: int = -1

    @cached_property
    def _hierarchies(self) -> list[Hierarchy]:
        # Looked up only once: a node's own mounts do not change, and the lookup is slow.
        return hierarchies()

    @property
    def name(self) -> str:
        """OAR's name of the job's cgroup: user and id."""
        return f"{self.user}_{self.job_id}"

    def delegated(self, hierarchy: Hierarchy) -> Path:
        """Return the path of the user's cgroup in a hierarchy."""
        if self.oar_cgroup:
            outer = hierarchy.path / self.oar_cgroup.lstrip("/")
            if outer.is_dir():
                return outer / INNER
        return hierarchy.path / OWN / self.name

    def delegate(self, way: str, uid: int, root_gid: int) -> list[Path]:
        """Make the delegated cgroups, which the user and the containers' root may use.

        The group is needed: ``lxc-attach`` opens the files from inside the user namespace, as the
        containers' root, and the kernel checks the credentials of the process that opens them.

        Args:
            way: how OAR has placed the job.
            uid: the user.
            root_gid: host id of the containers' group 0.

        Returns:
            The directories, one per hierarchy.

        Raises:
            OarLxcError: no hierarchy is mounted, or systemd refused.
        """
        made = []
        mounted = self._hierarchies
        if not mounted:
            raise OarLxcError(
                "no cgroup file system is mounted: mount it under /sys/fs/cgroup (systemd does; "
                "see the administrator guide, Troubleshooting)"
            )
        if is_in_units(way, mounted):
            (unified,) = (hierarchy for hierarchy in mounted if hierarchy.unified)
            return [self._delegate_service(unified, way, uid, root_gid)]
        for hierarchy in mounted:
            if hierarchy.unified:
                continue
            path = self.delegated(hierarchy)
            _make(hierarchy, path, 0o775)
            for name in ("", "cgroup.procs", "tasks"):
                file = path / name
                os.chown(file, uid, root_gid)
                os.chmod(file, 0o775 if name == "" else 0o664)
            made.append(path)
        return made

    def _delegate_service(self, unified: Hierarchy, way: str, uid: int, root_gid: int) -> Path:
        """Have systemd delegate a cgroup of version 2, and return it.

        Controllers reach the containers through the cgroup itself, which therefore holds no
        process: the user's enter :data:`AGENT` below it. (systemd can do the like from version 254
        on.)
        """
        around = self._slice(unified) if way == SYSTEMD else unified.path / OWN_SLICE
        units.start(self.service, around.name, uid, self.deadline)
        path = around / self.service
        (path / HOLDER).mkdir(mode=0o755, exist_ok=True)
        for pid in (path / "cgroup.procs").read_text().split():
            (path / HOLDER / "cgroup.procs").write_text(pid)
        controllers = (path / "cgroup.controllers").read_text().split()
        (path / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
        (path / AGENT).mkdir(mode=0o775, exist_ok=True)
        for cgroup in (path, path / AGENT):
            for name in ("", *DELEGATED):
                os.chown(cgroup / name, uid, root_gid)
                os.chmod(cgroup / name, 0o775 if name == "" else 0o664)
        return path

    @property
    def service(self) -> str:
        """The name of the job's service, where cgroups are of version 2."""
        return service_of(self.job_id)

    def roots(self) -> list[Path]:
        """Return the topmost cgroups to remove that exist, of both versions."""
        return [path for h in self._hierarchies for path in self._roots(h) if path.is_dir()]

    def _roots(self, hierarchy: Hierarchy) -> list[Path]:
        oar = self._oar(hierarchy)
        found = [hierarchy.path / OWN / self.name, oar if self.whole else oar / INNER]
        if hierarchy.unified:
            around = self._slice(hierarchy)
            found += [hierarchy.path / OWN_SLICE / self.service]
            found += [around if self.whole else around / self.service]
        return found

    def _oar(self, hierarchy: Hierarchy) -> Path:
        """Return the path of OAR's cgroup of the job in a hierarchy; it need not exist."""
        return hierarchy.path / (self.oar_cgroup.lstrip("/") or f"oar/{self.name}")

    def _slice(self, unified: Hierarchy) -> Path:
        """Return the path of systemd's slice of the job; it need not exist."""
        pattern = slice_pattern(self.oar_cgroup, self.job_id)
        if self.uid >= 0:
            return unified.path / pattern.replace("*", str(self.uid))
        return next(unified.path.glob(pattern), unified.path / pattern)

    def _oars(self, hierarchy: Hierarchy) -> list[Path]:
        """Return the paths of all that OAR may have made for the job in a hierarchy."""
        return [self._oar(hierarchy), *([self._slice(hierarchy)] if hierarchy.unified else [])]

    def processes(self) -> set[int]:
        """Return the processes in the cgroups at and below :meth:`roots`."""
        return {pid for root in self.roots() for pid in processes_below(root, self.deadline)}

    def freezable(self) -> set[int]:
        """Return the processes that :meth:`frozen` freezes; OAR's hooks may be among them."""
        roots = [path for h in self._hierarchies for path in self._freezers(h)]
        return {pid for root in roots for pid in processes_below(root, self.deadline)}

    def _freezers(self, hierarchy: Hierarchy) -> list[Path]:
        if has(hierarchy, "memory"):
            paths = (self._slice(hierarchy), hierarchy.path / OWN_SLICE / self.service)
        elif "freezer" in hierarchy.names:
            paths = (self._oar(hierarchy), hierarchy.path / OWN / self.name)
        else:
            return []
        return [path for path in paths if path.is_dir()]

    def ours(self) -> tuple[str, ...]:
        """Return the cgroups to remove, as paths in ``/proc/PID/cgroup``."""
        return self._seen(self._roots)

    def oars(self) -> tuple[str, ...]:
        """Return OAR's cgroups of the job, as :meth:`ours`; OAR's hooks run in them, too."""
        return self._seen(self._oars)

    def _seen(self, paths: Callable[[Hierarchy], list[Path]]) -> tuple[str, ...]:
        # Processes are in cgroups even if no hierarchy is mounted here.
        found = {
            f"{h.root.rstrip('/')}/{path.relative_to(h.path)}"
            for h in self._hierarchies or [Hierarchy(Path("/"), (), False)]
            for path in paths(h)
        }
        return tuple(sorted(found))

    def take_back(self) -> None:
        """Let only root enter the job's cgroups, and no process in them start another.

        A process that already has a file of them open can still write to it, as the kernel checks
        the rights only at the opening.
        """
        for hierarchy in self._hierarchies:
            for root in self._roots(hierarchy):
                walk(root, _take_back, depth=1)

    def thaw(self) -> None:
        """Thaw the cgroups, also OAR's of a suspended job, as frozen processes do not die."""
        for hierarchy in self._hierarchies:
            if "freezer" in hierarchy.names or hierarchy.unified:
                for path in self._oars(hierarchy):
                    thaw(path, depth=1)
                for root in self._roots(hierarchy):
                    thaw(root, deadline=self.deadline)

    def rescue(self, stuck: Collection[int]) -> None:
        """Move killed processes into cgroups of root's, where nothing keeps them from dying.

        A process of the job may be in a cgroup of another job of the user, who can freeze it; and
        in any cgroup of the user's it may get next to no time of the CPUs, which it needs to die.

        Args:
            stuck: processes that were killed and have not died.
        """
        for hierarchy in self._hierarchies if stuck else ():
            if hierarchy.unified:  # a frozen process dies there, one without time does not
                for root in self._roots(hierarchy):
                    walk(root, _lift_quota, deadline=self.deadline)
            if not hierarchy.unified and not HOLDING.isdisjoint(hierarchy.names):
                path = hierarchy.path / OWN / self.name
                with suppress(OSError):
                    _make(hierarchy, path, 0o700)
                for pid in stuck:
                    with suppress(OSError):  # it is dead
                        (path / "cgroup.procs").write_text(str(pid))

    @contextmanager
    def frozen(self, wait: float = 1.0) -> Iterator[None]:
        """Freeze the job's cgroups, also OAR's, during the block.

        Otherwise processes that fork and end quickly would escape each search.

        Args:
            wait: seconds that the kernel may take until all are frozen.
        """
        found = []
        for hierarchy in self._hierarchies:
            found += self._freezers(hierarchy)
        with _frozen(found, wait):
            yield

    @contextmanager
    def neighbours_frozen(self, wait: float = 1.0) -> Iterator[None]:
        """Freeze the cgroups of the user's other jobs during the block, unless they are frozen."""
        found: list[Path] = []
        for hierarchy in self._hierarchies:
            if "freezer" in hierarchy.names:
                for parent in (self._oar(hierarchy).parent, hierarchy.path / OWN):
                    found += _jobs_below(parent, self.user)
            elif has(hierarchy, "memory"):
                found += self._slices_of_user(hierarchy)
        found = [path for path in found if path.name not in (self.name, self.service)]
        with _frozen([path for path in found if _is_thawed(path)], wait):
            yield

    def _slices_of_user(self, unified: Hierarchy) -> Iterator[Path]:
        """Yield the slices of the user's other jobs, and the services of those without one."""
        own = self._slice(unified)
        if self.uid >= 0:
            for path in own.parent.glob("*-j*.slice"):
                if path != own:
                    yield path
            for path in (unified.path / OWN_SLICE).glob(SERVICES):
                with suppress(OSError):  # it has just ended
                    if path.stat().st_uid == self.uid:
                        yield path

    def kill_unified(self) -> None:
        """Kill all processes in and below the version 2 cgroups, with the kernel's switch."""
        for hierarchy in self._hierarchies:
            if hierarchy.unified:
                for root in self._roots(hierarchy):
                    walk(root, _kill, depth=1)

    def remove(self) -> bool:
        """Remove the cgroups at and below :meth:`roots`, the deepest first.

        Returns:
            Whether none is left. A cgroup stays busy for a moment after its last process died.
        """
        # The kernel finishes a removal later, in the background. For these controllers that work
        # delays the removal of all other cgroups, so they come last.
        last = {"cpuset", "memory"}
        done = True
        for hierarchy in sorted(self._hierarchies, key=lambda h: not last.isdisjoint(h.names)):
            if has(hierarchy, "memory"):
                self._stop_units(hierarchy)
            for root in self._roots(hierarchy):
                done = remove_cgroups(root, self.deadline) and done
        return done

    def _stop_units(self, unified: Hierarchy) -> None:
        around = self._slice(unified).name
        with suppress(OarLxcError):  # the kernel's own calls remove what systemd does not
            units.thaw(around, self.deadline)
            for unit in (self.service, *([around] if self.whole else [])):
                units.stop(unit, self.deadline)

    def units_left(self) -> list[str]:
        """Return the job's units that systemd still knows, or why it does not say."""
        if not any(has(hierarchy, "memory") for hierarchy in self._hierarchies):
            return []
        try:
            state = units.load_state(self.service, self.deadline)
        except OarLxcError as error:
            return [f"unknown, as systemd does not tell: {error}"]
        return [] if state == units.GONE else [self.service]


@contextmanager
def _frozen(paths: list[Path], wait: float) -> Iterator[None]:
    with halted.noted() as note:
        try:
            for path in paths:
                note(halted.FROZEN, path)
                for file, word in (FREEZER, FREEZE):
                    with suppress(OSError):  # the job has ended, or it is the other version's
                        if (path / file).exists():
                            (path / file).write_text(word)
            end = Deadline.after(wait)
            while any(map(_is_freezing, paths)) and not end.passed:
                time.sleep(0.001)
            yield
        finally:
            for path in paths:
                with suppress(OSError):  # thaw the others
                    thaw(path, depth=1)


def _jobs_below(parent: Path, user: str) -> Iterator[Path]:
    """Yield the cgroups of a user's jobs, found by their names."""
    wanted = re.compile(rf"{re.escape(user)}_[0-9]+")
    with suppress(FileNotFoundError), os.scandir(parent) as entries:
        for entry in entries:
            if wanted.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                yield parent / entry.name


def _read(file: Path) -> str:
    """Return the text of a cgroup's file; empty if the cgroup is gone."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _is_thawed(path: Path) -> bool:
    return _read(path / FREEZER[0]) == "THAWED" or _read(path / FREEZE[0]) == "0"


def _is_freezing(path: Path) -> bool:
    return _read(path / FREEZER[0]) == "FREEZING" or (
        _read(path / FREEZE[0]) == "1" and "frozen 0" in _read(path / "cgroup.events")
    )


def _take_back(parent: int, name: str) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(FileNotFoundError):
        here = os.open(name, flags, dir_fd=parent)
        try:
            os.fchown(here, 0, 0)
            os.fchmod(here, 0o700)
            for file in ("tasks", *DELEGATED):
                with suppress(FileNotFoundError):
                    os.chown(file, 0, 0, dir_fd=here, follow_symlinks=False)
        finally:
            os.close(here)
    write_file(parent, f"{name}/pids.max", "0")


def _lift_quota(parent: int, name: str) -> None:
    write_file(parent, f"{name}/cpu.max", "max")


def _kill(parent: int, name: str) -> None:
    write_file(parent, f"{name}/cgroup.kill", "1")


def _make(hierarchy: Hierarchy, path: Path, mode: int) -> None:
    """Make a cgroup that processes can enter; it may exist."""
    if path.parent.name == OWN:
        path.parent.mkdir(mode=0o755, exist_ok=True)
        _limit_as_here(hierarchy, path.parent)
    if "cpuset" in hierarchy.names:
        _fill_cpuset(path.parent)
    path.mkdir(mode=mode, exist_ok=True)
    if "cpuset" in hierarchy.names:
        _fill_cpuset(path)
        (path / "cgroup.clone_children").write_text("1")


def _limit_as_here(hierarchy: Hierarchy, parent: Path) -> None:
    """Give the parent of all jobs' cgroups the limits under which this process is.

    OAR starts hooks and jobs in one service, whose limits are the administrator's. The cgroups
    cannot be inside the service's, as systemd removes what is there with the service.
    """
    for file in (LIMITS[name] for name in hierarchy.names if name in LIMITS):
        here = hierarchy.path / _own_cgroup(hierarchy)
        around = [here, *(above for above in here.parents if above.is_relative_to(hierarchy.path))]
        limits = [int(text) for one in around if (text := _read(one / file)).isdecimal()]
        wanted = str(min(limits)) if limits else UNLIMITED[file]
        if _read(parent / file) != wanted:
            with suppress(OSError):  # what is there takes more already
                (parent / file).write_text(wanted)


def _own_cgroup(hierarchy: Hierarchy) -> str:
    """Return this process's cgroup in a hierarchy, relative to where that is mounted."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if set(filter(None, names.split(","))) == set(hierarchy.names):
            return path.removeprefix(hierarchy.root.rstrip("/")).strip("/")
    return ""


def _fill_cpuset(path: Path) -> None:
    """Give a cpuset its parent's CPUs and memory nodes; without them no process may enter it."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = path / name
        if not file.read_text().strip():
            file.write_text((path.parent / name).read_text())
