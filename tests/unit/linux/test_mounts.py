"""Mount points below a directory, whatever users call theirs."""

from __future__ import annotations

from pathlib import Path

from oar_lxc.linux.mounts import mounts_below

POINTS = ["/", "/a", "/a/b\\040c", "/a/b\\040c/d", "/ab", "/a/\x0bx\u2028", "/a/\udcff"]


def test_mounts_below_a_directory_are_found_deepest_first(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    lines = [f"{n} 1 0:{n} / {point} rw - tmpfs x rw" for n, point in enumerate(POINTS)]
    table.write_text("\n".join(lines) + "\n", "utf-8", "surrogateescape")
    below = ["/a/b c/d", "/a/b c", "/a/\x0bx\u2028", "/a/\udcff", "/a"]
    assert mounts_below(Path("/a"), table) == [Path(point) for point in below]
    assert mounts_below(Path("/a/b"), table) == []
