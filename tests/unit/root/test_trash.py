"""Directories of ended jobs: out of reach at once, removed in time or handed over."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from oar_lxc.errors import CommandTimeoutError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.node_log import NodeLog
from oar_lxc.model.layout import JobLayout
from oar_lxc.root import trash
from oar_lxc.root.trash import discard, list_trash, trash_of


@pytest.fixture
def layout(tmp_path: Path) -> JobLayout:
    layout = JobLayout(42, tmp_path)
    (layout.directory / "containers").mkdir(parents=True)
    (tmp_path / "jobs/421").mkdir()
    return layout


def soon() -> Deadline:
    return Deadline.after(10)


def test_a_directory_is_removed_and_no_other(layout: JobLayout) -> None:
    discard(layout, NodeLog(layout.state / "log"), soon())
    assert os.listdir(layout.state / "jobs") == ["421"]
    assert list_trash(layout.trash) == []
    assert layout.trash.stat().st_mode & 0o777 == 0o700


def test_what_is_gone_is_fine(layout: JobLayout) -> None:
    for _ in range(2):
        discard(layout, NodeLog(layout.state / "log"), soon())


def late(path: Path, timeout: float) -> None:
    raise CommandTimeoutError(["rm"], timeout)


def test_what_is_not_removed_in_time_is_handed_over_and_out_of_reach(
    layout: JobLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(trash, "remove_tree", late)
    monkeypatch.setattr(trash, "run", lambda argv, timeout: started.append(argv))
    discard(layout, NodeLog(layout.state / "log"), soon())
    assert not layout.directory.exists()
    (left,) = trash_of(layout)
    assert (left / "containers").is_dir()
    assert started == [["systemctl", "start", "--no-block", "oar-lxc-reap.service"]]
    line = json.loads((layout.state / "log").read_text())
    assert (line["event"], line["path"]) == ("handed over", str(left))


def test_the_next_one_goes_on_with_what_an_earlier_one_left(layout: JobLayout) -> None:
    for name in ("42-1", "42-2/deep", "421-1", "x"):
        (layout.trash / name).mkdir(parents=True)
    discard(layout, NodeLog(layout.state / "log"), soon())
    assert [path.name for path in list_trash(layout.trash)] == ["421-1", "x"]


def test_a_link_is_removed_itself(layout: JobLayout) -> None:
    layout.trash.mkdir()
    (layout.trash / "42-7").symlink_to("/etc")
    discard(layout, NodeLog(layout.state / "log"), soon())
    assert list_trash(layout.trash) == []
    assert Path("/etc").is_dir()
