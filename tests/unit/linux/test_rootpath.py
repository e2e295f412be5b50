"""Paths of an image are looked up in the image, whatever its links say."""

from __future__ import annotations

from pathlib import Path

import pytest

from oar_lxc.linux.rootpath import is_program, outside, read_text, resolve


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    rootfs = tmp_path / "rootfs"
    (rootfs / "usr/bin").mkdir(parents=True)
    (rootfs / "bin").symlink_to("usr/bin")
    (rootfs / "usr/bin/dash").write_text("x")
    (rootfs / "usr/bin/dash").chmod(0o755)
    (rootfs / "usr/bin/sh").symlink_to("dash")
    (rootfs / "home").symlink_to("/usr/local/../homes")
    (rootfs / "loop").symlink_to("loop")
    (rootfs / "etc").symlink_to("../../../../etc")
    (tmp_path / "etc").mkdir()
    return rootfs


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/bin/sh", "/usr/bin/dash"),
        ("bin//./dash", "/usr/bin/dash"),
        ("/home/alice", "/usr/homes/alice"),
        ("/../../x", "/x"),
        ("/etc/passwd", "/etc/passwd"),
        ("/", "/"),
    ],
)
def test_links_count_from_the_images_root(rootfs: Path, path: str, found: str) -> None:
    (rootfs / "etc").unlink()
    assert resolve(rootfs, path) == found


def test_no_link_leads_out_of_an_image(rootfs: Path) -> None:
    (rootfs / "etc").unlink()
    (rootfs / "etc").mkdir()
    (rootfs / "etc/passwd").symlink_to("/../../../../../../etc/passwd")
    assert outside(rootfs, "/etc/passwd").is_relative_to(rootfs)
    assert read_text(rootfs, "/etc/passwd") == ""


@pytest.mark.parametrize("path", ["/loop", "/loop/x", "/etc"])
def test_links_in_circles_end(rootfs: Path, path: str) -> None:
    assert resolve(rootfs, path).startswith("/")


def test_a_program_is_a_file_that_can_be_run(rootfs: Path) -> None:
    assert is_program(rootfs, "/bin/sh")
    assert not is_program(rootfs, "/bin/zsh")
    assert not is_program(rootfs, "/usr/bin")
    (rootfs / "usr/bin/dash").chmod(0o644)
    assert not is_program(rootfs, "/bin/sh")
