"""Directories of the administrator's, such as /home, as a job's containers may see them.

Each is mounted once for a job, through ids of which only those of the job's user and the user's
group exist: the user's files stay the user's, and nothing that containers write there can be
anybody else's. A container's root would otherwise leave files that belong to one of the job's ids,
which the user cannot remove and which outlive the job.

What is mounted below a tree, such as each home by itself, is mounted one by one: where one cannot
be, or not through other ids, the others are as they should be. What users mount there, by FUSE, is
theirs and not the tree's: it is left out, as whoever else had it would depend on them.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.bounded import bounded
from oar_lxc.linux.log import NodeLog
from oar_lxc.linux.mounts import Mount, read_mounts
from oar_lxc.model.idmap import IdMap
from oar_lxc.model.layout import JobLayout
from oar_lxc.root import idmapped

PATIENCE = 3.0  # seconds for one tree: the file server of one that takes longer does not answer
PLAIN = "plain"
IDMAPPED = "idmapped"
# What kernels say of file systems that know no such mounts; NFS is one.
_REFUSED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM)


def mount_trees(
    layout: JobLayout,
    trees: Sequence[str],
    uid: int,
    gid: int,
    log: NodeLog,
    deadline: float,
    home: Path = Path("/"),
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
        home: the user's home: what is mounted for it below a tree comes first.

    Returns:
        Where each tree is that was mounted.
    """
    done: dict[str, str] = {}
    present = set(idmapped.mounts_under(layout.trees))
    end = time.monotonic() + (deadline - time.monotonic()) / 3
    for number, tree in enumerate(trees):
        target = layout.trees / str(number)
        if target not in present:
            source = _attempt(tree, tree, target, uid, gid, log, end)
            if source is None:
                continue
            for point in _points_below(source, home):
                here = target / point.relative_to(source)
                _attempt(tree, str(point), here, uid, gid, log, end)
        done[tree] = str(target)
    return done


def _attempt(
    tree: str, source: str, target: Path, uid: int, gid: int, log: NodeLog, end: float
) -> Path | None:
    """Mount a tree, or what is mounted below it; return what it is by its real name."""
    patience = max(0.1, min(PATIENCE, end - time.monotonic()))
    try:
        if source == tree:
            target.mkdir(mode=0o711, exist_ok=True)
        # In a child: whatever touches a directory of a dead file server waits for it.
        act = partial(_mount, source, target, uid, gid, follow=source == tree)
        how, real = bounded(act, patience, f"to mount {source}")
    except (OSError, OarLxcError) as error:
        log.write("tree left out", "warning", tree=source, error=str(error))
        return None
    if how == PLAIN:
        log.write("tree is not idmapped", "info", tree=source)
    return Path(real)


def _points_below(source: Path, home: Path) -> list[Path]:
    """Return what is mounted below a tree, but by users: what the job's user needs first."""
    found = [mount for mount in read_mounts(below=source) if mount.point != source]
    theirs = {mount.id for mount in found if _is_of_a_user(mount)}
    while more := {m.id for m in found if m.parent in theirs} - theirs:
        theirs |= more
    points = dict.fromkeys(mount.point for mount in found if mount.id not in theirs)
    return sorted(points, key=lambda point: (not home.is_relative_to(point), len(point.parts)))


def _is_of_a_user(mount: Mount) -> bool:
    """Whether somebody but root mounted a file system in user space, as fusermount writes it."""
    owners = {x.removeprefix("user_id=") for x in mount.options if x.startswith("user_id=")}
    return mount.kind.startswith("fuse") and bool(owners - {"0"})


def _mount(tree: str, target: Path, uid: int, gid: int, *, follow: bool) -> list[str]:
    # The administrator's own word may be a link. What is below is where users may put some.
    source = Path(os.path.realpath(tree)) if follow else Path(tree)
    try:
        with idmapped.open_point(source) as fd, idmapped.open_point(target) as onto:
            if not stat.S_ISDIR(os.stat(fd).st_mode):
                raise OarLxcError("it is no directory")
            try:
                idmapped.mount_idmapped(fd, onto, IdMap.only(uid, gid), writable=True)
                return [IDMAPPED, str(source)]
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
            idmapped.mount_idmapped(fd, onto, None, writable=True)
            return [PLAIN, str(source)]
    except OSError as error:
        raise OarLxcError(f"{error.strerror}") from error
