"""The directories and files of the node that containers see: the user's home, and the mounts."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from oar_lxc.container.lxc_config import Bind
from oar_lxc.errors import SpecError
from oar_lxc.linux import rootpath
from oar_lxc.model.plan import PlannedContainer
from oar_lxc.model.published import PublishedJob
from oar_lxc.model.spec import Mount


def binds_of(
    published: PublishedJob, planned: PlannedContainer, home: str, rootfs: Path
) -> list[Bind]:
    """Return the directories and files of this node that a container will see.

    Args:
        published: what root says of this node.
        planned: the container.
        home: the user's home directory.
        rootfs: the root directory of the container's image.

    Raises:
        SpecError: a source does not exist, the user may not read it or write to it, or it cannot
            be mounted at its target.
    """
    binds = []
    mounted = {Path("/"): rootfs}  # target in the container → directory on the node; later last
    for key, mount in _mounts(planned, home):
        what = f"group {planned.group}: {key} {mount.source}"
        bind = _bind(published, mount, what, rootfs)
        _check_target(bind, mounted, f"{what}: its target {mount.target}")
        mounted.pop(bind.target, None)
        mounted[bind.target] = Path(os.path.realpath(mount.source))
        binds.append(bind)
    return binds


def _mounts(planned: PlannedContainer, home: str) -> Iterator[tuple[str, Mount]]:
    if planned.home:
        yield "home", Mount(home, home, writable=True)
    for mount in planned.mounts:
        yield "mount", mount


def _bind(published: PublishedJob, mount: Mount, what: str, rootfs: Path) -> Bind:
    source = Path(os.path.realpath(mount.source))
    if not source.exists():
        raise SpecError(f"{what} does not exist")
    directory = source.is_dir()
    if not os.access(source, os.R_OK | (os.X_OK if directory else 0)):
        raise SpecError(f"{what} cannot be read by {published.user}")
    shown = _in_tree(source, published.trees)
    if shown and not _is_same(source, shown):
        raise SpecError(
            f"{what} is on a file system that jobs do not get, such as one that a user mounted "
            "(FUSE): copy what the container needs to another directory"
        )
    if mount.writable:
        if shown is None:
            trees = ", ".join(published.trees) or "none"
            raise SpecError(
                f"{what} cannot be writable: it is not below a directory that the "
                f"administrator gives to containers ({trees}); mount it read-only"
            )
        if not os.access(source, os.W_OK):
            raise SpecError(f"{what} cannot be written to by {published.user}")
    target = Path(rootpath.resolve(rootfs, mount.target))
    if target == Path("/"):
        raise SpecError(f"{what}: its target {mount.target} is the root directory")
    return Bind(shown or source, target, mount.writable, directory)


def _is_same(source: Path, shown: Path) -> bool:
    """Whether a path in the job's tree is the same file or directory as on the node."""
    try:
        return os.path.samestat(source.stat(), shown.stat())
    except FileNotFoundError:
        return False


def _check_target(bind: Bind, mounted: Mapping[Path, Path], what: str) -> None:
    """Refuse a target on which LXC cannot mount: LXC tells the reason only in its log.

    In the image's part of the container, LXC makes a missing target in the upper directory. In a
    directory that is mounted from the node it cannot: the directory is read-only, or belongs to
    ids that the container's root does not have.

    Args:
        bind: the mount to check.
        mounted: the mounts before it: target in the container → directory on the node.
        what: the beginning of errors.
    """
    over = [path for path in mounted if bind.target.is_relative_to(path)][-1]
    inside, here = over, mounted[over]
    parts = bind.target.relative_to(over).parts
    for number, part in enumerate(parts):
        inside, here = inside / part, here / part
        try:
            mode = here.lstat().st_mode
        except FileNotFoundError:
            if over == Path("/"):
                return
            place = mounted[over].joinpath(*parts)
            raise SpecError(
                f"{what} cannot be made in what is mounted at {over}: make {place} on the node "
                "first, or choose another target"
            ) from None
        except NotADirectoryError:
            raise SpecError(
                f"{what} is below {inside.parent}, which is a file: choose another target"
            ) from None
        except OSError:
            return  # we may not look there: LXC will report an error if there is one
        if stat.S_ISLNK(mode):
            raise SpecError(f"{what} leads over the link {inside}: choose another target")
        last = number == len(parts) - 1
        if last and stat.S_ISDIR(mode) != bind.directory:
            kinds = ("a file", "a directory")
            raise SpecError(
                f"{what} is {kinds[not bind.directory]} in the container, and the source "
                f"{kinds[bind.directory]}: choose another target"
            )


def _in_tree(source: Path, trees: Mapping[str, str]) -> Path | None:
    """Return where the job's trees have a path of the node; None if it is in no tree."""
    for tree, here in trees.items():
        root = Path(os.path.realpath(tree))
        if source.is_relative_to(root):
            return Path(here) / source.relative_to(root)
    return None
