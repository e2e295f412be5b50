"""Directories of the administrator's, such as /home, as a job's containers may see them.

Each is mounted once for a job, through ids of which only those of the job's user and her group
exist: what she owns is hers, and nothing that containers write there can be anybody else's. A
container's root would otherwise leave files that belong to one of the job's ids, which the user
herself cannot remove and which outlive the job.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.idmap import IdMap
from oar_lxc.layout import JobLayout
from oar_lxc.node import mounts
from oar_lxc.node.bounded import bounded
from oar_lxc.node.log import NodeLog

PATIENCE = 3.0  # seconds for one tree: the file server of one that takes longer does not answer
PLAIN = "plain"
IDMAPPED = "idmapped"
# What kernels say of file systems that know no such mounts; NFS is one.
_REFUSED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM)


def mount_trees(
    layout: JobLayout, trees: Sequence[str], uid: int, gid: int, log: NodeLog, deadline: float
) -> dict[str, str]:
    """Mount the trees for a job.

    No tree is worth a node: one that is not there, or whose file server does not answer, is left
    out, and the log says so.

    Args:
        layout: the job's names; its directory of trees exists.
        trees: absolute paths.
        uid: the job's user.
        gid: the user's group; where it is root's, no group exists in the trees.
        log: is told of each tree that is left out or has to be mounted as it is.
        deadline: monotonic time; trees get a third of what is left.

    Returns:
        Where each tree is that was mounted.
    """
    done: dict[str, str] = {}
    present = set(mounts.mounts_under(layout.trees))
    end = time.monotonic() + (deadline - time.monotonic()) / 3
    for number, tree in enumerate(trees):
        target = layout.trees / str(number)
        if target not in present:
            patience = max(0.1, min(PATIENCE, end - time.monotonic()))
            try:
                target.mkdir(mode=0o711, exist_ok=True)
                # In a child: whatever touches a directory of a dead file server waits for it.
                how = bounded(
                    lambda tree=tree, target=target: _mount(tree, target, uid, gid),  # type: ignore[misc]
                    patience,
                    f"to mount {tree}",
                )
            except (OSError, OarLxcError) as error:
                log.write("tree left out", "warning", tree=tree, error=str(error))
                continue
            if how == [PLAIN]:
                log.write("tree is not idmapped", "info", tree=tree)
        done[tree] = str(target)
    return done


def _mount(tree: str, target: Path, uid: int, gid: int) -> list[str]:
    source = Path(os.path.realpath(tree))  # the administrator's word, also where it is a link
    try:
        if not stat.S_ISDIR(source.stat().st_mode):
            raise OarLxcError("it is no directory")
        try:
            ids = IdMap.only(uid, gid)
            mounts.mount_idmapped(source, target, ids, writable=True, below=True)
            return [IDMAPPED]
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
        mounts.mount_idmapped(source, target, None, writable=True, below=True)
        return [PLAIN]
    except OSError as error:
        raise OarLxcError(f"{error.strerror}") from error
