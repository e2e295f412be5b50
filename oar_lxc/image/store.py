"""Stores of images: directories in which each image is either complete or absent.

A node's public store has unpacked images (``rootfs``). A user's private store has archives
(``rootfs.tar.zst``), and so has a public store on a file system that cannot shift ids.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from oar_lxc.errors import ImageError, OarLxcError
from oar_lxc.image.record import RECORD, ImageRecord
from oar_lxc.linux.atomic import sync_directory
from oar_lxc.linux.lock import take
from oar_lxc.linux.removal import remove_tree
from oar_lxc.linux.run import NONE, run
from oar_lxc.linux.store_access import keep_from_containers, why_open
from oar_lxc.model.events import Image
from oar_lxc.model.image_name import ImageName
from oar_lxc.model.layout import IMAGES, STATE

PUBLIC_STORE = STATE / IMAGES
ROOTFS = "rootfs"
ARCHIVE = "rootfs.tar.zst"
PRIVATE = Path(".local/share/oar-lxc/images")  # below the user's home

_HALF = ".half-"
_LOCK = ".lock"
_PATIENCE = 120.0  # seconds to wait for a lock, which others hold only for a moment
_TRIES = 100  # to lock a store that others remove and make again meanwhile
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_GOING = (errno.ENOENT, errno.EEXIST, errno.ESTALE)  # errors in a store that is being removed


class Store:
    """A directory of images.

    Args:
        root: the directory; need not exist.
        archives: whether images are kept packed.
        transient: whether the directory is removed with the last image.
    """

    def __init__(
        self, root: Path = PUBLIC_STORE, *, archives: bool = False, transient: bool = False
    ) -> None:
        self.root = root
        self.archives = archives
        self.transient = transient

    @classmethod
    def private(cls, home: Path | None = None) -> Store:
        """Return the store of a user's own images, below the home directory."""
        return cls((home or Path.home()) / PRIVATE, archives=True, transient=True)

    def names(self) -> list[ImageName]:
        """Return the names of the images; a missing directory has none.

        Raises:
            ImageError: the caller may not list the directory.
        """
        try:
            found = os.listdir(self.root)
        except FileNotFoundError:
            return []
        except PermissionError as error:
            raise ImageError(
                f"only root may look into {self.root}: run this in a job of type lxc, or as root"
            ) from error
        names = filter(None, map(ImageName.of_directory, found))
        return sorted(name for name in names if self.has(name))

    def has(self, name: ImageName) -> bool:
        """Whether there is an image of this name."""
        directory = self.directory(name)
        return (directory / ROOTFS).is_dir() or (directory / ARCHIVE).is_file()

    def shows(self, name: ImageName) -> bool:
        """Whether there is an image of this name that the caller may see."""
        try:
            return self.has(name)
        except OSError:
            return False

    def directory(self, name: ImageName) -> Path:
        """Return the directory of an image, whether the image exists or not."""
        return self.root / name.directory

    def record(self, name: ImageName) -> ImageRecord:
        """Return the record of an image.

        Raises:
            ImageError: there is no such image; the message names those that exist.
        """
        self.require(name)
        return ImageRecord.read(self.directory(name), name)

    def identified(self, name: ImageName) -> ImageRecord:
        """Return the record of an image that has a digest.

        Raises:
            ImageError: there is no such image, or it has no digest.
        """
        record = self.record(name)
        if not record.digest:
            raise ImageError(f"image {name} in {self.root} has no digest: import it anew")
        return record

    def refuse_changed(self, record: ImageRecord, digest: str) -> None:
        """Refuse an image that was changed after its publication.

        Raises:
            ImageError: ``digest`` is not the digest in the record.
        """
        if digest != record.digest:
            raise ImageError(
                f"image {record.image} in {self.root} was changed: its digest is {digest}, it "
                f"was published with {record.digest}; remove it and import it anew"
            )

    def require(self, name: ImageName) -> None:
        """Make sure that an image exists.

        Raises:
            ImageError: there is no such image.
        """
        if not self.has(name):
            known = ", ".join(map(str, self.names())) or "none"
            raise ImageError(f"image {name} does not exist in {self.root}; images there: {known}")

    def refuse_existing(self, name: ImageName) -> None:
        """Refuse the name of an existing image, as images never change.

        Raises:
            ImageError: there is an image of this name.
        """
        if os.path.lexists(self.directory(name)):
            raise ImageError(
                f"image {name} exists already in {self.root}: give another tag, or remove it with "
                f"`oar-lxc image rm {name}`"
            )

    @contextmanager
    def half(self) -> Iterator[Path]:
        """Make a directory for a half-made image; it is removed at the end of the block.

        Directories that killed programs left behind are removed first.

        Raises:
            ImageError: the caller may not write to the store.
        """
        with self._locked():
            self._sweep()
            half = _make_directory(self.root)
            mine = _lock(half / _LOCK)
        try:
            yield half
        finally:
            os.close(mine)  # first: on NFS, an open file keeps its directory
            with suppress(OarLxcError):  # the next caller sweeps it
                remove_tree(half)
            self._vanish()

    def publish(self, half: Path, record: ImageRecord) -> Path:
        """Write a half-made image to disk, and then give it its name atomically.

        Returns:
            The image's directory.

        Raises:
            ImageError: another process has published an image of this name meanwhile.
        """
        name = record.image
        (half / RECORD).write_text(record.to_json())
        run(["sync", "--file-system", str(half)], timeout=600)
        final = self.directory(name)
        with self._locked():
            self.refuse_existing(name)
            (half / _LOCK).unlink()
            half.chmod(0o700 if self._is_private else 0o755)
            if not self._is_private:
                os.chown(half, 0, 0)
            os.rename(half, final)
            sync_directory(self.root)
        return final

    def remove(self, name: ImageName) -> None:
        """Remove an image; it disappears atomically, before its files are removed.

        Raises:
            ImageError: there is no such image.
        """
        self.require(name)
        with self._locked():
            self.require(name)  # another process may have removed it
            trash = _make_directory(self.root)
            os.rename(self.directory(name), trash / name.directory)
            sync_directory(self.root)
        remove_tree(trash)
        self._vanish()

    @property
    def _is_private(self) -> bool:
        return os.geteuid() != 0

    def _make_root(self) -> None:
        # Images hold programs that are set-user-id root, so only root may enter the store.
        if not self._is_private and (why := why_open(self.root)):
            raise ImageError(why)
        self.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.mkdir(mode=0o700 if self._is_private else 0o755, exist_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Make the store and lock it while images are named, swept or removed.

        Raises:
            ImageError: the caller may not write to the store.
        """
        fd = self._take_lock()
        try:
            yield
        finally:
            os.close(fd)

    def _take_lock(self) -> int:
        path = self.root / _LOCK
        why = ""
        for _ in range(_TRIES):
            fd = NONE
            try:
                self._make_root()
                fd = _lock(path)
                if os.path.samestat(os.fstat(fd), path.stat()):
                    return fd
            except OSError as error:
                if error.errno == errno.ETIMEDOUT:
                    raise ImageError(
                        f"images in {self.root} stayed locked for {_PATIENCE:g} s by another "
                        f"command (fuser {path} tells which): try again when it has ended"
                    ) from error
                if error.errno in _REFUSED:
                    raise ImageError(f"images in {self.root} are made by root: {error}") from error
                if error.errno not in _GOING:
                    raise
                why = os.strerror(error.errno)
            # During the wait, the store was removed, and the lock with it.
            if fd != NONE:
                os.close(fd)
        raise ImageError(f"cannot make the directory {self.root}: {why}")

    def _vanish(self) -> None:
        """Remove a transient store that has no image and no half-made one.

        This is safe: a process that gets the lock checks that it is still the store's.
        """
        if not self.transient:
            return
        with suppress(OSError, ImageError):
            with self._locked():
                self._sweep()
                if os.listdir(self.root) == [_LOCK]:
                    (self.root / _LOCK).unlink()
            self.root.rmdir()  # fails if the store is in use
            self.root.parent.rmdir()

    def _sweep(self) -> None:
        """Remove half-made images that no process works on."""
        for half in self.root.glob(f"{_HALF}*"):
            try:
                fd = os.open(half / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                with suppress(OarLxcError):
                    remove_tree(half)
                continue
            try:
                if take(fd, 0):  # else a process works on it
                    with suppress(OarLxcError):
                        remove_tree(half)
            finally:
                os.close(fd)


def _lock(path: Path) -> int:
    """Open and lock a file; a container's root, which sees it in a job's mount, may not.

    Raises:
        OSError: other processes held the lock all the time (ETIMEDOUT).
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        keep_from_containers(fd)
        if take(fd, _PATIENCE):
            return fd
        raise TimeoutError(errno.ETIMEDOUT, "it stayed locked", str(path))
    except BaseException:
        os.close(fd)
        raise


def facts_of(record: ImageRecord, whose: str, store: Store) -> Image:
    """Return all facts of an image, in the form for people and programs."""
    path = str(store.directory(record.image))
    return Image(image=str(record.image), whose=whose, **asdict(record), path=path)


def _make_directory(parent: Path) -> Path:
    """Make a directory for an image that is half made or half removed."""
    import tempfile  # slow to import, so not for launches, which never call this

    made = Path(tempfile.mkdtemp(prefix=_HALF, dir=parent))
    keep_from_containers(made)
    return made
