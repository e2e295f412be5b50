"""Each start of a container has a path of its own, which nobody can guess."""

from __future__ import annotations

import os
from pathlib import Path

from oar_lxc.container.lxc_path import command_socket, lxc_path, renew_lxc_path


def test_a_container_that_was_never_started_has_the_plain_path(tmp_path: Path) -> None:
    assert lxc_path(tmp_path, "vm1") == str(tmp_path)


def test_each_start_has_another_path_to_the_same_directory(tmp_path: Path) -> None:
    (tmp_path / "vm1").mkdir()
    first = renew_lxc_path(tmp_path, "vm1")
    assert lxc_path(tmp_path, "vm1") == first
    second = renew_lxc_path(tmp_path, "vm1")
    assert second != first
    assert Path(second).samefile(tmp_path)
    assert not os.path.lexists(first)
    assert len(Path(second).name) == 16


def test_a_directory_that_is_gone_is_lxcs_to_report(tmp_path: Path) -> None:
    assert renew_lxc_path(tmp_path, "vm1") == str(tmp_path)


def test_a_socket_has_the_name_that_lxc_gives_it() -> None:
    """As lxc_make_abstract_socket_name does; a long name is a hash (FNV-1a)."""
    assert command_socket("/p", "vm1") == b"\0/p/vm1/command"
    long = command_socket("/" + "p" * 100, "vm1")
    assert long.startswith(b"\0lxc/")
    assert long.endswith(b"/command")
    assert len(long) == 1 + len("lxc//command") + 16
