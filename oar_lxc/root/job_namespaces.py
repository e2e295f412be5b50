"""Make the namespaces that a job's user owns: one of users, and one of networks.

No process has to live for them: bind mounts below the job's directory keep them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
from pathlib import Path

from oar_lxc.linux.bounded import ANSWER, in_child
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.setns import NEW_NETWORK, NEW_USER, unshare
from oar_lxc.model.idmap import IdMap, map_text
from oar_lxc.model.layout import JobLayout
from oar_lxc.root.account import Account
from oar_lxc.root.idmapped import mount_file
from oar_lxc.root.refusal import Refusal

_PR_SET_SECUREBITS = 28
_NO_SETUID_FIXUP = 1 << 2
_MADE = b"made"
_LIMIT = errno.ENOSPC  # the kernel's word for user.max_user_namespaces and its like

_libc = ctypes.CDLL(None, use_errno=True)


def make(layout: JobLayout, account: Account, ids: IdMap, deadline: Deadline) -> None:
    """Make a job's namespaces, and keep them by files in the job's directory.

    Args:
        layout: the job's names; its directory exists, and ``namespaces`` in it is root's.
        account: the job's user, who will own the namespaces.
        ids: the job's ids.
        deadline: when to give up.

    Raises:
        Refusal: the user has no more namespaces left, or killed or stopped the process that makes
            them.
        OSError: the kernel refused.
    """
    with in_child(lambda: _unshare(account)) as (child, reader):
        ready = select.select([reader], [], [], deadline.left())[0]
        told = os.read(reader, 16) if ready else b""
        if told.isdigit():
            _refuse(int(told))
        if told != _MADE:
            raise Refusal(
                "the process that makes its namespaces was killed or stopped: submit the job again"
            )
        try:
            for name, extents in (("uid_map", ids.uids), ("gid_map", ids.gids)):
                Path(f"/proc/{child}/{name}").write_text(map_text(extents))
            for kind, path in (("user", layout.user_namespace), ("net", layout.network_namespace)):
                fd = os.open(f"/proc/{child}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    mount_file(fd, path)
                finally:
                    os.close(fd)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise Refusal(
                "the process that makes its namespaces was killed: submit the job again"
            ) from error


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
