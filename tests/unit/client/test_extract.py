"""What a hostile container may send, and where it does not get."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given

from oar_lxc.client.extract import Extraction, RefusedMember, check_parts
from tests.unit.strategies import hostile


class Into:
    """A directory that things are extracted into, beside one that must stay as it is."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "into"
        self.path.mkdir()
        self.outside = tmp_path / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_text("mine")
        self.said: list[tuple[str, bool]] = []
        self.fd = os.open(self.path, os.O_RDONLY)
        self.extraction = Extraction(self.fd, self._complain)

    def _complain(self, sentence: str, *, lost: bool = True) -> None:
        self.said.append((sentence, lost))

    def add(
        self, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object
    ) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.size, member.mtime = kind, len(data), 1e9
        for key, value in more.items():
            setattr(member, key, value)
        self.extraction.add(member, io.BytesIO(data))


@pytest.fixture
def into(tmp_path: Path) -> Iterator[Into]:
    into = Into(tmp_path)
    yield into
    os.close(into.fd)
    assert os.listdir(into.outside) == ["secret"]
    assert (into.outside / "secret").read_text() == "mine"
    assert stat.S_IMODE(into.outside.stat().st_mode) == 0o755


def test_files_directories_and_links_come_with_modes_and_times(into: Into) -> None:
    into.add("d", kind=tarfile.DIRTYPE, mode=0o555)
    into.add("d/f", b"\xff\0", mode=0o640)
    into.add("d/l", kind=tarfile.SYMTYPE, linkname="f")
    into.add("d/h", kind=tarfile.LNKTYPE, linkname="d/f")
    into.extraction.finish()
    assert (into.path / "d/f").read_bytes() == b"\xff\0"
    assert stat.S_IMODE((into.path / "d").stat().st_mode) == 0o555
    assert stat.S_IMODE((into.path / "d/f").stat().st_mode) == 0o640
    assert (into.path / "d/f").stat().st_mtime == (into.path / "d").stat().st_mtime == 1e9
    assert os.readlink(into.path / "d/l") == "f"
    assert (into.path / "d/h").samefile(into.path / "d/f")
    assert sorted(os.listdir(into.path / "d")) == ["f", "h", "l"]
    assert into.said == []


@pytest.mark.parametrize(
    "name", ["../outside/secret", "/etc/x", "a/../../outside/x", "..", "a\0b", "//x"]
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
def test_a_name_that_leads_out_is_refused(into: Into, name: str, kind: bytes) -> None:
    with pytest.raises(RefusedMember, match="leads out"):
        into.add(name, b"x", kind, linkname="x")
    assert os.listdir(into.path) == []


def test_nothing_is_written_through_a_link_that_was_sent(into: Into) -> None:
    into.add("d", kind=tarfile.SYMTYPE, linkname=str(into.outside))
    with pytest.raises(RefusedMember, match="d is no directory but a link"):
        into.add("d/x", b"x")
    with pytest.raises(OSError, match="exists"):
        into.add("d", kind=tarfile.DIRTYPE, mode=0o777)


def test_nothing_is_written_through_a_link_that_was_there(into: Into) -> None:
    (into.path / "d").symlink_to(into.outside)
    with pytest.raises(RefusedMember, match="d is no directory but a link"):
        into.add("d/x", b"x")


def test_a_file_takes_the_place_of_a_link_and_not_of_what_it_points_to(into: Into) -> None:
    (into.path / "f").symlink_to(into.outside / "secret")
    into.add("f", b"new")
    assert not (into.path / "f").is_symlink()
    assert (into.path / "f").read_bytes() == b"new"


@pytest.mark.parametrize("target", ["secret", "/etc/passwd", "../outside/secret"])
def test_a_hard_link_to_what_was_not_sent_is_refused(into: Into, target: str) -> None:
    (into.path / "secret").write_text("was there before")
    with pytest.raises(RefusedMember):
        into.add("h", kind=tarfile.LNKTYPE, linkname=target)
    assert os.listdir(into.path) == ["secret"]


def test_a_hard_link_to_a_link_makes_no_other_name_of_what_it_points_to(into: Into) -> None:
    into.add("f", b"x")
    into.add("f", kind=tarfile.SYMTYPE, linkname=str(into.outside / "secret"))
    into.add("h", kind=tarfile.LNKTYPE, linkname="f")
    assert (into.outside / "secret").stat().st_nlink == 1


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"])
def test_what_is_more_than_a_file_is_left_out_and_told(into: Into, kind: bytes) -> None:
    into.add("x", kind=kind)
    assert os.listdir(into.path) == []
    ((sentence, lost),) = into.said
    assert sentence.startswith("x: not copied, as it is a ")
    assert lost


def test_a_file_has_no_set_id_bits_and_that_is_told(into: Into) -> None:
    into.add("su", b"x", mode=0o6755)
    assert stat.S_IMODE((into.path / "su").stat().st_mode) == 0o755
    assert into.said == [("su: copied without its set-id bits", False)]


def test_a_copy_that_is_cut_off_leaves_the_old_file(into: Into) -> None:
    (into.path / "f").write_text("old")
    with pytest.raises(RefusedMember, match="f: the copy was cut off"):
        into.add("f", b"ne", size=100)
    assert (into.path / "f").read_text() == "old"
    assert os.listdir(into.path) == ["f"]


def test_a_directory_is_not_replaced_by_a_file(into: Into) -> None:
    (into.path / "d").mkdir()
    with pytest.raises(IsADirectoryError):
        into.add("d", b"x")
    assert os.listdir(into.path) == ["d"]


def test_a_time_that_no_clock_tells_is_no_obstacle(into: Into) -> None:
    into.add("f", b"x", mtime=1e30)
    assert (into.path / "f").exists()


@given(hostile)
def test_any_name_is_parts_below_or_refused(name: str) -> None:
    try:
        parts = check_parts(name)
    except RefusedMember:
        return
    assert all(part not in ("", ".", "..") and "/" not in part for part in parts)
