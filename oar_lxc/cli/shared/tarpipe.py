"""One side of a copy in a container: the container's tar sends members, or takes them."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import IO, Any

from oar_lxc.cli.shared.attach import AttachCommand
from oar_lxc.cli.shared.streams import Marked, NotBegunError
from oar_lxc.client.copy import CopyError, Place, split_path
from oar_lxc.client.extract import CHUNK, Complain, Readable, RefusedMember
from oar_lxc.errors import printable
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.login_shell import mark_of
from oar_lxc.remote.agents import LOST, SHELL_SECONDS

MakeAttachCommand = Callable[[Sequence[str]], AttachCommand]

# The script that sends. It prints what it cannot read on standard error, as `PATH: REASON`. It
# follows a link that the user names, but not the links below it; neither GNU tar nor busybox has
# an option for that. Files of /proc and /sys have no size before they are read: tar gets copies.
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
# The script that receives. It first answers what it will do: copy "into" a directory, "as" a new
# file or directory, or "over" a file; and whether its tar knows files with holes. It unpacks the
# whole copy into a temporary directory, and then moves it to its place. A member "end" shows that
# the copy is complete.
RECEIVE = r"""
path=$1
no_directory() {
    if [ -e "${1%/}" ]; then echo "$1: Not a directory"; else echo "$1: No such directory"; fi >&2
    exit 3
}
command -v tar >/dev/null || { echo "there is no tar in this container" >&2; exit 3; }
if [ -d "$path" ]; then answer=into; directory=$path
elif [ "$3" = into ]; then no_directory "$path"
else answer=as; directory=$2
    [ -e "$path" ] && answer=over
    [ -d "$directory" ] || no_directory "$directory"
fi
facts=
[ $answer = over ] && [ -f "$path" ] && facts=$(stat -c '%a %u:%g' -- "$path" 2>/dev/null)
cd -- "$directory" || exit 3
new=./.oar-lxc-cp.$$
trap 'trap "" HUP INT TERM; rm -rf "$new"' EXIT
trap 'exit 3' HUP INT TERM
mkdir -m 700 "$new" || exit 3
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
COPY = "copy"  # the first part of all members' names
END = "end"  # the name of the last member


class _Process:
    """The tar of a container, with pipes to it and its standard error.

    Raises:
        NotBegunError: the attach program did not begin.
    """

    inside = True

    def __init__(self, attach: AttachCommand, place: Place, *, reads: bool) -> None:
        self.place = place
        self._token = attach.token
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # wait() closes it
        self.process = subprocess.Popen(
            list(attach.argv),
            stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._said,
            bufsize=0,
            process_group=0,  # Ctrl-C is for us alone: close() lets the container tidy up
        )
        if attach.token:
            out = _end(self.process.stdout).fileno()
            heard = Marked(out, attach.token, Deadline.after(SHELL_SECONDS), size=1)
            if heard.skip() is None:
                raise self._not_begun(heard)

    def _not_begun(self, heard: Marked) -> NotBegunError:
        self._close_pipes()
        status = LOST if heard.late else self.process.wait()
        self._said.seek(0)
        said = self._said.read().decode("utf-8", "replace")
        self._said.close()
        return NotBegunError(status, f"{heard.text()}\n{said}", heard.late)

    def wait(self, complain: Complain) -> None:
        """Wait for tar's end, and pass its messages to ``complain``.

        Raises:
            CopyError: tar failed; the error has its last message.
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
        """Put the container before a message: ``42/vm1:/a: No such file or directory``."""
        return f"{self.place.container}:{'' if line.startswith('/') else ' '}{line}"

    def close(self) -> None:
        """Stop a tar that is not at its end, by closing its pipes.

        A receiving container sees an incomplete archive, and gets time to remove its files.
        """
        if self._said.closed:
            return
        self._close_pipes()
        try:
            self.process.wait(TIDY)
        except subprocess.TimeoutExpired:
            with suppress(OSError):  # we may not kill oarsh, which runs as user oar
                self.process.kill()
        with suppress(CopyError):
            self.wait(_ignore)

    def _close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def said(self) -> list[str]:
        """Return the lines of tar's standard error."""
        self._said.seek(0)
        text = self._said.read()
        if self._token:  # the text before the mark comes from the login shell
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
    """A source whose members a container's tar sends.

    Args:
        place: what to copy.
        attach: returns the attach command that runs a given command in the container.
        complain: called with one sentence for each file that is left out.
    """

    def __init__(self, place: Place, attach: MakeAttachCommand, complain: Complain) -> None:
        directory, self.name = split_path(place.path)
        self._complain = complain
        script = ["sh", "-c", SEND, "sh", place.path, directory, self.name]
        super().__init__(attach(script), place, reads=False)

    def members(self) -> Iterator[tuple[tarfile.TarInfo, Readable | None]]:
        """Yield the members that come.

        Raises:
            CopyError: the data is no archive, or is cut off.
        """
        pipe = _end(self.process.stdout)
        try:
            # The size of a record of tar: a larger first read would wait for data that may not
            # come.
            whole: Any = _Whole(pipe)  # Any: tarfile's types ask for methods that it does not use
            with tarfile.open(fileobj=whole, mode="r|", bufsize=10240) as archive:
                for member in archive:
                    yield member, archive.extractfile(member) if member.isreg() else None
        except (tarfile.TarError, RecursionError, MemoryError, ValueError, OverflowError) as error:
            self.finish()  # if tar itself failed, its message is the reason
            why = "what it sends is no archive, or was cut off"
            raise CopyError(f"{self.place}: {why}") from error
        for _ in iter(lambda: pipe.read(CHUNK), b""):
            pass  # the padding of the last record

    def finish(self) -> None:
        """Wait for tar's end.

        Raises:
            CopyError: tar failed.
        """
        if not self._said.closed:
            self.wait(self._complain)


def _ignore(sentence: str, *, lost: bool = True) -> None:
    """Ignore a message of a tar that we have stopped."""


class _Whole:
    """A pipe whose reads are short only at its end: tarfile takes any short read for the end."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe

    def read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size and (more := self._pipe.read(size - len(data))):
            data += more
        return bytes(data)


class ContainerTarget(_Process):
    """A target whose members a container's tar takes.

    Args:
        place: where the members go.
        attach: returns the attach command that runs a given command in the container.
        several: whether the place must be a directory, as there are several sources.
        complain: called with one sentence for each file that is left out.
    """

    def __init__(
        self,
        place: Place,
        attach: MakeAttachCommand,
        several: bool,
        complain: Complain,
    ) -> None:
        self._complain = complain
        self.label = str(place)
        directory, name = split_path(place.path)
        must = "into" if several or place.path.endswith("/") else "any"
        script = ["sh", "-c", RECEIVE, "sh", place.path, directory, must]
        super().__init__(attach(script), place, reads=True)
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
        """Send one member.

        Raises:
            RefusedMember: the member is a device, which a container may not make.
            CopyError: the container's tar has ended.
        """
        if member.ischr() or member.isblk():
            raise RefusedMember(f"{member.name}: not copied, as it is a device")
        member.name = below + member.name
        if member.islnk():
            member.linkname = below + member.linkname
        try:
            pieces: Any = member.sparse  # a list; tarfile's type stub is wrong
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
        """Send a file without its holes, in GNU tar's own format (type S)."""
        data = [(offset, length) for offset, length in data if length]  # drop empty pieces
        size, member.size = member.size, sum(length for _, length in data)
        member.type = tarfile.GNUTYPE_SPARSE
        # For GNU tar, a file ends where its last piece ends: so add an empty piece at the end.
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
        """Send the last member and the archive's end, and wait for tar.

        Raises:
            CopyError: tar failed.
        """
        self.add(tarfile.TarInfo(END), None, "")
        with suppress(BrokenPipeError):  # wait() raises tar's own error
            self._write(bytes(tarfile.RECORDSIZE))
        self.wait(self._complain)


def _read(content: Readable, name: str, size: int) -> bytes:
    data = content.read(size)
    if not data:
        raise CopyError(f"{name}: the copy was cut off")
    return data


def _header(member: tarfile.TarInfo) -> bytes:
    """Return a member's header in a format that GNU tar and busybox read, even for long names."""
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _sparse_header(header: bytes, size: int, pieces: Sequence[tuple[int, int]]) -> bytes:
    """Add the pieces of a file with holes to a header (GNU tar's ``tar.h``)."""
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
    """Encode a number as tar does: in octal, or in base 256 if it is too large for that."""
    return b"%011o\0" % value if value < 8**11 else b"\x80" + value.to_bytes(11, "big")
