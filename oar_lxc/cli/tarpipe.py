"""A container's tar as one side of a copy: it sends members, or takes them."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import IO, Any

from oar_lxc.copying import CopyError, Place, split_path
from oar_lxc.extract import CHUNK, Complain, Readable

Door = Callable[[Sequence[str]], list[str]]

# Prints what it cannot read on standard error, as `PATH: REASON`. A link that is named is
# followed, but not those below it, for which neither GNU tar nor busybox has an option.
SEND = r"""
path=$1
[ -e "$path" ] || { echo "$path: No such file or directory" >&2; exit 3; }
command -v tar >/dev/null || { echo "there is no tar in this container" >&2; exit 3; }
if [ "$3" = . ]; then cd -- "$path"; else cd -- "$2"; fi || exit 3
what=./$3
follow=
[ -L "$what" ] && if [ -d "$what" ]; then what=$what/.; else follow=-h; fi
exec tar -cf - $follow -- "$what"
"""
# Says first what becomes of it: "into" a directory, "as" something new, "over" a file.
RECEIVE = r"""
path=$1
command -v tar >/dev/null || { echo "there is no tar in this container" >&2; exit 3; }
if [ -d "$path" ]; then answer=into; directory=$path
elif [ "$3" = into ]; then echo "$path: No such directory" >&2; exit 3
else answer=as; directory=$2
    [ -e "$path" ] && answer=over
    [ -d "$directory" ] || { echo "$directory: No such directory" >&2; exit 3; }
fi
cd -- "$directory" || exit 3
keep=
tar --version 2>/dev/null | grep -q GNU && keep=--keep-directory-symlink
echo $answer
exec tar -xpf - $keep
"""


class _Process:
    """The tar of a container, at the other end of two pipes, and what it says."""

    inside = True

    def __init__(self, argv: Sequence[str], place: Place, *, reads: bool) -> None:
        self.place = place
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # wait() closes it
        self.process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._said,
            bufsize=0,
        )

    def wait(self, complain: Complain) -> None:
        """Wait for its end, and tell what it said.

        Raises:
            CopyError: it failed; the message is the last that it said.
        """
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        status = self.process.wait()
        said = self.said()
        if status == 0:
            for line in said:
                complain(self._label(line))
            return
        for line in said[:-1]:
            complain(self._label(line))
        why = said[-1] if said else f"tar ended with status {status} and without a word"
        raise CopyError(self._label(why))

    def _label(self, line: str) -> str:
        """Return what it said with where that was: ``42/vm1:/a: No such file or directory``."""
        return f"{self.place.container}:{'' if line.startswith('/') else ' '}{line}"

    def close(self) -> None:
        """End a tar that is not at its end: what it has read is no whole archive."""
        if self._said.closed:
            return
        with suppress(OSError):  # oarsh is not ours to kill; the pipes' end does it as well
            self.process.kill()
        with suppress(CopyError):
            self.wait(_ignore)

    def said(self) -> list[str]:
        """Return the lines that it wrote to its standard error."""
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").splitlines()
        self._said.close()
        lines = [
            _printable(line.removeprefix("tar: ").removeprefix("oar-lxc: ")) for line in lines
        ]
        needless = ("Exiting with failure status", "Error is not recoverable")
        return [line.replace("./", "", 1) for line in lines if not line.startswith(needless)]


def _end(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise CopyError("there is no pipe")
    return pipe


def _printable(text: str) -> str:
    """Return text that a container sent without what would act on a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


class ContainerSource(_Process):
    """Members that a container's tar sends.

    Args:
        place: what to copy.
        door: returns the command that runs a command in the container.
        complain: is given one sentence for each thing that is left out.
    """

    def __init__(self, place: Place, door: Door, complain: Complain) -> None:
        directory, self.name = split_path(place.path)
        self._complain = complain
        script = ["sh", "-c", SEND, "sh", place.path, directory, self.name]
        super().__init__(door(script), place, reads=False)

    def members(self) -> Iterator[tuple[tarfile.TarInfo, Readable | None]]:
        """Yield what comes.

        Raises:
            CopyError: it is no archive, or ends before its end.
        """
        pipe = _end(self.process.stdout)
        try:
            # As large as a record of tar's: the first read must not wait for more than there is.
            whole: Any = _Whole(pipe)  # tarfile's types want more than it uses
            with tarfile.open(fileobj=whole, mode="r|", bufsize=10240) as archive:
                for member in archive:
                    yield member, archive.extractfile(member) if member.isreg() else None
        except (tarfile.TarError, RecursionError, MemoryError, ValueError, OverflowError) as error:
            self.finish()  # where tar said why, that is the reason
            why = "what it sends is no archive, or was cut off"
            raise CopyError(f"{self.place}: {why}") from error
        for _ in iter(lambda: pipe.read(CHUNK), b""):
            pass  # what fills the last record

    def finish(self) -> None:
        """Wait for tar.

        Raises:
            CopyError: it failed.
        """
        if not self._said.closed:
            self.wait(self._complain)


def _ignore(sentence: str, *, lost: bool = True) -> None:
    """What a tar says that was ended halfway is of no interest."""


class _Whole:
    """A pipe whose reads are short only at its end, as tarfile takes a short one for it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe

    def read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size and (more := self._pipe.read(size - len(data))):
            data += more
        return bytes(data)


class _Writer:
    """A pipe that takes all that is written, and counts it as a file would."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe, self._written = pipe, 0

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        while left:
            left = left[self._pipe.write(left) :]
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written


class ContainerTarget(_Process):
    """A container's tar that takes members.

    Args:
        place: where they go.
        door: returns the command that runs a command in the container.
        several: whether it has to be a directory.
        complain: is given one sentence for each thing that is left out.
    """

    def __init__(
        self,
        place: Place,
        door: Door,
        several: bool,
        complain: Complain,
    ) -> None:
        self._complain = complain
        self.label = str(place)
        directory, name = split_path(place.path)
        must = "into" if several or place.path.endswith("/") else "any"
        script = ["sh", "-c", RECEIVE, "sh", place.path, directory, must]
        super().__init__(door(script), place, reads=True)
        answer = _end(self.process.stdout).readline().decode("ascii", "replace").strip()
        if answer not in ("into", "as", "over"):
            self.wait(complain)
            raise CopyError(f"{place}: the container did not answer")
        self.into, self.over = answer == "into", answer == "over"
        self.name = "." if self.into else name
        # What both GNU tar and busybox read, however long a name is.
        pipe: Any = _Writer(_end(self.process.stdin))  # tarfile's types want more than it uses
        self._archive = tarfile.TarFile(
            fileobj=pipe, mode="w", format=tarfile.GNU_FORMAT, copybufsize=CHUNK
        )

    def add(self, member: tarfile.TarInfo, content: Readable | None) -> None:
        """Send one.

        Raises:
            CopyError: the container's tar ended.
        """
        try:
            source: Any = content  # tarfile's types want more than it uses
            self._archive.addfile(member, source)
        except BrokenPipeError as error:
            self.wait(self._complain)
            raise CopyError(f"{self.place}: tar ended too early") from error

    def finish(self) -> None:
        """Send the end and wait for tar.

        Raises:
            CopyError: it failed.
        """
        try:
            self._archive.close()
        except BrokenPipeError:
            pass  # it says why
        self.wait(self._complain)
