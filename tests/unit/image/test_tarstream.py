"""Archives are read as tarfile reads them, and what is written both understand."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.errors import ImageError
from oar_lxc.image.tarstream import (
    END,
    DamagedError,
    Member,
    Reader,
    TruncatedError,
    header,
    members,
    padding,
)
from tests.unit.archives import archive, file_of, member

FORMS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
words = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
paths = st.lists(words, min_size=1, max_size=30).map("/".join)
ids = st.integers(0, 3_000_000)


def read(data: bytes) -> list[tuple[Member, bytes]]:
    """Return all members with their contents."""
    fd = file_of(data)
    try:
        reader = Reader(fd)
        found = []
        for one in members(reader):
            found.append((one, b"".join(reader.stream(one.size))))
            reader.take(padding(one.size))
        return found
    finally:
        os.close(fd)


@given(paths, st.binary(max_size=3000), ids, ids, st.sampled_from(FORMS[1:]))
def test_what_tarfile_writes_is_read(
    path: str, content: bytes, uid: int, gid: int, form: int
) -> None:
    info, _ = member(path, content=content, uid=uid, gid=gid, mode=0o4755, mtime=5)
    ((found, data),) = read(archive([(info, content)], form))
    assert found == Member(os.fsencode(path), b"0", 0o4755, uid, gid, len(content), 5)
    assert data == content


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_is_read_in_every_format(form: int) -> None:
    long = "d" * 90 + "/" + "f" * 50
    data = archive(
        [
            member("./", tarfile.DIRTYPE),
            member(long, content=b"x" * 600),
            member("hard", tarfile.LNKTYPE, linkname=long[-90:]),
            member("soft", tarfile.SYMTYPE, linkname="/bin/sh"),
            member("fifo", tarfile.FIFOTYPE),
            member("null", tarfile.CHRTYPE),
        ],
        form,
    )
    found = [
        (os.fsdecode(one.path), one.kind, one.size, os.fsdecode(one.target))
        for one, _ in read(data)
    ]
    assert found == [
        ("./", b"5", 0, ""),
        (long, b"0", 600, ""),
        ("hard", b"1", 0, long[-90:]),
        ("soft", b"2", 0, "/bin/sh"),
        ("fifo", b"6", 0, ""),
        ("null", b"3", 0, ""),
    ]


xattrs = st.dictionaries(
    st.text("ab=%.", min_size=1).map(str.encode), st.binary(max_size=300), max_size=3
)


@given(paths, paths, ids.filter(lambda n: n < 8**7), xattrs, st.sampled_from([b"0", b"2", b"5"]))
def test_what_is_written_is_read_again(
    path: str, target: str, uid: int, attributes: dict[bytes, bytes], kind: bytes
) -> None:
    link = os.fsencode(target) if kind == b"2" else b""
    one = Member(os.fsencode(path), kind, 0o1700, uid, 7, 0, 9, link, attributes)
    data = header(one) + END
    assert read(data) == [(one, b"")]
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        (info,) = tar.getmembers()
    assert (info.name, info.linkname, info.uid) == (path.rstrip("/"), os.fsdecode(link), uid)


def test_extended_attributes_of_any_bytes_are_read() -> None:
    value = bytes(range(256))
    pax = {"SCHILY.xattr.security.capability": value.decode("latin-1").encode("latin-1").hex()}
    ((one, _),) = read(archive([member("x", pax_headers=pax)]))
    assert one.xattrs == {b"security.capability": value.hex().encode()}


@given(st.integers(0, 10239))
def test_an_archive_that_was_cut_is_never_whole(size: int) -> None:
    whole = archive([member("a", content=b"y" * 700), member("b", content=b"")])
    first_end = 512 * 4  # two headers and the content
    if size > first_end:
        read(whole[: size // 512 * 512 + 512])  # of the end, one block is enough
    else:
        with pytest.raises(TruncatedError, match="ends in the middle"):
            read(whole[:size])


@given(st.binary(max_size=3000))
def test_any_bytes_are_an_archive_or_refused(data: bytes) -> None:
    try:
        read(data)
    except ImageError:
        return


@given(st.integers(0, 511), st.integers(1, 255))
def test_a_header_of_which_a_byte_changed_is_refused_or_means_the_same(at: int, by: int) -> None:
    data = bytearray(archive([member("a", content=b"y" * 700)], tarfile.USTAR_FORMAT))
    data[at] = (data[at] + by) % 256
    try:
        found = read(bytes(data))
    except ImageError:
        return
    assert 148 <= at < 156, "a header that changed went through"  # the checksum's own blanks
    assert found == read(archive([member("a", content=b"y" * 700)], tarfile.USTAR_FORMAT))


def rewritten(data: bytes, **fields: bytes) -> bytes:
    """Return an archive whose first header has other fields, and the checksum of those."""
    places = {"size": (124, 12), "kind": (156, 1), "magic": (257, 8), "mtime": (136, 12)}
    header = bytearray(data[:512])
    for name, value in fields.items():
        at, size = places[name]
        header[at : at + size] = value.ljust(size, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


@pytest.mark.parametrize(
    "kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_only_files_have_content_whatever_size_is_told(kind: bytes) -> None:
    """As tar(1) and Docker have it: a hard link's size is that of its file."""
    one = archive([member("a", kind, linkname="b"), member("after", content=b"here")])
    found = read(rewritten(one, size=b"00000001274"))
    assert [(m.kind, m.size, data) for m, data in found] == [(kind, 0, b""), (b"0", 4, b"here")]


def test_a_directory_of_an_incremental_dump_is_one() -> None:
    names = b"Yhostname\0Dold\0\0"
    one = archive([member("etc/", content=names), member("after", content=b"here")])
    found = read(rewritten(one, kind=b"D"))
    assert [(m.path, m.kind, m.size, data) for m, data in found] == [
        (b"etc/", b"5", 0, b""),
        (b"after", b"0", 4, b"here"),
    ]


def test_an_archive_of_before_posix_is_read() -> None:
    one = archive([member("a/", content=b"")], tarfile.USTAR_FORMAT)
    ((found, _),) = read(rewritten(one, kind=b"\0", magic=b""))
    assert (found.path, found.kind) == (b"a/", b"5")


def test_numbers_may_be_binary() -> None:
    one = archive([member("a", content=b"here")], tarfile.GNU_FORMAT)
    size, time = b"\x80" + (4).to_bytes(11), (-5 % 256**12).to_bytes(12)
    ((found, data),) = read(rewritten(one, size=size, mtime=time))
    assert (found.size, data) == (4, b"here")


@pytest.mark.parametrize("size", [-4 % 256**12, 1 << 95 | 1 << 70])
def test_a_size_that_no_file_has_is_damage(size: int, tmp_path: Path) -> None:
    """It must not keep a reader busy for ever, nor be sought."""
    data = rewritten(archive([member("a", content=b"here")]), size=size.to_bytes(12))
    with pytest.raises(DamagedError, match="a size that no file has"):
        read(data)


def test_content_that_nobody_takes_is_passed_over(tmp_path: Path) -> None:
    data = archive([member("a", content=b"x" * 5_000_000), member("b", content=b"y")])
    (tmp_path / "a.tar").write_bytes(data)
    with (tmp_path / "a.tar").open("rb", buffering=0) as file:
        reader = Reader(file.fileno())
        found = [(one.path, reader.done) for one in reader.members()]
    assert found == [(b"a", 512), (b"b", 5_001_216)]


def test_a_header_for_all_members_counts_for_all() -> None:
    stream = io.BytesIO()
    notes = {"comment": "of a commit", "SCHILY.xattr.user.a": "b"}
    with tarfile.open(fileobj=stream, mode="w", pax_headers=notes) as tar:
        for name in ("a", "b"):
            tar.addfile(tarfile.TarInfo(name))
    assert [one.xattrs for one, _ in read(stream.getvalue())] == [{b"user.a": b"b"}] * 2


def test_a_mark_at_the_end_may_be_missing_where_a_digest_tells() -> None:
    data = archive([member("a", content=b"x" * 600)])[: 512 * 3]
    reader = Reader(file_of(data))
    assert [one.path for one in members(reader, marked=False)] == [b"a"]
    with pytest.raises(TruncatedError):
        read(data)


def test_sparse_members_are_refused_with_advice() -> None:
    info, _ = member("s", tarfile.GNUTYPE_SPARSE)
    data = bytearray(archive([(info, b"")], tarfile.GNU_FORMAT))
    with pytest.raises(ImageError, match="without --sparse"):
        read(bytes(data))
