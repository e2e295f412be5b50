"""Trees that are not as they should be: none of them is worth a node, or a hook's time."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.layout import JobLayout
from oar_lxc.lxcconfig import LXCFS
from oar_lxc.node import mounts
from oar_lxc.node.log import NodeLog
from oar_lxc.node.trees import mount_trees
from tests.integration.lxcfs import running_lxcfs


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[JobLayout]:
    layout = JobLayout(42, tmp_path)
    layout.trees.mkdir(parents=True)
    yield layout
    mounts.unmount_under(layout.directory)
    assert mounts.mounts_under(layout.directory) == []


def mount(layout: JobLayout, *trees: str) -> dict[str, str]:
    return mount_trees(layout, trees, 1000, 1000, NodeLog(), time.monotonic() + 40)


def test_what_is_no_directory_is_left_out_and_said(
    layout: JobLayout, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "good").mkdir()
    found = mount(layout, "/no/such", str(tmp_path / "file"), str(tmp_path / "good"))
    assert found == {str(tmp_path / "good"): str(layout.trees / "2")}
    assert mounts.mounts_under(layout.trees) == [layout.trees / "2"]
    assert mount(layout, "/no/such", str(tmp_path / "file"), str(tmp_path / "good")) == found


def test_a_file_system_that_knows_no_ids_of_mounts_is_mounted_as_it_is(
    layout: JobLayout, tmp_path: Path
) -> None:
    for name in ("lower", "upper", "work", "tree"):
        (tmp_path / name).mkdir()
    options = ",".join(f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work"))
    tree = tmp_path / "tree"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(tree)], check=True)
    try:
        (tree / "file").touch()
        (here,) = mount(layout, str(tree)).values()
        assert (Path(here) / "file").exists()
        table = Path("/proc/self/mounts").read_text().splitlines()
        (line,) = (line for line in table if f" {here} " in line)
        assert {"nosuid", "nodev"} <= set(line.split(" ")[3].split(","))
        mounts.unmount_under(layout.directory)
        assert (tree / "file").exists()
    finally:
        subprocess.run(["umount", str(tree)], check=True)


def test_a_server_that_does_not_answer_holds_nobody_up(layout: JobLayout, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    with running_lxcfs() as lxcfs:
        lxcfs.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        found = mount(layout, str(LXCFS / "proc"), str(tmp_path / "good"))
        assert time.monotonic() - begin < 6
        assert list(found) == [str(tmp_path / "good")]
