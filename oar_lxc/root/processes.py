"""Find a job's processes by facts of the kernel, and kill them by handle, not by number."""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import partial

from oar_lxc.errors import TooLateError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.examination import examine
from oar_lxc.root.belongings import Belongings
from oar_lxc.root.namespaces import UserNamespaces
from oar_lxc.root.ownership import Whose

CHUNK = 1 << 16
AT_ONCE = 1000  # processes that one child examines while their handles are open
# Fields of /proc/PID/stat, counted from the state (proc(5)).
_FLAGS, _START = 6, 19
_PF_KTHREAD = 0x00200000  # linux/sched.h: a flag of the kernel's own


class Handles:
    """Handles of processes, with which they are killed (pidfd_open(2)).

    A number may belong to another process by the time it is used; a handle always means the same
    process. So open the handle first, then read facts of the number: they hold for the handle.
    """

    def __init__(self) -> None:
        self._open: dict[int, int] = {}
        self._poll = select.poll()
        self._dying: set[int] = set()

    def __enter__(self) -> Handles:
        return self

    def __exit__(self, *error: object) -> None:
        for pid in list(self._open):
            self.drop(pid)

    def hold(self, pid: int) -> None:
        """Open a process's handle; it is closed at the end of the block."""
        if pid not in self._open:
            with suppress(OSError):  # it is gone, or too many files are open: the next round's
                self._open[pid] = os.pidfd_open(pid)

    def drop(self, pid: int) -> None:
        """Close a process's handle, if it is open."""
        if (handle := self._open.pop(pid, None)) is not None:
            os.close(handle)

    def kill(self, pids: Collection[int]) -> None:
        """Send SIGKILL to the processes that have open handles."""
        self.signal(pids, signal.SIGKILL)
        for handle in [self._open[pid] for pid in pids if pid in self._open]:
            self._poll.register(handle, select.POLLIN)  # once is enough, twice no error
            self._dying.add(handle)

    def signal(self, pids: Collection[int], number: signal.Signals) -> None:
        """Send a signal to the processes that have open handles."""
        for handle in [self._open[pid] for pid in pids if pid in self._open]:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)

    def wait(self, end: Deadline) -> None:
        """Wait until all killed processes are dead, or the time is over; zombies are dead."""
        while self._dying and not end.passed:
            for handle, _ in self._poll.poll(end.left() * 1000):
                self._poll.unregister(handle)
                self._dying.remove(handle)


def job_processes(
    job: Belongings,
    handles: Handles | None = None,
    others: set[int] | None = None,
    unseen: set[int] | None = None,
) -> set[int]:
    """Return the processes that belong to a job and must die with it.

    These are:

    - all processes in the cgroups to remove;
    - the user's processes in OAR's cgroup of the job (OAR's hooks there belong to other users);
    - all processes anywhere that have a user id or group id of the job's range, or could take one
      through their user namespace.

    Zombies and the kernel's own processes do not count. This reads the cgroup of each process, and
    not the processes of each cgroup, as a user can make very many cgroups.

    The reads here never block. A child does the reads that may block
    (:mod:`oar_lxc.linux.examination`), and only for processes of the user and of root, as other
    users cannot enter a namespace of the user.

    Args:
        job: what belongs to the job.
        handles: gets handles of the processes found, opened before they are examined.
        others: gets the other processes of the user, also under the user's other ranges.
        unseen: gets the processes that could not be examined and may be the job's.

    Raises:
        TooLateError: the deadline of ``job`` has passed.
    """
    whose = job.whose
    ours, oars = job.cgroups.ours(), job.cgroups.oars()
    found: set[int] = set()
    unknown: set[int] = set()
    hooks = ancestry()
    namespaces = UserNamespaces(whose)
    waiting: dict[int, bool] = {}  # processes for the child; whether they are the user's

    def pass_over(pid: int, own: bool) -> None:
        if own and others is not None:
            others.add(pid)
        if handles and pid not in unknown:
            handles.drop(pid)

    def look_at_waiting() -> None:
        look = partial(_can_take, namespaces=namespaces)
        for pid, can in examine(list(waiting), look, job.deadline):
            if can:
                found.add(pid)
                continue
            if can is None and unseen is not None:
                unseen.add(pid)
            pass_over(pid, waiting[pid])
        waiting.clear()

    for pid in pids():
        if job.deadline.passed:
            raise TooLateError("the time was over before all processes of this node were seen")
        threads = _threads(pid)  # 0 for most processes, as they are the kernel's own
        if not threads or pid in hooks:
            continue
        if handles:
            handles.hold(pid)
        try:
            where = _cgroups_of(pid, threads)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                unknown.add(pid)
            where = ""
        ids = ids_of(f"/proc/{pid}/status")
        who = int(ids[0]) if ids else -1
        own = whose.is_users(who)
        can = _by_map(pid, namespaces)
        if (
            _is_below(where, ours)
            or ((own or 0 <= who == whose.uid) and _is_below(where, oars))
            or whose.has_jobs(ids)
            or can
            or (own and threads > 1 and _has_thread(pid, whose))
        ):
            found.add(pid)
        elif can is None and (who == 0 or any(whose.is_users(int(x)) for x in ids[:4])):
            waiting[pid] = own
            if len(waiting) == AT_ONCE:
                look_at_waiting()
        else:
            pass_over(pid, own)
    look_at_waiting()
    if unknown:
        found |= (job.cgroups.processes() & unknown) - hooks
    return found


def _by_map(pid: int, namespaces: UserNamespaces) -> bool | None:
    with suppress(OSError):
        return namespaces.by_map(pid)
    return False


def _can_take(pid: int, namespaces: UserNamespaces) -> str:
    with suppress(OSError):
        return "1" if namespaces.is_jobs(pid) else ""
    return ""


def _has_thread(pid: int, whose: Whose) -> bool:
    """Whether a thread of a process has ids of a job; to the kernel, each thread has its own."""
    with suppress(OSError):
        tasks = os.listdir(f"/proc/{pid}/task")
        return any(whose.has_jobs(ids_of(f"/proc/{pid}/task/{task}/status")) for task in tasks)
    return False


def _threads(pid: int) -> int:
    """Return how many threads a process has; 0 if it is dead, or the kernel's own."""
    status = _status(pid)
    if not status or _is_dead(status) or _is_kernels(pid, status):
        return 0
    return int(_value(status, b"Threads"))


def _is_kernels(pid: int, status: bytes) -> bool:
    """Whether a process is the kernel's own; its status says so from Linux 6.8 on."""
    if told := _value(status, b"Kthread"):
        return told == b"1"
    if _value(status, b"VmSize"):
        return False
    fields = _stat(pid)  # never blocks: without memory, it is not in execve(2)
    return bool(fields) and int(fields[_FLAGS]) & _PF_KTHREAD != 0


def _cgroups_of(pid: int, threads: int) -> str:
    """Return the text of /proc about a process's cgroups; its threads may be in different ones."""
    if threads == 1:
        return os.fsdecode(_read_record(f"/proc/{pid}/cgroup"))
    texts = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with suppress(FileNotFoundError, ProcessLookupError):
            texts.append(_read_record(f"/proc/{pid}/task/{task}/cgroup"))
    return os.fsdecode(b"\n".join(texts))


def _is_below(text: str, roots: Collection[str]) -> bool:
    """Whether a cgroup in a text of /proc is at or below one of several roots."""
    near = [root for root in roots if root in text]  # empty for most texts
    if not near:
        return False
    paths = [line.split(":", 2)[2] for line in text.split("\n") if line.count(":") > 1]
    return any(path == root or path.startswith(f"{root}/") for path in paths for root in near)


def is_restless(job: Belongings) -> bool:
    """Whether the job may have processes that fork and end too fast for a search."""
    return any(owner(pid) in (-1, job.whose.uid) for pid in job.cgroups.freezable())


def pids() -> Iterator[int]:
    """Yield the ids of all processes of this node."""
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                yield int(entry.name)


def owner(pid: int) -> int:
    """Return the user id under which a process runs; -1 if it is gone."""
    return status_of(f"/proc/{pid}/status", b"Uid:")


def ids_of(path: str) -> list[bytes]:
    """Return the ids in a process's or thread's status; the first is the real user id.

    These are the user ids and group ids, each real, effective, saved and of the file system, and
    the supplementary groups. Empty if it is gone.
    """
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        text = _read_record(path)
        for key in (b"Uid:", b"Gid:", b"Groups:"):
            found += text.partition(b"\n" + key)[2].partition(b"\n")[0].split()
    return found


def status_of(path: str, key: bytes) -> int:
    """Return the first number in a line of a process's or thread's status; -1 if it is gone."""
    fields = _fields(path, key)
    return int(fields[0]) if fields else -1


def _fields(path: str, key: bytes) -> list[bytes]:
    with suppress(FileNotFoundError, ProcessLookupError):
        _, found, rest = _read_record(path).partition(b"\n" + key)
        return rest.partition(b"\n")[0].split() if found else []
    return []


def _read_record(path: str) -> bytes:
    """Read a file of /proc; for one process, one read mostly returns all of it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, CHUNK)
        while len(text) % CHUNK == 0 and (more := os.read(fd, CHUNK)):
            text += more
        return text
    finally:
        os.close(fd)


def is_zombie(pid: int) -> bool:
    """Whether a process is a zombie or gone.

    A process whose first thread has ended also looks like a zombie, but has other threads.
    """
    status = _status(pid)
    return not status or _is_dead(status)


def _is_dead(status: bytes) -> bool:
    return _value(status, b"State") in (b"Z", b"X") and int(_value(status, b"Threads")) <= 1


def is_first(pid: int) -> bool:
    """Whether a process is the first one of a PID namespace within this process's."""
    numbers = _fields(f"/proc/{pid}/status", b"NSpid:")
    return len(numbers) > 1 and numbers[-1] == b"1"


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal or a tracer, or gone."""
    return _value(_status(pid), b"State") in b"TtZX"


def is_still(pid: int) -> bool:
    """Whether a process is stopped, in an uninterruptible wait, or gone."""
    return _value(_status(pid), b"State") in b"TtDZX"


def is_waiting(pid: int, task: str) -> bool:
    """Whether a thread is in an uninterruptible wait."""
    return _value(_text(f"/proc/{pid}/task/{task}/status"), b"State") == b"D"


def start_time(pid: int) -> int:
    """Return a process's start time in clock ticks since the boot; 0 if it is gone.

    A user's process can make this block (:mod:`oar_lxc.linux.examination`).
    """
    fields = _stat(pid)
    return int(fields[_START]) if fields else 0


def parent(pid: int) -> int:
    """Return the number of a process's parent; 0 if it is gone."""
    return int(_value(_status(pid), b"PPid") or b"0")


def ancestry() -> set[int]:
    """Return this process and its ancestors, as a hook must not kill itself."""
    found = set()
    pid = os.getpid()
    while pid > 1 and pid not in found:
        found.add(pid)
        pid = parent(pid)
    return found


def _stat(pid: int) -> list[bytes]:
    """Return the fields of a process's stat from its state on; empty if it is gone."""
    stat = _text(f"/proc/{pid}/stat")
    return stat[stat.rfind(b")") + 2 :].split()


def _status(pid: int) -> bytes:
    """Return the text of a process's status; empty if it is gone."""
    return _text(f"/proc/{pid}/status")


def _text(path: str) -> bytes:
    with suppress(FileNotFoundError, ProcessLookupError):
        return _read_record(path)
    return b""


def _value(status: bytes, key: bytes) -> bytes:
    """Return the first word in a line of a process's status; empty without such a line."""
    words = status.partition(b"\n" + key + b":")[2].partition(b"\n")[0].split(None, 1)
    return words[0] if words else b""
