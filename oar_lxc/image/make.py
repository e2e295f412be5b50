"""Make an image of a tar stream in a store, and read again what is there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from oar_lxc.errors import CommandError, ImageError, printable
from oar_lxc.image.manifest import Manifest, read_tree
from oar_lxc.image.pipeline import ingest
from oar_lxc.image.record import INIT, Record
from oar_lxc.image.sources import Stream, open_archive, open_source
from oar_lxc.image.store import ARCHIVE, ROOTFS, Store
from oar_lxc.image.tarstream import DamagedError, TruncatedError
from oar_lxc.image.words import meaning, need, no_room
from oar_lxc.linux.removal import remove_tree
from oar_lxc.linux.run import Program, running
from oar_lxc.model.image_name import ImageName

Progress = Callable[[int, int], None]  # bytes done, bytes in all (0: unknown)
Say = Callable[[str], None]

# Names are plain and checked: -P spares tar the detour by which it guards links itself. By default
# it reads and writes 10 KiB at a time, and takes a quarter more time.
UNPACK = [
    *("tar", "-xpPf", "-", "--blocking-factor=512", "--numeric-owner", "--same-owner"),
    *("--xattrs", "--xattrs-include=*"),
]
_TOP = (b"etc", b"bin", b"sbin", b"usr")  # every system has one of these
EARLY = 64 << 20  # bytes that are unpacked before the disk is told to write them


def _quiet(done: int, total: int) -> None:
    pass


def import_image(
    store: Store,
    name: ImageName,
    source: str,
    progress: Progress = _quiet,
    say: Say = lambda text: None,
    *,
    expected: str = "",
    origin: str = "",
) -> Record:
    """Make an image of an archive, a directory, squashfs or an image of OCI or Docker.

    Args:
        store: where it goes.
        name: its name, which nothing there has yet.
        source: see :func:`oar_lxc.image.sources.open_source`.
        progress: is told how far it is.
        say: is told what is worth knowing of the image.
        expected: the digest that it must have, where that is known.
        origin: what its record says of the source, where that is not where it is read from.

    Raises:
        ImageError: it cannot be; nothing of it is left.
    """
    store.refuse_existing(name)
    with one_sentence(source, store), store.half() as half:
        scratch = half / "scratch"
        scratch.mkdir()
        with open_source(source, scratch) as stream:
            return publish_stream(
                store, half, name, stream, origin or source, progress, say, expected=expected
            )


def publish_stream(
    store: Store,
    half: Path,
    name: ImageName,
    stream: Stream,
    source: str,
    progress: Progress = _quiet,
    say: Say = lambda text: None,
    *,
    expected: str = "",
) -> Record:
    """Take an image from a stream into a half-made directory, and publish it.

    Raises:
        ImageError: the stream is not what it should be.
        CommandError: a program that makes or takes it failed.
    """
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress(done, stream.size)

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
    record = Record.of(name, manifest, source)
    if expected and record.digest != expected:
        raise ImageError(f"its digest is {record.digest}, it should be {expected}")
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
    """Let the disk write what is unpacked while the rest is: little is left to wait for then.

    Args:
        directory: on the file system that is written.
        count: is told how many bytes were unpacked, each time some were.

    Yields:
        What is to be told that instead.

    Raises:
        CommandError: it cannot be written. Whoever syncs next would not hear of it again.
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
) -> Manifest:
    """Check a stream and feed a program with it.

    Args:
        stream: the archive.
        argv: the program; None only checks.
        count: is told how many bytes were read, each time some were.
        stdout: where the program writes; nowhere where None.
        complete: add what every image has to have, see :func:`oar_lxc.image.pipeline.ingest`.

    Raises:
        ImageError: what is wrong with the archive.
        CommandError: a program failed.
    """
    try:
        if argv is None:
            manifest = ingest(stream.source, None, count)
        else:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                with running(argv, stdout=nowhere if stdout is None else stdout) as program:
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
        stream.finish()  # the program before it knows better
        raise
    return manifest


def verify(store: Store, name: ImageName, progress: Progress = _quiet) -> Record:
    """Read all of an image and compare it with its digest.

    Raises:
        ImageError: it is not what was published, or has no digest.
    """
    record = store.identified(name)
    store.refuse_changed(record, read_manifest(store, name, progress).digest())
    return record


def read_manifest(store: Store, name: ImageName, progress: Progress = _quiet) -> Manifest:
    """Return all that an image's tree holds, as it is now.

    Raises:
        ImageError: it cannot be read.
    """
    directory, total = store.directory(name), store.record(name).size
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress(done, total)

    with one_sentence(str(directory), store):
        if (directory / ROOTFS).is_dir():
            return read_tree(directory / ROOTFS, count)
        with open_archive(directory / ARCHIVE) as stream:
            return pump(stream, None, count)


@contextmanager
def one_sentence(
    source: str, store: Store, means: Callable[[CommandError], str] = meaning
) -> Iterator[None]:
    """Let every failure name the source and say why, once.

    Args:
        source: what fails.
        store: where an image of it was to be.
        means: says what it means that a program failed.

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
