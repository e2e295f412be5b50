"""Make the namespaces that a job's user owns: one of users, and one of networks.

No process has to live for them: bind mounts below the job's directory keep them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from oar_lxc.linux.bounded import ANSWER, in_child
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.setns import NEW_NETWORK, NEW_USER, unshare
from oar_lxc.model.idmap import IdMap, map_text
from oar_lxc.model.layout import JobLayout
from oar_lxc.root.account import Account
from oar_lxc.root.idmapped import mount_file, mounts_under, unmount_under
from oar_lxc.root.refusal import Refusal

TRIES = 4
SHARE = 0.4  # the part of the time that is left, for one try
PATIENCE = 0.05  # seconds for the end of a child, which a busy kernel may hold

_PR_SET_SECUREBITS = 28
_NO_SETUID_FIXUP = 1 << 2
_MADE = b"made"
_LIMIT = errno.ENOSPC  # the kernel's word for user.max_user_namespaces and its like

_libc = ctypes.CDLL(None, use_errno=True)


def are_kept(layout: JobLayout) -> bool:
    """Whether the files in a job's directory keep both of its namespaces."""
    mounted = mounts_under(layout.namespaces)
    return {*mounted} == {layout.user_namespace, layout.network_namespace}


def make(layout: JobLayout, account: Account, ids: IdMap, deadline: Deadline) -> None:
    """Make a job's namespaces, and keep them by files in the job's directory.

    What a prepare that was killed has left of them is undone first. A process of the user may kill
    or stop the one that makes them, as ``kill -9 -1`` does, so this tries several times.

    Args:
        layout: the job's names; its directory exists, and ``namespaces`` in it is root's.
        account: the job's user, who will own the namespaces.
        ids: the job's ids.
        deadline: when to give up.

    Raises:
        Refusal: the user has no more namespaces left, or they were not made in time.
        OSError: the kernel refused.
    """
    unmount_under(layout.namespaces)
    for _ in range(TRIES):
        if _make(layout, account, ids, deadline.part(SHARE)):
            return
    raise Refusal(
        "its namespaces were not made in time: other programs of its user killed or stopped what "
        "makes them, or the kernel is busy with network devices of others; submit the job again"
    )


@contextmanager
def kept_alive(layout: JobLayout) -> Iterator[None]:
    """Keep a job's network namespace until the end of the block, also if it is unmounted.

    The kernel may need long to remove what the user made in it, and lets nobody change network
    devices meanwhile.
    """
    with ExitStack() as opened:
        with suppress(OSError):  # it is gone already
            fd = os.open(layout.network_namespace, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            opened.callback(os.close, fd)
        yield


def names(layout: JobLayout) -> list[str]:
    """Return the names of a job's namespaces that exist, as the kernel writes them in links."""
    found = []
    for kind, path in (("user", layout.user_namespace), ("net", layout.network_namespace)):
        with suppress(OSError):
            found.append(f"{kind}:[{path.stat().st_ino}]")
    return found


def remove(layout: JobLayout) -> None:
    """Remove the files of namespaces that are unmounted; "already gone" is success.

    The kernel then unmounts them in all mount namespaces that have a copy of the mount.
    """
    if layout.directory.is_symlink() or layout.namespaces.is_symlink():
        return  # only root can have put a link there
    for path in (layout.user_namespace, layout.network_namespace):
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def _make(layout: JobLayout, account: Account, ids: IdMap, deadline: Deadline) -> bool:
    """Try to make the namespaces; return whether it was done before the child died."""
    with in_child(lambda: _unshare(account), PATIENCE) as (child, reader), ExitStack() as opened:
        ready = select.select([reader], [], [], deadline.left())[0]
        told = os.read(reader, 16) if ready else b""
        if told.isdigit():
            _refuse(int(told))
        if told != _MADE:
            return False
        try:
            # From here on, the child may be stopped, but not dead.
            for name, extents in (("uid_map", ids.uids), ("gid_map", ids.gids)):
                Path(f"/proc/{child}/{name}").write_text(map_text(extents))
            user, network = (_open(child, kind, opened) for kind in ("user", "net"))
        except (FileNotFoundError, ProcessLookupError):
            return False
        mount_file(user, layout.user_namespace)
        mount_file(network, layout.network_namespace)
        return True


def _open(child: int, kind: str, opened: ExitStack) -> int:
    fd = os.open(f"/proc/{child}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    return fd


def _refuse(code: int) -> None:
    if code == _LIMIT:
        raise Refusal(
            "the kernel gives its user no more namespaces (user.max_user_namespaces, "
            "user.max_net_namespaces in sysctl): end other programs that hold some, or ask the "
            "administrator"
        )
    raise OSError(code, f"making the job's namespaces: {os.strerror(code)}")


def _unshare(account: Account) -> None:
    """Make the namespaces, tell it, and wait to be killed.

    The effective id alone is the user's: so the user owns the namespaces, and cannot trace this
    process. The capabilities stay, for kernels that let ordinary users make no user namespaces.
    """
    try:
        os.setgroups([])
        if _libc.prctl(_PR_SET_SECUREBITS, _NO_SETUID_FIXUP, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
        os.setegid(account.gid)
        os.seteuid(account.uid)
        unshare(NEW_USER | NEW_NETWORK)
    except OSError as error:
        os.write(ANSWER, str(error.errno).encode())
    else:
        os.write(ANSWER, _MADE)
        select.select([], [], [])
