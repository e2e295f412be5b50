"""Give a running job the root file systems of its images on a node.

Unpacked public images are used where they are. Archives, mostly a user's own, are unpacked once
per job and node. The job's user does that with the job's ids; root takes no part.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from oar_lxc.errors import CommandError, ImageError
from oar_lxc.image.record import RECORD, ImageRecord
from oar_lxc.image.store import ARCHIVE, ROOTFS, Store
from oar_lxc.linux.lock import locked
from oar_lxc.linux.run import run
from oar_lxc.model.idmap import NOBODY
from oar_lxc.model.image_name import ImageName
from oar_lxc.model.layout import JobLayout

BecomeRoot = Callable[[], object]


def provide(layout: JobLayout, name: str, home: Path, become_root: BecomeRoot) -> Path:
    """Return the root file system of an image; unpack it for this job if needed.

    Public images come first, then those that were pushed to this node for the job, then those in
    the user's home.

    Args:
        layout: the job's names.
        name: the image.
        home: the user's home directory.
        become_root: makes a process the containers' root, before it runs a program.

    Raises:
        ImageError: there is no such image, or it was changed after its publication.
    """
    parsed = ImageName.parse(name)
    stores = own_stores(layout, home)
    for store in (Store(layout.images), *stores):
        if not store.shows(parsed):
            continue
        rootfs = store.directory(parsed) / ROOTFS
        if not rootfs.is_dir():
            return _unpack(layout, store, parsed, become_root)
        if rootfs.stat().st_uid == NOBODY:
            raise ImageError(
                f"image {parsed} is unpacked on a file system that cannot shift ids, where it is "
                "of no use: ask the administrator to import it with --archive"
            )
        return rootfs
    known = ", ".join(map(str, Store(layout.images).names())) or "none"
    own = ", ".join(str(one) for store in stores for one in _names(store))
    raise ImageError(
        f"image {parsed} does not exist on this node; images here: {known}"
        + (f"; your own: {own}" if own else "")
    )


def own_stores(layout: JobLayout, home: Path) -> tuple[Store, Store]:
    """Return the stores of a user's own images: those pushed to this node, and those at home."""
    return pushed_store(layout), Store.private(home)


def pushed_store(layout: JobLayout) -> Store:
    """Return the store of the images that were pushed to this node for a job."""
    return Store(layout.pushed_images, archives=True)


def _names(store: Store) -> list[ImageName]:
    try:
        return store.names()
    except (ImageError, OSError):
        return []


def halt_signal_of_image(rootfs: Path) -> str:
    """Return the signal on which an image's init shuts down."""
    name = ImageName("image")  # the name does not matter here
    try:
        return ImageRecord.read(rootfs.parent, name).halt_signal
    except ImageError:
        return ImageRecord(name.name, name.tag).halt_signal


def _unpack(layout: JobLayout, store: Store, name: ImageName, become_root: BecomeRoot) -> Path:
    """Unpack an archive for the job, unless it is there already."""
    record = store.identified(name)
    place = layout.unpacked_images
    _make_directory(place)
    final = place / record.digest.partition(":")[2]
    if (final / ROOTFS).is_dir():
        return final / ROOTFS  # without the lock, which another launch may hold for another image
    with locked(place / ".lock"):  # launches of the job unpack one after the other
        if not (final / ROOTFS).is_dir():
            half = place / ".half"
            _remove(half, become_root)
            try:
                _unpack_into(half, store, record, become_root)
                os.rename(half, final)
            except BaseException:
                _remove(half, become_root)
                raise
    return final / ROOTFS


def _unpack_into(half: Path, store: Store, record: ImageRecord, become_root: BecomeRoot) -> None:
    # Slow to import, so not for launches of public images.
    from oar_lxc.image.importing import UNPACK, as_image_error, pump
    from oar_lxc.image.sources import open_archive

    _make_directory(half)
    name = record.image
    archive = store.directory(name) / ARCHIVE
    rootfs = str(half / ROOTFS)
    make = ["sh", "-c", 'mkdir -m 755 "$0" && exec "$@"', rootfs]
    with as_image_error(f"image {name}", store), open_archive(archive) as stream:
        argv = [*make, *UNPACK, "-C", rootfs]
        manifest = pump(stream, argv, lambda size: None, first=become_root)
    store.refuse_changed(record, manifest.digest())
    shutil.copyfile(store.directory(name) / RECORD, half / RECORD)


def _make_directory(path: Path) -> None:
    """Make a directory that the containers' root may enter by the inherited group."""
    path.mkdir(exist_ok=True)
    path.chmod(0o2770)


def _remove(half: Path, become_root: BecomeRoot) -> None:
    """Remove a half-unpacked image; its files belong to the containers' root."""
    if half.exists():
        argv = ["rm", "-rf", "--", str(half / ROOTFS)]
        run(argv, timeout=600, check=False, first=become_root)
        try:
            run(["rm", "-rf", "--", str(half)], timeout=600)
        except CommandError as error:
            raise ImageError(f"cannot remove {half}: {error.stderr.strip()}") from error
