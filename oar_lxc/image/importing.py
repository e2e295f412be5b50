"""Make an image from a tar stream in a store, and read images again to verify them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.errors import CommandError, ImageError, printable
from oar_lxc.image.manifest import Manifest, read_tree
from oar_lxc.image.pipeline import ingest
from oar_lxc.image.program_errors import need, no_room, reason_of
from oar_lxc.image.record import INIT, ImageRecord
from oar_lxc.image.sources import Stream, open_archive, open_source
from oar_lxc.image.store import ARCHIVE, ROOTFS, Store
from oar_lxc.image.tarstream import DamagedError, TruncatedError
from oar_lxc.linux.logger import get_logger
from oar_lxc.linux.removal import remove_tree
from oar_lxc.linux.run import Program, running
from oar_lxc.model.image_name import ImageName

_log = get_logger()

OnBytes = Callable[[int, int], None]  # bytes done, bytes in all (0: unknown)
Say = Callable[[str], None]
Follow = Callable[[Callable[[], str]], None]

# Names are checked already, so -P spares tar its own, slower protection against links. Blocks of
# 256 KiB: tar's default of 10 KiB takes a quarter more time.
UNPACK = [
    *("tar", "-xpPf", "-", "--blocking-factor=512", "--numeric-owner", "--same-owner"),
    *("--xattrs", "--xattrs-include=*"),
]
_TOP = (b"etc", b"bin", b"sbin", b"usr")  # every system has one of these
EARLY = 64 << 20  # bytes to unpack before each sync


def _quiet(done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Listener:
    """The functions that are called while an image is made.

    Attributes:
        say: gets each remark about the image, and each line about the progress.
        progress: gets the bytes done and in all.
        follow: gets a function that returns all that the program that builds wrote so far.
    """

    say: Say = lambda text: None
    progress: OnBytes = _quiet
    follow: Follow = lambda last: None


NOBODY = Listener()


def import_image(
    store: Store,
    name: ImageName,
    source: str,
    listener: Listener = NOBODY,
    *,
    expected: str = "",
    origin: str = "",
) -> ImageRecord:
    """Make an image from an archive, a directory, squashfs, or an image of OCI or Docker.

    Args:
        store: the store that gets it.
        name: its name; the store must not have it yet.
        source: see :func:`oar_lxc.image.sources.open_source`.
        listener: what is called meanwhile.
        expected: the digest that it must have; empty if unknown.
        origin: the source to write into its record; by default ``source``.

    Raises:
        ImageError: the import failed; nothing of it is left.
    """
    store.refuse_existing(name)
    importing = _log.step("import image", image=str(name), source=source)
    with importing, as_image_error(source, store), store.half() as half:
        scratch = half / "scratch"
        scratch.mkdir()
        with open_source(source, scratch) as stream:
            wanted = ImageRecord(name.name, name.tag, expected, source=origin or source)
            return publish_stream(store, half, wanted, stream, listener)


def publish_stream(
    store: Store, half: Path, wanted: ImageRecord, stream: Stream, listener: Listener = NOBODY
) -> ImageRecord:
    """Write the image of a stream into a half-made directory, and publish it.

    Args:
        store: the store that gets it.
        half: the directory, of :meth:`~oar_lxc.image.store.Store.half`.
        wanted: its name, its source and, if known, the digest that it must have.
        stream: what it is made from.
        listener: what is called meanwhile.

    Returns:
        The image's whole record.

    Raises:
        ImageError: the stream is not a valid image.
        CommandError: a program that writes or reads the stream failed.
    """
    name, say = wanted.image, listener.say
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        listener.progress(done, stream.size)

    manifest = _fill(half, stream, count, archive=store.archives)
    if not any(path in manifest.entries for path in _TOP):
        raise ImageError("it is no root file system: at its top there is no etc, bin, sbin or usr")
    for remark in stream.remarks:
        say(f"image {name}: {printable(remark)}")
    if manifest.left_out:
        devices = f"{manifest.left_out} device{'s' if manifest.left_out > 1 else ''}"
        say(
            f"image {name}: left out {devices} below /dev, as containers get theirs when they "
            "start"
        )
    if not manifest.leads(INIT):
        say(
            f"image {name} has no /sbin/init: containers of it cannot boot. Install one (as "
            "systemd-sysv, openrc or busybox-init) and import it under another tag"
        )
    record = ImageRecord.of(name, manifest, wanted.source)
    if wanted.digest and record.digest != wanted.digest:
        raise ImageError(f"its digest is {record.digest}, it should be {wanted.digest}")
    remove_tree(half / "scratch")
    store.publish(half, record)
    return record


def _fill(half: Path, stream: Stream, count: Callable[[int], None], *, archive: bool) -> Manifest:
    if archive:
        with (half / ARCHIVE).open("xb") as file:
            argv = [need("zstd", "zstd"), "-q", "-c", "-T0"]
            return pump(stream, argv, count, stdout=file.fileno(), complete=True)
    rootfs = half / ROOTFS
    rootfs.mkdir()
    with _written_early(half, count) as counted:
        return pump(stream, [*UNPACK, "-C", str(rootfs)], counted, complete=True)


@contextmanager
def _written_early(
    directory: Path, count: Callable[[int], None]
) -> Iterator[Callable[[int], None]]:
    """Sync now and then while an image is unpacked, so that the last sync takes little time.

    Args:
        directory: a directory on the file system that is written.
        count: called with each number of bytes that were unpacked.

    Yields:
        The function to call in the place of ``count``.

    Raises:
        CommandError: a sync failed. The kernel would not report the error to a later sync.
    """
    waiting = 0
    syncs: list[Program] = []  # one at most
    with ExitStack() as stack:

        def finish() -> None:
            while syncs:
                syncs.pop().finish()
                stack.close()

        def counted(size: int) -> None:
            nonlocal waiting
            count(size)
            waiting += size
            if waiting >= EARLY:
                waiting = 0
                finish()
                argv = ["sync", "--file-system", str(directory)]
                syncs.append(stack.enter_context(running(argv)))

        yield counted
        finish()


def pump(
    stream: Stream,
    argv: list[str] | None,
    count: Callable[[int], None],
    stdout: int | None = None,
    *,
    complete: bool = False,
    first: Callable[[], object] | None = None,
) -> Manifest:
    """Check a stream, and write it to a program.

    Args:
        stream: the archive.
        argv: the program; None only checks.
        count: called with each number of bytes that were read.
        stdout: the descriptor that the program writes to; None discards its output.
        complete: add missing mount points, see :func:`oar_lxc.image.pipeline.ingest`.
        first: called in the program's process before it starts.

    Raises:
        ImageError: the archive is not valid.
        CommandError: a program failed.
    """
    try:
        if argv is None:
            manifest = ingest(stream.source, None, count)
        else:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                out = nowhere if stdout is None else stdout
                with running(argv, stdout=out, first=first) as program:
                    try:
                        manifest = ingest(stream.source, program.stdin, count, complete=complete)
                    except BrokenPipeError:
                        program.finish()
                        raise
                    stream.finish()
                    program.finish()
                    return manifest
            finally:
                os.close(nowhere)
        stream.finish()
    except TruncatedError:
        stream.finish()  # the program that unpacks may raise a better error
        raise
    return manifest


def verify(store: Store, name: ImageName, progress: OnBytes = _quiet) -> ImageRecord:
    """Read all of an image and compare it with its digest.

    Raises:
        ImageError: it was changed after its publication, or has no digest.
    """
    record = store.identified(name)
    store.refuse_changed(record, read_manifest(store, name, progress).digest())
    return record


def read_manifest(store: Store, name: ImageName, progress: OnBytes = _quiet) -> Manifest:
    """Return the manifest of an image's files as they are now.

    Raises:
        ImageError: it cannot be read.
    """
    directory, total = store.directory(name), store.record(name).size
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress(done, total)

    with as_image_error(str(directory), store):
        if (directory / ROOTFS).is_dir():
            return read_tree(directory / ROOTFS, count)
        with open_archive(directory / ARCHIVE) as stream:
            return pump(stream, None, count)


@contextmanager
def as_image_error(
    source: str, store: Store, means: Callable[[CommandError], str] = reason_of
) -> Iterator[None]:
    """Turn each failure of the block into one sentence with the source and the reason.

    Args:
        source: the image's source, which the sentence names.
        store: the store of the image.
        means: returns the reason why a program failed.

    Raises:
        ImageError: the block failed.
    """
    try:
        yield
    except CommandError as error:
        full = no_room(error)
        where = f" into {store.root}" if full else ""
        raise ImageError(printable(f"{source}{where}: {full or means(error)}")) from error
    except DamagedError as error:
        raise ImageError(printable(f"{source} is damaged or cut short ({error})")) from error
    except ImageError as error:
        text = str(error)
        if text.startswith(source) or str(store.root) in text or "is not installed" in text:
            raise ImageError(printable(text)) from error
        raise ImageError(printable(f"{source}: {text}")) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ImageError(f"{source} into {store.root}: {error.strerror}") from error
        raise ImageError(f"{source}: {error}") from error
