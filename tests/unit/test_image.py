"""Images: their names, finding them, and building one whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given

from oar_lxc import image as image_module
from oar_lxc.cli import images as cli_images
from oar_lxc.cli.images import image
from oar_lxc.errors import CommandError, ImageError
from oar_lxc.image import build, check_name, find_image, list_images
from tests.unit.fakes import add_program, invoke, recorded, recorder
from tests.unit.strategies import hostile, quick

# Makes as much of a Debian system as is configured afterwards.
MMDEBSTRAP = """
for target; do case "$target" in */rootfs) break;; esac; done
mkdir -p "$target/etc/ssh/sshd_config.d" "$target/etc/systemd/system"
echo generated > "$target/etc/ssh/ssh_host_rsa_key"
echo name-of-the-builder > "$target/etc/hostname"
echo 1234 > "$target/etc/machine-id"
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    log = tmp_path / "calls"
    add_program(tmp_path / "bin", "mmdebstrap", recorder(log, MMDEBSTRAP))
    # Namespaces of its own are root's to make.
    monkeypatch.setattr(image_module, "contained", list)
    # What the machine's apt is asked takes long.
    monkeypatch.setattr(image_module, "host_sources", lambda suite: [f"deb http://x {suite} main"])
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return log


@quick
@given(hostile)
def test_what_is_taken_for_a_name_stays_in_its_directory(name: str) -> None:
    try:
        check_name(name)
    except ImageError:
        return
    assert name.isascii()
    assert not set(name) & set("/\0\n\\ ")
    assert ".." not in name
    assert not name.startswith((".", "-"))


def test_images_are_directories_with_a_root_file_system(tmp_path: Path) -> None:
    for name in ("b", "a", ".half.x", "Not-A-Name"):
        (tmp_path / name / "rootfs").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    assert list_images(tmp_path) == ["a", "b"]
    assert list_images(tmp_path / "missing") == []


def test_an_image_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a/rootfs").mkdir(parents=True)
    assert find_image("a", tmp_path) == tmp_path / "a/rootfs"


def test_an_unknown_image_is_one_sentence_that_names_those_that_exist(tmp_path: Path) -> None:
    (tmp_path / "a/rootfs").mkdir(parents=True)
    with pytest.raises(ImageError) as caught:
        find_image("b", tmp_path)
    assert str(caught.value) == "image b does not exist on this node; images here: a"
    with pytest.raises(ImageError, match="images here: none"):
        find_image("b", tmp_path / "missing")


def test_the_store_that_a_build_makes_is_closed_to_users(tmp_path: Path, calls: Path) -> None:
    # Images hold programs that are set-user-id root, and are never updated in place.
    build("debian-12", tmp_path / "store/images")
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700


def test_a_built_image_has_no_keys_name_or_id_of_its_own(tmp_path: Path, calls: Path) -> None:
    rootfs = build("debian-12", tmp_path / "images")
    assert rootfs == tmp_path / "images/debian-12/rootfs"
    assert list((rootfs / "etc/ssh").glob("ssh_host_*")) == []
    assert not (rootfs / "etc/hostname").exists()
    assert (rootfs / "etc/machine-id").read_text() == ""
    assert stat.S_IMODE(rootfs.parent.stat().st_mode) == 0o755
    assert "bookworm" in recorded(calls)[0]
    assert sorted(os.listdir(rootfs.parent)) == ["image.json", "rootfs"]


def test_an_image_that_exists_is_not_built_again(tmp_path: Path, calls: Path) -> None:
    first = build("debian-12", tmp_path / "images")
    (first / "mark").touch()
    assert build("debian-12", tmp_path / "images") == first
    assert (first / "mark").exists()
    assert len(recorded(calls)) == 1


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, calls: Path) -> None:
    add_program(tmp_path / "bin", "mmdebstrap", MMDEBSTRAP + "echo E: no mirror >&2; exit 25")
    with pytest.raises(CommandError, match="E: no mirror"):
        build("debian-12", tmp_path / "images")
    assert os.listdir(tmp_path / "images") == []


def test_a_build_without_the_program_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="apt-get install mmdebstrap"):
        build("debian-12", tmp_path / "images")


def test_there_are_recipes_for_some_names_only(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no recipe for image debian-99; recipes: debian-12"):
        build("debian-99", tmp_path)


def test_a_build_says_what_it_does(tmp_path: Path, calls: Path) -> None:
    said: list[str] = []
    build("debian-12", tmp_path / "images", say=said.append)
    assert said[0] == "building image debian-12 from Debian's packages"
    assert said[-1].startswith("built image debian-12 in ")


@pytest.mark.parametrize(
    ("names", "arguments", "stdout", "stderr"),
    [
        (["a", "b"], [], "a\nb\n", ""),
        (["a", "b"], ["--json"], '["a", "b"]\n', ""),
        ([], ["--json"], "[]\n", ""),
    ],
)
def test_the_command_lists_images(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    names: list[str],
    arguments: list[str],
    stdout: str,
    stderr: str,
) -> None:
    monkeypatch.setattr(cli_images, "list_images", lambda directory: names)
    assert invoke(image, "list", *arguments) == 0
    assert capsys.readouterr() == (stdout, stderr)


def test_that_there_are_no_images_is_told_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_images, "list_images", lambda directory: [])
    assert invoke(image, "list") == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "no images" in told.err


def test_the_command_builds_where_it_is_told(
    tmp_path: Path, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "images"
    assert invoke(image, "build", "debian-12", "--directory", str(target)) == 0
    assert capsys.readouterr().out == f"{target}/debian-12/rootfs\n"
    assert (target / "debian-12/rootfs").is_dir()
