"""Mount the administrator's trees, such as /home, for a job's containers.

Each tree is mounted once per job, through a map that has only the ids of the job's user and the
user's group. So the user's files keep their owner, and containers cannot write files of any other
owner. Otherwise a container's root would leave files with one of the job's ids, which the user
cannot remove and which outlive the job.

File systems that are mounted below a tree, such as each home by itself, are mounted one by one. So
if one of them cannot be mounted or idmapped, the others still are. File systems that users mount
there, by FUSE, are left out, as the job would depend on the user that serves them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.bounded import bounded
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.mounts import MountEntry, read_mounts
from oar_lxc.linux.node_log import NodeLog
from oar_lxc.model.idmap import IdMap
from oar_lxc.model.layout import JobLayout
from oar_lxc.root import idmapped
from oar_lxc.root.account import Account

PATIENCE = 3.0  # seconds for one tree; after that, its file server counts as dead
PLAIN = "plain"
IDMAPPED = "idmapped"
# Errors of kernels for file systems without idmapped mounts, such as NFS.
_REFUSED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM)


def mount_trees(
    layout: JobLayout,
    trees: Sequence[str],
    account: Account,
    log: NodeLog,
    deadline: Deadline,
) -> dict[str, str]:
    """Mount the trees for a job.

    A tree that does not exist, or whose file server does not answer, is left out and logged. It is
    no failure of the node.

    Args:
        layout: the job's names; its directory of trees exists.
        trees: absolute paths.
        account: the job's user. Mounts on the path of the user's home come first. If the user's
            group is root's, the map has no group.
        log: gets a line for each tree that is left out or cannot be idmapped.
        deadline: by when all must be over; the trees get a third of the time left.

    Returns:
        The mount point of each mounted tree.
    """
    done: dict[str, str] = {}
    present = set(idmapped.mounts_under(layout.trees))
    end = deadline.part(1 / 3)
    for number, tree in enumerate(trees):
        target = layout.trees / str(number)
        if target not in present:
            source = _attempt(tree, tree, target, account, log, end)
            if source is None:
                continue
            for point in _points_below(source, account.home):
                here = target / point.relative_to(source)
                _attempt(tree, str(point), here, account, log, end)
        done[tree] = str(target)
    return done


def _attempt(
    tree: str, source: str, target: Path, account: Account, log: NodeLog, end: Deadline
) -> Path | None:
    """Mount a tree, or a file system below it; return its real path, or None if that failed."""
    patience = min(PATIENCE, end.timeout())
    try:
        if source == tree:
            target.mkdir(mode=0o711, exist_ok=True)
        # In a child, as each access to a directory of a dead file server blocks.
        act = partial(_mount, source, target, account, follow=source == tree)
        how, real = bounded(act, patience, f"to mount {source}")
    except (OSError, OarLxcError) as error:
        log.write("tree left out", "warning", tree=source, error=str(error))
        return None
    if how == PLAIN:
        log.write("tree is not idmapped", "info", tree=source)
    return Path(real)


def _points_below(source: Path, home: Path) -> list[Path]:
    """Return the mount points below a tree, except those of users; the home's come first."""
    found = [mount for mount in read_mounts(below=source) if mount.point != source]
    theirs = {mount.id for mount in found if _is_of_a_user(mount)}
    while more := {m.id for m in found if m.parent in theirs} - theirs:
        theirs |= more
    points = dict.fromkeys(mount.point for mount in found if mount.id not in theirs)
    return sorted(points, key=lambda point: (not home.is_relative_to(point), len(point.parts)))


def _is_of_a_user(mount: MountEntry) -> bool:
    """Whether a user other than root made a FUSE mount, by the options that fusermount sets."""
    owners = {x.removeprefix("user_id=") for x in mount.options if x.startswith("user_id=")}
    return mount.kind.startswith("fuse") and bool(owners - {"0"})


def _mount(tree: str, target: Path, account: Account, *, follow: bool) -> list[str]:
    # The administrator's own path may be a link. Below it users may make links: follow none.
    source = Path(os.path.realpath(tree)) if follow else Path(tree)
    id_map = IdMap.only(account.uid, account.gid)
    try:
        with idmapped.open_point(source) as fd, idmapped.open_point(target) as onto:
            if not stat.S_ISDIR(os.stat(fd).st_mode):
                raise OarLxcError("it is no directory")
            try:
                idmapped.mount_idmapped(fd, onto, id_map, writable=True)
                return [IDMAPPED, str(source)]
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
            idmapped.mount_idmapped(fd, onto, None, writable=True)
            return [PLAIN, str(source)]
    except OSError as error:
        raise OarLxcError(f"{error.strerror}") from error
