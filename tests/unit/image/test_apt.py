"""Where packages come from, as this machine's apt tells."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oar_lxc.errors import ImageError
from oar_lxc.image import apt
from oar_lxc.linux.run import Result
from tests.unit.fakes.programs import add_program

LINE = "http://mirror.example/debian/|bookworm|main|/usr/share/keyrings/debian.gpg\n"


def pretend(
    monkeypatch: pytest.MonkeyPatch, uid: int, before: str, after: str
) -> list[Sequence[str]]:
    """Let apt tell something before its lists are fetched, and after; return what is run."""
    calls: list[Sequence[str]] = []

    def run(argv: Sequence[str], **options: object) -> Result:
        calls.append(argv)
        fetched = any("update" in call for call in calls)
        return Result(tuple(argv), 0, after if fetched else before, "")

    monkeypatch.setattr(apt, "run", run)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(apt, "OS_RELEASE", Path("/nonexistent"))
    return calls


def test_sources_are_those_of_the_release_with_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pretend(monkeypatch, 0, LINE + LINE + LINE.replace("bookworm", "trixie"), "")
    known = "deb [signed-by=/usr/share/keyrings/debian.gpg] http://mirror.example/debian/"
    assert apt.host_sources("bookworm") == [f"{known} bookworm main"]
    assert len(calls) == 1


def test_where_apt_has_no_lists_yet_root_fetches_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0, "", LINE)
    assert len(apt.host_sources("bookworm")) == 1


def test_another_release_of_debian_comes_from_where_this_machine_s_own_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    others = LINE.replace("bookworm", "bookworm-security") + LINE.replace("bookworm", "backports")
    calls = pretend(monkeypatch, 1000, LINE + others, "")
    release = tmp_path / "os-release"
    release.write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')
    monkeypatch.setattr(apt, "OS_RELEASE", release)
    known = "deb [signed-by=/usr/share/keyrings/debian.gpg] http://mirror.example/debian/"
    assert apt.host_sources("trixie") == [f"{known} trixie main", f"{known} trixie-security main"]
    assert not any("update" in call for call in calls)
    with pytest.raises(ImageError, match="no source for Debian noble"):
        apt.host_sources("noble")


@pytest.mark.parametrize("uid", [0, 1000])
def test_a_release_that_apt_does_not_know_is_told(
    monkeypatch: pytest.MonkeyPatch, uid: int
) -> None:
    calls = pretend(monkeypatch, uid, "", "")
    with pytest.raises(ImageError, match="no source for Debian bookworm"):
        apt.host_sources("bookworm")
    assert any("update" in call for call in calls) == (uid == 0)


# Fails, as apt does, where another fetches lists; else it has fetched them a moment later.
APT = f"""\
cd "${{0%/*}}"
case $1 in
indextargets) if [ -e lists ]; then printf '%s' '{LINE}'; fi ;;
update) mkdir lock || exit 100; sleep 0.3; touch lists; rmdir lock ;;
esac
"""


def test_two_that_need_the_lists_at_once_do_not_get_in_each_others_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As images that are built side by side on a machine that has never fetched any."""
    add_program(tmp_path / "bin", "apt-get", APT)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(apt, "APT_STATE", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(apt.host_sources, ["bookworm"] * 2)
    assert first == second
    assert len(first) == 1


def test_a_system_gets_the_lists_that_this_machine_has(tmp_path: Path) -> None:
    lists, root = tmp_path / "the lists", tmp_path / "root"
    (lists / "partial").mkdir(parents=True)
    wanted = ["x_dists_bookworm_InRelease", "x_dists_bookworm_main_binary-amd64_Packages"]
    for name in (*wanted, "x_dists_bookworm_main_i18n_Translation-en", "lock"):
        (lists / name).write_text(name)
    argv = ["sh", "-euc", apt.lists_script(lists), "sh", str(root)]
    subprocess.run(argv, check=True)
    there = root / "var/lib/apt/lists"
    assert sorted(path.name for path in there.iterdir()) == wanted
    assert (there / wanted[0]).stat().st_mtime == (lists / wanted[0]).stat().st_mtime


def test_without_lists_a_system_gets_none(tmp_path: Path) -> None:
    argv = ["sh", "-euc", apt.lists_script(tmp_path / "none"), "sh", str(tmp_path)]
    assert subprocess.run(argv, check=True, capture_output=True).stderr == b""
    assert list((tmp_path / "var/lib/apt/lists").iterdir()) == []
