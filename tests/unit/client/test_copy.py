"""Copies, with a container's side that is a real tar in a real shell on this machine."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest

from oar_lxc.cli.shared.attach import AttachCommand
from oar_lxc.cli.shared.tarpipe import ContainerSource, ContainerTarget, MakeAttachCommand
from oar_lxc.client.copy import (
    CopyError,
    LocalSource,
    LocalTarget,
    Place,
    Source,
    Target,
    parse_place,
    split_path,
    transfer,
)
from oar_lxc.client.extract import Readable


class Copier:
    """Copies as the command does, and keeps what is complained of."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.bytes = 0

    def complain(self, sentence: str, *, lost: bool = True) -> None:
        self.said.append(sentence)

    def count(self, number: int) -> None:
        self.bytes += number

    def copy(self, source: str, target: str, *, several: bool = False) -> None:
        """Copy from ``vm:PATH`` or PATH to one of these."""
        there, here = parse_place(source), parse_place(target)
        origin: Source
        origin = (
            ContainerSource(there, attach, self.complain)
            if there.container
            else LocalSource(there.path, self.complain)
        )
        with closing(origin):
            goal: Target
            goal = (
                ContainerTarget(here, attach, several, self.complain)
                if here.container
                else LocalTarget(here.path, several, self.complain)
            )
            with closing(goal):
                transfer(origin, goal, self.complain, self.count)
                origin.finish()
                goal.finish()


def attach(argv: Sequence[str]) -> AttachCommand:
    """Return the command that runs a command in the "container"."""
    return AttachCommand(tuple(argv), "node1", "")


@pytest.fixture
def copier() -> Copier:
    return Copier()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a directory of all kinds of things."""
    tree = tmp_path / "tree"
    (tree / "sub dir/deep").mkdir(parents=True)
    (tree / "a").write_bytes(b"\xff\0\r\n")
    (tree / "-n").write_text("looks like an option")
    (tree / "new\nline").write_text("x")
    (tree / ("long" * 50)).write_text("y")
    (tree / "link").symlink_to("a")
    (tree / "dangling").symlink_to("/no/such/thing")
    os.link(tree / "a", tree / "hard")
    (tree / "sub dir/x").write_text("z" * 100000)
    (tree / "sub dir/x").chmod(0o750)
    (tree / "sub dir/deep").chmod(0o500)
    os.utime(tree / "a", (1e9, 1e9))
    return tree


def listing(top: Path) -> list[tuple[str, int, str]]:
    """Return what there is below a directory: name, mode, content or target."""
    found = []
    for path in sorted(top.rglob("*")):
        facts = path.lstat()
        what = ""
        if path.is_symlink():
            what = os.readlink(path)
        elif path.is_file():
            what = f"{path.read_bytes()!r} {facts.st_nlink} {int(facts.st_mtime)}"
        found.append((str(path.relative_to(top)), facts.st_mode, what))
    return found


@pytest.mark.parametrize("sides", [("", "vm1:"), ("vm1:", ""), ("vm1:", "42/vm2:")])
@pytest.mark.parametrize("into", [True, False])
def test_a_tree_is_the_same_on_the_other_side(
    copier: Copier, tree: Path, tmp_path: Path, sides: tuple[str, str], into: bool
) -> None:
    target = tmp_path / "copy"
    if into:
        target.mkdir()
    copier.copy(f"{sides[0]}{tree}", f"{sides[1]}{target}")
    assert copier.said == []
    assert listing(target / "tree" if into else target) == listing(tree)
    assert copier.bytes == 100000 + 4 + len("looks like an option") + 2


@pytest.mark.parametrize("sides", [("", "vm1:"), ("vm1:", ""), ("vm1:", "42/vm2:")])
@pytest.mark.parametrize("end", ["/.", "/./", "/sub dir/.."])
def test_the_content_of_a_directory_is_copied(
    copier: Copier, tree: Path, tmp_path: Path, sides: tuple[str, str], end: str
) -> None:
    for name in ("new", "there"):
        if name == "there":
            (tmp_path / name).mkdir()
        copier.copy(f"{sides[0]}{tree}{end}", f"{sides[1]}{tmp_path / name}")
        assert listing(tmp_path / name) == listing(tree)


@pytest.mark.parametrize("sides", [("", "vm1:"), ("vm1:", "")])
def test_a_file_gets_the_name_and_takes_the_place_of_another(
    copier: Copier, tree: Path, tmp_path: Path, sides: tuple[str, str]
) -> None:
    for _ in range(2):
        copier.copy(f"{sides[0]}{tree}/a", f"{sides[1]}{tmp_path}/b")
        assert (tmp_path / "b").read_bytes() == b"\xff\0\r\n"
    assert sorted(os.listdir(tmp_path)) == ["b", "tree"]


@pytest.mark.parametrize("sides", [("", "vm1:"), ("vm1:", "")])
def test_a_copy_into_what_is_there_adds_to_it(
    copier: Copier, tree: Path, tmp_path: Path, sides: tuple[str, str]
) -> None:
    (tmp_path / "to/tree").mkdir(parents=True)
    (tmp_path / "to/tree/mine").write_text("stays")
    copier.copy(f"{sides[0]}{tree}", f"{sides[1]}{tmp_path}/to")
    assert (tmp_path / "to/tree/mine").read_text() == "stays"
    assert (tmp_path / "to/tree/a").exists()


def test_in_a_container_a_directory_may_be_a_link(
    copier: Copier, tree: Path, tmp_path: Path
) -> None:
    """As /bin is one: what is copied there must not take its place."""
    (tmp_path / "to/usr").mkdir(parents=True)
    (tmp_path / "to/tree").symlink_to("usr")
    copier.copy(str(tree), f"vm1:{tmp_path}/to")
    assert (tmp_path / "to/tree").is_symlink()
    assert (tmp_path / "to/usr/a").exists()


@pytest.mark.parametrize("sides", [("", "vm1:"), ("vm1:", ""), ("vm1:", "42/vm2:")])
@pytest.mark.parametrize("named", ["to", "to/", "chain"])
def test_a_link_to_a_directory_that_is_named_is_followed(
    copier: Copier, tree: Path, tmp_path: Path, sides: tuple[str, str], named: str
) -> None:
    """What it points to gets its name; the links below stay links."""
    (tmp_path / "to").symlink_to("tree")
    (tmp_path / "chain").symlink_to("to")
    (tmp_path / "into").mkdir()
    copier.copy(f"{sides[0]}{tmp_path}/{named}", f"{sides[1]}{tmp_path}/into")
    copier.copy(f"{sides[0]}{tmp_path}/{named}", f"{sides[1]}{tmp_path}/as")
    copier.copy(f"{sides[0]}{tmp_path}/{named}/.", f"{sides[1]}{tmp_path}/content")
    assert copier.said == []
    copies = (tmp_path / "into" / named.strip("/"), tmp_path / "as", tmp_path / "content")
    for copy in copies:
        assert not copy.is_symlink()
        assert listing(copy) == listing(tree)


@pytest.mark.parametrize("sides", [("", "vm1:"), ("vm1:", ""), ("vm1:", "42/vm2:")])
def test_a_link_to_a_file_that_is_named_is_followed(
    copier: Copier, tree: Path, tmp_path: Path, sides: tuple[str, str]
) -> None:
    (tmp_path / "far").symlink_to("tree/sub dir/x")
    (tmp_path / "into").mkdir()
    copier.copy(f"{sides[0]}{tmp_path}/far", f"{sides[1]}{tmp_path}/into")
    copier.copy(f"{sides[0]}{tree}/link", f"{sides[1]}{tmp_path}/as")
    assert copier.said == []
    assert (tmp_path / "into/far").read_bytes() == b"z" * 100000
    assert stat.S_IMODE((tmp_path / "into/far").lstat().st_mode) == 0o750
    assert (tmp_path / "as").read_bytes() == b"\xff\0\r\n"
    assert not (tmp_path / "as").is_symlink()


@pytest.mark.parametrize("sides", [("", "vm1:"), ("vm1:", "")])
@pytest.mark.parametrize(
    ("source", "target", "sentence"),
    [
        ("nosuch", "x", r"nosuch: No such file or directory$"),
        ("tree/dangling", "x", r"tree/dangling: No such file or directory$"),
        ("tree/a", "no/dir/x", r"no/dir: No such (file or )?directory$"),
        ("tree/a", "x/", r"x/: No such directory$"),
        ("tree/a", "tree/a/", r"tree/a/: Not a directory$"),
        ("tree/sub dir/x", "tree/a/x", r"tree/a: Not a directory$"),
        ("tree", "tree/a", r"tree/a: it is a file, and tree a directory$"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_path(
    copier: Copier,
    tree: Path,
    tmp_path: Path,
    sides: tuple[str, str],
    source: str,
    target: str,
    sentence: str,
) -> None:
    before = listing(tmp_path)
    with pytest.raises(CopyError, match=sentence) as caught:
        copier.copy(f"{sides[0]}{tmp_path}/{source}", f"{sides[1]}{tmp_path}/{target}")
    assert "\n" not in str(caught.value)
    assert listing(tmp_path) == before


def test_several_need_a_directory(copier: Copier, tree: Path, tmp_path: Path) -> None:
    for side in ("", "vm1:"):
        with pytest.raises(CopyError, match="No such directory"):
            copier.copy(f"{tree}/a", f"{side}{tmp_path}/x", several=True)


@pytest.mark.parametrize("sides", [("", "vm1:"), ("vm1:", "")])
def test_what_is_no_file_is_left_out_and_told(
    copier: Copier, tree: Path, tmp_path: Path, sides: tuple[str, str]
) -> None:
    os.mkfifo(tree / "fifo")
    copier.copy(f"{sides[0]}{tree}", f"{sides[1]}{tmp_path}/copy")
    assert not (tmp_path / "copy/fifo").exists()
    assert (tmp_path / "copy/sub dir/x").exists()
    (sentence,) = copier.said
    assert "fifo: not copied, as it is a" in sentence


def test_a_file_that_shrinks_is_told_by_name(copier: Copier, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 5000000)
    members = LocalSource(str(tmp_path / "log"), copier.complain).members()
    member, content = next(members)
    assert content is not None
    content.read(10)
    os.truncate(tmp_path / "log", 0)
    content.read(4000000)  # what was read ahead
    with pytest.raises(CopyError, match="log: it became shorter while it was copied"):
        content.read(65536)
    assert member.size == 5000000


def test_a_file_comes_out_to_what_is_no_file(copier: Copier, tree: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    copier.copy(f"vm1:{tree}/a", f"{tmp_path}/pipe")
    reader.join(10)
    assert got == [b"\xff\0\r\n"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def archive(*members: tuple[str, bytes, bytes, str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind, data, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(data), link
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def sending(path: Path) -> MakeAttachCommand:
    """Return what attaches to a container that sends a file, whatever it is asked for."""
    return lambda argv: AttachCommand(("cat", str(path)), "node1", "")


HOSTILE = {
    "dots": archive(("./x/../../escaped", tarfile.REGTYPE, b"x", "")),
    "absolute": archive(("/tmp/escaped", tarfile.REGTYPE, b"x", "")),
    "other": archive(("./other", tarfile.REGTYPE, b"x", "")),
    "link": archive(
        ("./x", tarfile.DIRTYPE, b"", ""),
        ("./x/l", tarfile.SYMTYPE, b"", "../.."),
        ("./x/l/escaped", tarfile.REGTYPE, b"x", ""),
    ),
    "top": archive(("./x", tarfile.SYMTYPE, b"", "..")),
    "hard": archive(("./x", tarfile.LNKTYPE, b"", "../outside")),
    "hard2": archive(("./x", tarfile.LNKTYPE, b"", "./other")),
    "device": archive(("./x", tarfile.CHRTYPE, b"", "")),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_container_writes_nowhere_else(
    copier: Copier, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "to").mkdir()
    (tmp_path / "archive").write_bytes(HOSTILE[kind])

    source = ContainerSource(Place("vm1", "x"), sending(tmp_path / "archive"), copier.complain)
    target = LocalTarget(str(tmp_path / "to"), False, copier.complain)
    with closing(source), closing(target):
        transfer(source, target, copier.complain, copier.count)
        source.finish()
    assert copier.said
    assert sorted(os.listdir(tmp_path)) == ["archive", "outside", "to"]
    assert (tmp_path / "outside").stat().st_nlink == 1
    assert [name for name in os.listdir(tmp_path / "to") if name != "x"] == []
    assert not Path("/tmp/escaped").exists()


@pytest.mark.parametrize(("path", "sent"), [("x", "./x"), ("x/.", "./")])
def test_what_was_asked_for_never_comes_as_a_link(
    copier: Copier, tmp_path: Path, path: str, sent: str
) -> None:
    """A second copy to it would be written to where that points."""
    (tmp_path / "outside").write_text("mine")
    link = str(tmp_path / "outside")
    (tmp_path / "first").write_bytes(archive((sent, tarfile.SYMTYPE, b"", link)))
    (tmp_path / "second").write_bytes(archive((sent, tarfile.REGTYPE, b"x", "")))
    for name in ("first", "second"):
        source = ContainerSource(Place("vm1", path), sending(tmp_path / name), copier.complain)
        target = LocalTarget(str(tmp_path / "to"), False, copier.complain)
        with closing(source), closing(target):
            transfer(source, target, copier.complain, copier.count)
            source.finish()
    assert f"is a link to {link!r}: not copied" in copier.said[0]
    assert (tmp_path / "outside").read_text() == "mine"
    assert not (tmp_path / "to").is_symlink()


@pytest.mark.parametrize(
    "data", [b"", b"no archive at all\n" * 1000, HOSTILE["other"][:600], b"\0" * 512 + b"x" * 512]
)
def test_what_is_no_archive_is_one_sentence_or_nothing(
    copier: Copier, tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "archive").write_bytes(data)
    source = ContainerSource(Place("vm1", "x"), sending(tmp_path / "archive"), copier.complain)
    (tmp_path / "to").mkdir()
    target = LocalTarget(str(tmp_path / "to"), False, copier.complain)
    with closing(source), closing(target), suppress(CopyError):
        transfer(source, target, copier.complain, copier.count)
        source.finish()
    assert os.listdir(tmp_path / "to") == []


def test_what_a_container_says_cannot_act_on_the_terminal(copier: Copier) -> None:
    script = ["sh", "-c", r"printf 'tar: \033[2Jevil\n' >&2; exit 2"]
    source = ContainerSource(
        Place("vm1", "x"), lambda argv: AttachCommand(tuple(script), "node1", ""), copier.complain
    )
    with pytest.raises(CopyError, match=r"^vm1: \?\[2Jevil$"):
        source.finish()


def test_a_target_whose_tar_dies_says_why(copier: Copier, tree: Path) -> None:
    said = "echo into plain; head -c 2000 >/dev/null; echo 'tar: no space' >&2; exit 2"
    attach = AttachCommand(("sh", "-c", said), "node1", "")
    target = ContainerTarget(Place("42/vm1", "/x"), lambda argv: attach, False, copier.complain)
    source = LocalSource(str(tree), copier.complain)
    with closing(target), pytest.raises(CopyError, match=r"^42/vm1: no space$"):
        transfer(source, target, copier.complain, copier.count)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("42/vm1:/etc", Place("42/vm1", "/etc")),
        ("vm1:", Place("vm1", ".")),
        ("vm1:a:b", Place("vm1", "a:b")),
        ("./vm1:a", Place("", "./vm1:a")),
        ("/a:b", Place("", "/a:b")),
        ("../42/vm1:/etc", Place("", "../42/vm1:/etc")),
        ("x/vm1:/etc", Place("", "x/vm1:/etc")),
        ("plain", Place("", "plain")),
    ],
)
def test_a_place_is_in_a_container_or_here(text: str, place: Place) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/etc/hosts", ("/etc", "hosts")),
        ("/etc/", ("/", "etc")),
        ("a", (".", "a")),
        ("a/b", ("a", "b")),
        ("/", ("/", ".")),
        (".", (".", ".")),
        ("a/.", ("a/.", ".")),
        ("..", ("..", ".")),
    ],
)
def test_a_path_has_a_directory_and_a_name(path: str, parts: tuple[str, str]) -> None:
    assert split_path(path) == parts


BOTH = pytest.mark.parametrize("sides", [("", "vm1:"), ("vm1:", "")])


@BOTH
@pytest.mark.parametrize("file", ["/proc/filesystems", "/proc/version", "/sys/kernel/mm/ksm/run"])
def test_a_file_of_the_kernel_is_copied_as_it_is_read(
    copier: Copier, tmp_path: Path, sides: tuple[str, str], file: str
) -> None:
    copier.copy(f"{sides[0]}{file}", f"{sides[1]}{tmp_path}/copy")
    assert (tmp_path / "copy").read_bytes() == Path(file).read_bytes() != b""
    assert copier.said == []


@BOTH
def test_a_directory_of_the_kernel_is_copied_as_it_is_read(
    copier: Copier, tmp_path: Path, sides: tuple[str, str]
) -> None:
    copier.copy(f"{sides[0]}/proc/sys/kernel/random/.", f"{sides[1]}{tmp_path}/copy")
    assert (tmp_path / "copy/poolsize").read_text() == "256\n"


def test_a_file_that_says_nothing_of_its_size_is_copied_whole(
    copier: Copier, tmp_path: Path
) -> None:
    text = Path("/proc/kallsyms").read_bytes()
    assert len(text) > 1 << 20
    copier.copy("/proc/kallsyms", f"vm1:{tmp_path}/copy")
    assert (tmp_path / "copy").read_bytes() == text


@pytest.mark.parametrize("sides", [("", "vm1:"), ("vm1:", ""), ("vm1:", "42/vm2:")])
@pytest.mark.parametrize("pieces", [0, 1, 3, 40], ids="{} pieces".format)
@pytest.mark.parametrize("end", [0, 5])
def test_holes_stay_holes(
    copier: Copier, tmp_path: Path, sides: tuple[str, str], pieces: int, end: int
) -> None:
    step = 3 << 20
    with (tmp_path / "a").open("wb") as file:
        file.truncate(pieces * step + (4 << 20) + end)
        for number in range(pieces):
            file.seek(number * step)
            file.write(b"x" * 5000)
        if end:
            file.seek(-end, os.SEEK_END)
            file.write(b"y" * end)
    copier.copy(f"{sides[0]}{tmp_path}/a", f"{sides[1]}{tmp_path}/b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert (tmp_path / "b").stat().st_blocks * 512 <= (pieces + 1) * (1 << 20)
    assert copier.said == []


@BOTH
def test_what_was_there_keeps_its_mode(
    copier: Copier, tmp_path: Path, sides: tuple[str, str]
) -> None:
    (tmp_path / "from/sub").mkdir(parents=True)
    (tmp_path / "from/sub/new").write_text("new")
    for path in (tmp_path / "from", tmp_path / "from/sub", tmp_path / "from/sub/new"):
        path.chmod(0o777)
    (tmp_path / "to/sub").mkdir(parents=True)
    (tmp_path / "to").chmod(0o750)
    (tmp_path / "to/sub").chmod(0o700)
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o640)
    copier.copy(f"{sides[0]}{tmp_path}/from/.", f"{sides[1]}{tmp_path}/to")
    copier.copy(f"{sides[0]}{tmp_path}/from/sub/new", f"{sides[1]}{tmp_path}/file")
    assert (tmp_path / "to").stat().st_mode & 0o7777 == 0o750
    assert (tmp_path / "to/sub").stat().st_mode & 0o7777 == 0o700
    assert (tmp_path / "to/sub/new").stat().st_mode & 0o7777 == 0o777
    assert (tmp_path / "file").stat().st_mode & 0o7777 == 0o640
    assert (tmp_path / "file").read_text() == "new"


def test_a_copy_that_is_given_up_leaves_nothing(
    copier: Copier, tree: Path, tmp_path: Path
) -> None:
    class Shrunk(LocalSource):
        def members(self) -> Iterator[tuple[tarfile.TarInfo, Readable | None]]:
            yield from super().members()
            raise CopyError("it became shorter while it was copied")

    (tmp_path / "to").mkdir()
    target = ContainerTarget(Place("vm1", str(tmp_path / "to")), attach, False, copier.complain)
    source = Shrunk(str(tree), copier.complain)
    with pytest.raises(CopyError), closing(target):
        transfer(source, target, copier.complain, copier.count)
    assert os.listdir(tmp_path / "to") == []


@BOTH
def test_a_file_is_not_put_in_the_place_of_a_directory_nor_the_other_way_round(
    copier: Copier, tmp_path: Path, sides: tuple[str, str]
) -> None:
    (tmp_path / "to/dir/x").mkdir(parents=True)
    (tmp_path / "to/file").write_text("mine")
    (tmp_path / "from/file").mkdir(parents=True)
    (tmp_path / "from/dir").write_text("a file")
    before = listing(tmp_path / "to")
    with suppress(CopyError):
        copier.copy(f"{sides[0]}{tmp_path}/from/.", f"{sides[1]}{tmp_path}/to")
    assert listing(tmp_path / "to") == before
