"""A container's tar as one side of a copy: it sends members, or takes them."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import IO, Any

from oar_lxc.cli.shared.passing import Marked, NotOpenedError
from oar_lxc.cli.shared.reach import Door
from oar_lxc.client.copy import CopyError, Place, split_path
from oar_lxc.client.extract import CHUNK, Complain, Readable, Refused
from oar_lxc.errors import printable
from oar_lxc.linux.login_shell import mark_of
from oar_lxc.remote.agents import LOST, SHELL_SECONDS

OpenDoor = Callable[[Sequence[str]], Door]

# Prints what it cannot read on standard error, as `PATH: REASON`. A link that is named is
# followed, but not those below it, for which neither GNU tar nor busybox has an option. Files that
# the kernel makes as they are read have no size before: tar gets copies of them.
SEND = r"""
path=$1
[ -e "$path" ] || { echo "$path: No such file or directory" >&2; exit 3; }
command -v tar >/dev/null || { echo "there is no tar in this container" >&2; exit 3; }
if [ "$3" = . ]; then cd -- "$path"; else cd -- "$2"; fi || exit 3
what=./$3
sparse=
tar --version 2>/dev/null | grep -q GNU && sparse=-S
case $(readlink -f -- "$what") in /proc/*|/sys/*)
    copy=$(mktemp -d) || exit 3
    trap 'rm -rf "$copy"' EXIT
    cp -pRH -- "$what" "$copy/$3"
    cd -- "$copy" && tar -cf - -- "$what"
    exit ;;
esac
follow=
[ -L "$what" ] && if [ -d "$what" ]; then what=$what/.; else follow=-h; fi
exec tar -cf - $sparse $follow -- "$what"
"""
# Says first what becomes of it: "into" a directory, "as" something new, "over" a file; and whether
# its tar knows files with holes. All of the copy is unpacked beside its place before anything of
# it gets there; the file "end" tells that it came whole.
RECEIVE = r"""
path=$1
command -v tar >/dev/null || { echo "there is no tar in this container" >&2; exit 3; }
if [ -d "$path" ]; then answer=into; directory=$path
elif [ "$3" = into ]; then echo "$path: No such directory" >&2; exit 3
else answer=as; directory=$2
    [ -e "$path" ] && answer=over
    [ -d "$directory" ] || { echo "$directory: No such directory" >&2; exit 3; }
fi
facts=
[ $answer = over ] && [ -f "$path" ] && facts=$(stat -c '%a %u:%g' -- "$path" 2>/dev/null)
cd -- "$directory" || exit 3
new=./.oar-lxc-cp.$$
mkdir -m 700 "$new" || exit 3
trap 'rm -rf "$new"' EXIT
trap 'exit 3' HUP INT TERM
kind=plain
tar --version 2>/dev/null | grep -q GNU && kind=sparse
echo $answer $kind
if said=$(cd "$new" && tar -xpf - 2>&1); then
    [ -z "$said" ] || printf '%s\n' "$said" >&2
else
    full=$( { head -c 65536 /dev/zero | cat >"$new/full"; } 2>&1)
    if [ -n "$full" ]; then echo "$path: ${full##*: }" >&2; else printf '%s\n' "$said" >&2; fi
    exit 3
fi
[ -f "$new/end" ] || { echo "the copy was cut off" >&2; exit 3; }
failed=0
merge() {
    for one in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        [ -e "$one" ] || [ -L "$one" ] || continue
        to=$2/${one##*/}
        if [ -d "$one" ] && [ ! -L "$one" ]; then
            if [ -d "$to" ]; then merge "$one" "$to"
            elif [ -e "$to" ] || [ -L "$to" ]; then
                echo "$to: it is a file, and ${one##*/} a directory" >&2; failed=3
            else mv -- "$one" "$to" || failed=3
            fi
        elif [ -d "$to" ] && [ ! -L "$to" ]; then
            echo "$to: it is a directory, and ${one##*/} is none" >&2; failed=3
        else
            if [ -L "$to" ]; then rm -f -- "$to"; fi
            if [ -n "$facts" ]; then chmod ${facts% *} "$one"; chown ${facts#* } "$one"; fi
            mv -f -- "$one" "$to" || failed=3
        fi
    done
}
merge "$new/copy" .
exit $failed
"""
TIDY = 10.0  # seconds that a tar gets to end by itself
COPY = "copy"  # what all members' names begin with, and
END = "end"  # the name of the last


class _Process:
    """The tar of a container, at the other end of two pipes, and what it says.

    Raises:
        NotOpenedError: the container's door did not open.
    """

    inside = True

    def __init__(self, door: Door, place: Place, *, reads: bool) -> None:
        self.place = place
        self._token = door.token
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # wait() closes it
        self.process = subprocess.Popen(
            list(door.argv),
            stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._said,
            bufsize=0,
        )
        if door.token:
            out = _end(self.process.stdout).fileno()
            heard = Marked(out, door.token, time.monotonic() + SHELL_SECONDS, size=1)
            if heard.skip() is None:
                raise self._not_opened(heard)

    def _not_opened(self, heard: Marked) -> NotOpenedError:
        self._close_pipes()
        status = LOST if heard.late else self.process.wait()
        self._said.seek(0)
        said = self._said.read().decode("utf-8", "replace")
        self._said.close()
        return NotOpenedError(status, f"{heard.text()}\n{said}", heard.late)

    def wait(self, complain: Complain) -> None:
        """Wait for its end, and tell what it said.

        Raises:
            CopyError: it failed; the message is the last that it said.
        """
        self._close_pipes()
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
        """End a tar that is not at its end: what it has read is no whole archive.

        It gets time to remove what it has unpacked.
        """
        if self._said.closed:
            return
        self._close_pipes()
        try:
            self.process.wait(TIDY)
        except subprocess.TimeoutExpired:
            with suppress(OSError):  # oarsh is not ours to kill
                self.process.kill()
        with suppress(CopyError):
            self.wait(_ignore)

    def _close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def said(self) -> list[str]:
        """Return the lines that it wrote to its standard error."""
        self._said.seek(0)
        text = self._said.read()
        if self._token:  # what comes before is the login shell's
            text = text.partition(mark_of(self._token))[2]
        lines = text.decode("utf-8", "replace").splitlines()
        self._said.close()
        lines = [printable(line.removeprefix("tar: ").removeprefix("oar-lxc: ")) for line in lines]
        needless = ("Exiting with failure status", "Error is not recoverable")
        return [line.replace("./", "", 1) for line in lines if not line.startswith(needless)]


def _end(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise CopyError("there is no pipe")
    return pipe


class ContainerSource(_Process):
    """Members that a container's tar sends.

    Args:
        place: what to copy.
        door: returns the command that runs a command in the container.
        complain: is given one sentence for each thing that is left out.
    """

    def __init__(self, place: Place, door: OpenDoor, complain: Complain) -> None:
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
        door: OpenDoor,
        several: bool,
        complain: Complain,
    ) -> None:
        self._complain = complain
        self.label = str(place)
        directory, name = split_path(place.path)
        must = "into" if several or place.path.endswith("/") else "any"
        script = ["sh", "-c", RECEIVE, "sh", place.path, directory, must]
        super().__init__(door(script), place, reads=True)
        answer = _end(self.process.stdout).readline().decode("ascii", "replace").split()
        if len(answer) != 2 or answer[0] not in ("into", "as", "over"):
            self.wait(complain)
            raise CopyError(f"{place}: the container did not answer")
        self.into, self.over = answer[0] == "into", answer[0] == "over"
        self.name = "." if self.into else name
        self._sparse = answer[1] == "sparse"
        self._pipe = _end(self.process.stdin)
        top = tarfile.TarInfo(COPY)
        top.type, top.mode = tarfile.DIRTYPE, 0o700
        self.add(top, None, "")

    def add(
        self, member: tarfile.TarInfo, content: Readable | None, below: str = f"{COPY}/"
    ) -> None:
        """Send one.

        Raises:
            Refused: it is a device, which no container may make.
            CopyError: the container's tar ended.
        """
        if member.ischr() or member.isblk():
            raise Refused(f"{member.name}: not copied, as it is a device")
        member.name = below + member.name
        if member.islnk():
            member.linkname = below + member.linkname
        try:
            pieces: Any = member.sparse  # a list, whatever tarfile's types say
            if pieces is not None and self._sparse and content is not None:
                self._send_sparse(member, content, pieces)
            else:
                self._send(member, content)
        except BrokenPipeError as error:
            self.wait(self._complain)
            raise CopyError(f"{self.place}: tar ended too early") from error

    def _send(self, member: tarfile.TarInfo, content: Readable | None) -> None:
        if member.isreg():
            member.type = tarfile.REGTYPE
        else:
            member.size = 0
        self._write(_header(member))
        self._write_content(member.name, content, member.size)
        self._write(bytes(-member.size % tarfile.BLOCKSIZE))

    def _send_sparse(
        self, member: tarfile.TarInfo, content: Readable, data: Sequence[tuple[int, int]]
    ) -> None:
        """Send a file without its holes, in the form that is GNU tar's own (type S)."""
        data = [(offset, length) for offset, length in data if length]  # tarfile has empty ones
        size, member.size = member.size, sum(length for _, length in data)
        member.type = tarfile.GNUTYPE_SPARSE
        # GNU tar takes the end of the last piece for the end of the file.
        self._write(_sparse_header(_header(member), size, [*data, (size, 0)]))
        position = 0
        for offset, length in data:
            while position < offset:
                position += len(_read(content, member.name, min(CHUNK, offset - position)))
            self._write_content(member.name, content, length)
            position += length
        self._write(bytes(-member.size % tarfile.BLOCKSIZE))

    def _write_content(self, name: str, content: Readable | None, left: int) -> None:
        while left and content is not None:
            data = _read(content, name, min(CHUNK, left))
            self._write(data)
            left -= len(data)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._pipe.write(left) :]

    def finish(self) -> None:
        """Send the end and wait for tar.

        Raises:
            CopyError: it failed.
        """
        self.add(tarfile.TarInfo(END), None, "")
        with suppress(BrokenPipeError):  # it says why
            self._write(bytes(tarfile.RECORDSIZE))
        self.wait(self._complain)


def _read(content: Readable, name: str, size: int) -> bytes:
    data = content.read(size)
    if not data:
        raise CopyError(f"{name}: the copy was cut off")
    return data


def _header(member: tarfile.TarInfo) -> bytes:
    """Return what both GNU tar and busybox read, however long a name is."""
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _sparse_header(header: bytes, size: int, pieces: Sequence[tuple[int, int]]) -> bytes:
    """Return a header with the pieces of a file that has holes (GNU tar's ``tar.h``)."""
    texts = [_number(offset) + _number(length) for offset, length in pieces]
    last = bytearray(header[-tarfile.BLOCKSIZE :])
    last[386:482] = b"".join(texts[:4]).ljust(96, b"\0")
    last[482] = len(texts) > 4
    last[483:495] = _number(size)
    last[148:156] = b" " * 8
    last[148:156] = b"%06o\0 " % sum(last)
    blocks = [header[: -tarfile.BLOCKSIZE], bytes(last)]
    for start in range(4, len(texts), 21):
        more = len(texts) > start + 21
        block = b"".join(texts[start : start + 21]).ljust(504, b"\0") + bytes([more])
        blocks.append(block.ljust(tarfile.BLOCKSIZE, b"\0"))
    return b"".join(blocks)


def _number(value: int) -> bytes:
    """Write a number as tar does: in octal, or where that is too short in base 256."""
    return b"%011o\0" % value if value < 8**11 else b"\x80" + value.to_bytes(11, "big")
