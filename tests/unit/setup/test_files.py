"""Files are written whole, backed up once, and shown without their passwords."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from oar_lxc.setup import files
from oar_lxc.setup.steps import NotYetError, Step

USER = pwd.getpwuid(os.geteuid()).pw_name
GROUP = grp.getgrgid(os.getegid()).gr_name


def apply(step: Step) -> None:
    assert step.apply is not None
    step.apply()


def replace_a(text: str) -> str:
    return text.replace("a", "b")


def test_an_edit_keeps_mode_and_the_first_text(weird_tmp_path: Path) -> None:
    path = weird_tmp_path / "conf"
    path.write_text("a\n")
    path.chmod(0o640)
    step = files.edited_file("edited", path, replace_a, "package")
    assert step.pending() is not None
    apply(step)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("b\n", 0o640)
    assert step.pending() is None
    path.write_text("aa\n")
    apply(step)
    backup = files.backup_of(path)
    assert (backup.read_text(), backup.stat().st_mode & 0o777) == ("a\n", 0o640)
    assert sorted(p.name for p in weird_tmp_path.iterdir()) == ["conf", "conf.oar-lxc.bak"]


def test_an_edit_waits_for_the_package_that_brings_the_file(tmp_path: Path) -> None:
    step = files.edited_file("edited", tmp_path / "none", replace_a, "oar-common")
    with pytest.raises(NotYetError, match="oar-common"):
        step.pending()


def test_an_edit_follows_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("a")
    link.symlink_to(real)
    apply(files.edited_file("edited", link, replace_a, "package"))
    assert link.is_symlink()
    assert real.read_text() == "b"


def test_bytes_that_are_not_utf8_survive_an_edit(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_bytes(b"\xe9 a\n")
    apply(files.edited_file("edited", path, replace_a, "package"))
    assert path.read_bytes() == b"\xe9 b\n"


def test_a_file_of_ours_gets_text_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "unit"
    step = files.own_file("ours", path, lambda: "text\n", 0o640, USER, GROUP)
    assert "write it" in (step.pending() or "")
    apply(step)
    assert step.pending() is None
    path.chmod(0o644)
    assert "mode 0640" in (step.pending() or "")
    apply(step)
    assert step.pending() is None


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    step = files.own_file("key", tmp_path / "key", "PRIVATE", 0o600, USER, GROUP)
    assert "PRIVATE" not in (step.pending() or "")


def test_a_directory_gets_its_mode(tmp_path: Path) -> None:
    step = files.directory("there", tmp_path / "a" / "b", 0o711, USER, GROUP)
    assert step.pending() is not None
    apply(step)
    assert step.pending() is None
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o711


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text("old")
    with pytest.raises(OverflowError):
        files.write_through(path, b"new", 0o644, owner=(2**70, 0))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_diff_masks_passwords() -> None:
    old = 'DB_BASE_PASSWD=""\n# text\n'
    shown = files.diff(Path("f"), old, 'DB_BASE_PASSWD="secret"\n#DB_BASE_PASSWD_RO="other"\n')
    assert shown is not None
    assert "secret" not in shown
    assert "other" not in shown
    assert '+DB_BASE_PASSWD="…"' in shown


def test_equal_texts_have_no_diff() -> None:
    assert files.diff(Path("f"), "a\n", "a\n") is None


def test_an_unknown_user_comes_later() -> None:
    with pytest.raises(NotYetError):
        files.ids("no-such-user-here", GROUP)
