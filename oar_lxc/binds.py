"""What containers see of the node: the user's home, and directories and files that she names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from oar_lxc import rootpath
from oar_lxc.errors import SpecError
from oar_lxc.lxcconfig import Bind
from oar_lxc.plan import PlannedContainer
from oar_lxc.published import PublishedJob
from oar_lxc.spec import Mount


def binds_of(
    published: PublishedJob, planned: PlannedContainer, home: str, rootfs: Path
) -> list[Bind]:
    """Return what a container is to see of this node.

    Args:
        published: what the root side says of the node.
        planned: the container.
        home: the user's home directory.
        rootfs: the root directory of the container's image.

    Raises:
        SpecError: something does not exist, or the user may not read it or write to it.
    """
    return list(_binds(published, planned, home, rootfs))


def _binds(
    published: PublishedJob, planned: PlannedContainer, home: str, rootfs: Path
) -> Iterator[Bind]:
    where = f"group {planned.group}"
    if planned.home:
        yield _bind(published, Mount(home, home, writable=True), f"{where}: home", rootfs)
    for mount in planned.mounts:
        yield _bind(published, mount, f"{where}: mount", rootfs)


def _bind(published: PublishedJob, mount: Mount, what: str, rootfs: Path) -> Bind:
    source = Path(os.path.realpath(mount.source))
    if not source.exists():
        raise SpecError(f"{what} {mount.source} does not exist")
    directory = source.is_dir()
    if not os.access(source, os.R_OK | (os.X_OK if directory else 0)):
        raise SpecError(f"{what} {mount.source} cannot be read by {published.user}")
    shown = _in_tree(source, published.trees)
    if mount.writable:
        if shown is None:
            trees = ", ".join(published.trees) or "none"
            raise SpecError(
                f"{what} {mount.source} cannot be writable: it is not below a directory that the "
                f"administrator gives to containers ({trees}); mount it read-only"
            )
        if not os.access(source, os.W_OK):
            raise SpecError(f"{what} {mount.source} cannot be written to by {published.user}")
    target = Path(rootpath.resolve(rootfs, mount.target))
    if target == Path("/"):
        raise SpecError(f"{what} {mount.source}: its target {mount.target} is the root directory")
    return Bind(shown or source, target, mount.writable, directory)


def _in_tree(source: Path, trees: Mapping[str, str]) -> Path | None:
    """Return where a path is below one of the job's trees; None where it is below none."""
    for tree, here in trees.items():
        root = Path(os.path.realpath(tree))
        if source.is_relative_to(root):
            return Path(here) / source.relative_to(root)
    return None
