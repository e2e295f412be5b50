"""Cgroups of a job: delegated to its user, and removed with all that is in them.

Where OAR made a cgroup for the job (``/oar/alice_42``, cpuset on), the delegated one lies inside
it as ``lxc``. In hierarchies that OAR does not use, and in all of them where the cpuset is off, it
is ``/oar-lxc/alice_42``. Version 1 hierarchies are delegated; the unified one cannot be entered by
a user without root's help and, in OAR 2.5's hybrid set-up, carries no controllers.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from oar_lxc.errors import OarLxcError, TooLateError, UsageError
from oar_lxc.linux.mounts import read_mounts
from oar_lxc.root import halted

CONTROLLERS = frozenset(
    {"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc"}
    | {"net_cls", "net_prio", "perf_event", "pids", "rdma"}
)
OWN = "oar-lxc"
INNER = "lxc"
NO_DIRECTORY_BELOW = 2  # links of a directory: its name and its "."


@dataclass(frozen=True)
class Hierarchy:
    """One mounted cgroup hierarchy.

    Attributes:
        path: where it is mounted.
        names: its controllers, or ``name=…``; empty for the unified hierarchy.
        unified: whether it is of version 2.
        root: which of its cgroups is mounted there.
    """

    path: Path
    names: tuple[str, ...]
    unified: bool
    root: str = "/"


def hierarchies(mountinfo: Path = Path("/proc/self/mountinfo")) -> list[Hierarchy]:
    """Return the hierarchies mounted here, each once; where none is, a job has nothing in any."""
    found: dict[str, Hierarchy] = {}
    for mount in read_mounts(mountinfo, kinds=(b"cgroup", b"cgroup2")):
        names = tuple(x for x in mount.options if x.startswith("name=") or x in CONTROLLERS)
        hierarchy = Hierarchy(mount.point, names, mount.kind == "cgroup2", mount.root)
        found.setdefault(mount.device, hierarchy)
    return list(found.values())


def leave_freezers() -> None:
    """Leave the cgroups of a job, in which OAR runs hooks, as far as they could be frozen.

    Who destroys a job freezes it, and the user's other jobs: two at once would freeze each other.
    """
    for hierarchy in hierarchies():
        if "freezer" in hierarchy.names:
            with suppress(OSError):
                (hierarchy.path / "cgroup.procs").write_text(str(os.getpid()))


def check_oar_cgroup(text: str, job_id: int, user: str) -> str:
    """Return the path of OAR's cgroup of a job, checked to be no other's.

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
        oar_cgroup: OAR's cgroup of the job, empty where the cpuset is off or it is not known.
        whole: OAR's cgroup of the job counts as ours: OAR itself will not remove it any more.
        deadline: monotonic time at which looking at the cgroups ends; a user makes as many as
            memory allows.
    """

    job_id: int
    user: str
    oar_cgroup: str
    whole: bool = False
    deadline: float = float("inf")

    @cached_property
    def _hierarchies(self) -> list[Hierarchy]:
        # Looked up once: a node's own mounts stay, and to tell all takes the kernel long.
        return hierarchies()

    @property
    def name(self) -> str:
        """What OAR calls the job's cgroup: user and id."""
        return f"{self.user}_{self.job_id}"

    def delegated(self, hierarchy: Hierarchy) -> Path:
        """Return where the user's part of a hierarchy is."""
        if self.oar_cgroup:
            outer = hierarchy.path / self.oar_cgroup.lstrip("/")
            if outer.is_dir():
                return outer / INNER
        return hierarchy.path / OWN / self.name

    def delegate(self, uid: int, root_gid: int) -> list[Path]:
        """Make the delegated cgroups, usable by the user and by the containers' root.

        The group matters: ``lxc-attach`` from inside the user namespace writes with the mapped
        root's credentials, and the kernel checks the opener's.

        Args:
            uid: the user.
            root_gid: host id of the containers' group 0.

        Returns:
            The directories, one a hierarchy.

        Raises:
            OarLxcError: no hierarchy is mounted.
        """
        made = []
        mounted = self._hierarchies
        if not mounted:
            raise OarLxcError(
                "no cgroup file system is mounted: mount it under /sys/fs/cgroup (systemd does; "
                "see the administrator guide, Troubleshooting)"
            )
        for hierarchy in mounted:
            if hierarchy.unified:
                continue
            path = self.delegated(hierarchy)
            parent = path.parent
            if parent.name == OWN:
                parent.mkdir(mode=0o755, exist_ok=True)
            if "cpuset" in hierarchy.names:
                _fill_cpuset(parent)
            path.mkdir(mode=0o775, exist_ok=True)
            if "cpuset" in hierarchy.names:
                _fill_cpuset(path)
                (path / "cgroup.clone_children").write_text("1")
            for name in ("", "cgroup.procs", "tasks"):
                file = path / name
                os.chown(file, uid, root_gid)
                os.chmod(file, 0o775 if name == "" else 0o664)
            made.append(path)
        return made

    def roots(self) -> list[Path]:
        """Return the topmost cgroups that are ours to remove, those that exist, any version."""
        return [path for h in self._hierarchies for path in self._roots(h) if path.is_dir()]

    def _roots(self, hierarchy: Hierarchy) -> list[Path]:
        oar = self._oar(hierarchy)
        return [hierarchy.path / OWN / self.name, oar if self.whole else oar / INNER]

    def _oar(self, hierarchy: Hierarchy) -> Path:
        """Return where OAR's cgroup of the job is in a hierarchy, or would be."""
        return hierarchy.path / (self.oar_cgroup.lstrip("/") or f"oar/{self.name}")

    def processes(self) -> set[int]:
        """Return the processes inside our cgroups of the job, by looking into each cgroup."""
        return {pid for root in self.roots() for pid in _processes_below(root, self.deadline)}

    def freezable(self) -> set[int]:
        """Return the processes that :meth:`frozen` freezes, hooks of OAR among them."""
        roots = [path for h in self._hierarchies for path in self._freezers(h)]
        return {pid for root in roots for pid in _processes_below(root, self.deadline)}

    def _freezers(self, hierarchy: Hierarchy) -> list[Path]:
        if "freezer" not in hierarchy.names:
            return []
        paths = (self._oar(hierarchy), hierarchy.path / OWN / self.name)
        return [path for path in paths if path.is_dir()]

    def ours(self) -> tuple[str, ...]:
        """Return what a process inside our cgroups of the job has in its ``/proc/PID/cgroup``."""
        return self._seen(self._roots)

    def oars(self) -> tuple[str, ...]:
        """Return the same of OAR's own cgroup of the job, in which hooks of OAR run too."""
        return self._seen(lambda hierarchy: [self._oar(hierarchy)])

    def _seen(self, paths: Callable[[Hierarchy], list[Path]]) -> tuple[str, ...]:
        # Processes are in cgroups whether these are mounted here or not.
        found = {
            f"{h.root.rstrip('/')}/{path.relative_to(h.path)}"
            for h in self._hierarchies or [Hierarchy(Path("/"), (), False)]
            for path in paths(h)
        }
        return tuple(sorted(found))

    def take_back(self) -> None:
        """Let nobody but root into the job's cgroups, and nothing in them start a process.

        Whoever has a file of them open can go on writing to it: the kernel looks at who opened it.
        """
        for hierarchy in self._hierarchies:
            for root in self._roots(hierarchy):
                walk(root, _take_back, depth=1)

    def thaw(self) -> None:
        """Thaw what is frozen, as that does not die; also OAR's cgroup of a suspended job."""
        for hierarchy in self._hierarchies:
            if "freezer" in hierarchy.names or hierarchy.unified:
                walk(self._oar(hierarchy), _thaw, depth=1)
                for root in self._roots(hierarchy):
                    walk(root, _thaw, deadline=self.deadline)

    @contextmanager
    def frozen(self, wait: float = 1.0) -> Iterator[None]:
        """Freeze the job's cgroups, OAR's too, for a moment.

        Processes that fork and end without a rest are nowhere when they are looked at.

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
        """Freeze the cgroups of the user's other jobs for a moment, those that are not yet."""
        found: list[Path] = []
        for hierarchy in self._hierarchies:
            if "freezer" in hierarchy.names:
                for parent in (self._oar(hierarchy).parent, hierarchy.path / OWN):
                    found += _jobs_below(parent, self.user)
        found = [path for path in found if path.name != self.name]
        with _frozen([path for path in found if _read(path / "freezer.state") == "THAWED"], wait):
            yield

    def kill_unified(self) -> None:
        """Kill what is in a version 2 cgroup, and all below, with the kernel's own switch."""
        for hierarchy in self._hierarchies:
            if hierarchy.unified:
                for root in self._roots(hierarchy):
                    walk(root, _kill, depth=1)

    def remove(self) -> bool:
        """Remove our cgroups of the job, deepest first.

        Returns:
            Whether none is left; one in which a process has only just died is busy for a moment.
        """
        done = True

        def leave(parent: int, name: str) -> None:
            nonlocal done
            done = _remove(parent, name) and done

        # The kernel goes on with a removed one while it is looked for the next, and what it then
        # has to do for these holds up the removal of all others.
        last = {"cpuset", "memory"}
        for hierarchy in sorted(self._hierarchies, key=lambda h: not last.isdisjoint(h.names)):
            for root in self._roots(hierarchy):
                walk(root, _remove, leave, deadline=self.deadline)
        return done


def walk(
    root: Path,
    enter: Callable[[int, str], bool | None] = lambda parent, name: None,
    leave: Callable[[int, str], object] = lambda parent, name: None,
    *,
    depth: float = float("inf"),
    deadline: float = float("inf"),
) -> None:
    """Visit a cgroup and all below it, parents first; what vanishes meanwhile is passed over.

    Users nest cgroups as deep as they like, beyond what fits into a path or into a process's open
    files: every step is relative to the one directory that is open, also the way back up. A cgroup
    cannot be moved to another parent, so ``..`` is where we came from.

    Args:
        root: the cgroup; one that does not exist has nothing below it.
        enter: is given the open directory of each cgroup's parent and the cgroup's name, before
            those below it; where it returns True, the cgroup is gone.
        leave: is given the same after those below it.
        depth: how many levels are visited; 1 is the cgroup alone.
        deadline: monotonic time.

    Raises:
        TooLateError: the deadline has passed.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        here = os.open(root.parent, flags)
    except FileNotFoundError:
        return
    above: list[tuple[str, list[str]]] = []  # the way down: a name, and what is yet to be seen
    name, pending = "", [root.name]
    try:
        while pending or above:
            if time.monotonic() > deadline:
                raise TooLateError(f"the time was over before all below {root} was seen")
            if not pending:
                fd = os.open("..", flags, dir_fd=here)
                os.close(here)
                here = fd
                left = name
                name, pending = above.pop()
                leave(here, left)
                continue
            child = pending.pop()
            if enter(here, child):
                continue
            try:
                status = os.stat(child, dir_fd=here, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(status.st_mode):
                continue
            # A directory's links tell how many are in it. Most cgroups have none below, and dozens
            # of files: they are not opened.
            if len(above) + 1 >= depth or status.st_nlink == NO_DIRECTORY_BELOW:
                leave(here, child)
                continue
            try:
                fd = os.open(child, flags, dir_fd=here)
            except (FileNotFoundError, NotADirectoryError):
                continue
            os.close(here)
            here = fd
            above.append((name, pending))
            name, pending = child, []
            with suppress(FileNotFoundError), os.scandir(here) as entries:
                pending = [x.name for x in entries if x.is_dir(follow_symlinks=False)]
    finally:
        os.close(here)


def _processes_below(root: Path, deadline: float) -> set[int]:
    found: set[int] = set()

    def read(parent: int, name: str) -> None:
        with suppress(OSError):  # a cgroup that is being removed
            procs = os.open(f"{name}/cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=parent)
            with os.fdopen(procs) as file:
                found.update(int(word) for word in file.read().split() if word != "0")

    walk(root, read, deadline=deadline)
    return found


def _remove(parent: int, name: str) -> bool:
    """Remove a cgroup; return whether it is gone, which no other is that has one below."""
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True


@contextmanager
def _frozen(paths: list[Path], wait: float) -> Iterator[None]:
    states = [path / "freezer.state" for path in paths]
    with halted.noted() as note:
        try:
            for path, state in zip(paths, states, strict=True):
                note(halted.FROZEN, path)
                with suppress(OSError):  # that job has ended
                    state.write_text("FROZEN")
            end = time.monotonic() + wait
            while any(_read(state) == "FREEZING" for state in states) and time.monotonic() < end:
                time.sleep(0.001)
            yield
        finally:
            for path in paths:
                thaw_frozen(path)


def thaw_frozen(path: Path) -> bool:
    """Thaw a cgroup of the freezer; return whether it is there."""
    with suppress(OSError):  # that job has ended
        (path / "freezer.state").write_text("THAWED")
        return True
    return False


def _jobs_below(parent: Path, user: str) -> Iterator[Path]:
    """Yield the cgroups of a user's jobs, by their names."""
    wanted = re.compile(rf"{re.escape(user)}_[0-9]+")
    with suppress(FileNotFoundError), os.scandir(parent) as entries:
        for entry in entries:
            if wanted.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                yield parent / entry.name


def _read(file: Path) -> str:
    """Return what a cgroup's file says; nothing where the cgroup is gone."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _take_back(parent: int, name: str) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(FileNotFoundError):
        here = os.open(name, flags, dir_fd=parent)
        try:
            os.fchown(here, 0, 0)
            os.fchmod(here, 0o700)
            for file in ("cgroup.procs", "tasks"):
                with suppress(FileNotFoundError):
                    os.chown(file, 0, 0, dir_fd=here, follow_symlinks=False)
        finally:
            os.close(here)
    _write(parent, f"{name}/pids.max", "0")


def _kill(parent: int, name: str) -> None:
    _write(parent, f"{name}/cgroup.kill", "1")


def _thaw(parent: int, name: str) -> None:
    _write(parent, f"{name}/freezer.state", "THAWED")
    _write(parent, f"{name}/cgroup.freeze", "0")


def _fill_cpuset(path: Path) -> None:
    """Give a cpuset its parent's CPUs and memory nodes, without which nothing may enter it."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = path / name
        if not file.read_text().strip():
            file.write_text((path.parent / name).read_text())


def _write(directory: int, name: str, text: str) -> None:
    """Write to a cgroup's file, where it has one of that name and the kernel takes it."""
    with suppress(OSError):
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
