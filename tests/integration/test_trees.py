"""Trees that are not as they should be: none of them is worth a node, or a hook's time."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.container.lxc_config import LXCFS
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.node_log import NodeLog
from oar_lxc.model.layout import JobLayout
from oar_lxc.root import idmapped
from oar_lxc.root.account import Account
from oar_lxc.root.trees import mount_trees
from tests.integration.lxcfs import running_lxcfs

ALICE = Account(1000, 1000, Path("/"))


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[JobLayout]:
    layout = JobLayout(42, tmp_path)
    layout.trees.mkdir(parents=True)
    yield layout
    idmapped.unmount_under(layout.directory)
    assert idmapped.mounts_under(layout.directory) == []


def mount(layout: JobLayout, *trees: str) -> dict[str, str]:
    return mount_trees(layout, trees, ALICE, NodeLog(), Deadline.after(40))


def test_what_is_no_directory_is_left_out_and_said(
    layout: JobLayout, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "good").mkdir()
    found = mount(layout, "/no/such", str(tmp_path / "file"), str(tmp_path / "good"))
    assert found == {str(tmp_path / "good"): str(layout.trees / "2")}
    assert idmapped.mounts_under(layout.trees) == [layout.trees / "2"]
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
        idmapped.unmount_under(layout.directory)
        assert (tree / "file").exists()
    finally:
        subprocess.run(["umount", str(tree)], check=True)


def test_what_is_mounted_below_is_mounted_one_by_one(
    layout: JobLayout, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One that knows no ids of mounts is as it is; the others are as they should be."""
    tree = tmp_path / "tree"
    points = [tree / "good", tree / "good/below", tree / "plain", tree / "plain/good"]
    try:
        for point, kind in zip(points, ("tmpfs", "tmpfs", "ramfs", "tmpfs"), strict=True):
            point.mkdir(parents=True)
            subprocess.run(["mount", "-t", kind, "-o", "mode=755", kind, str(point)], check=True)
            (point / "file").touch()
        (here,) = map(Path, mount(layout, str(tree)).values())
        options = {}
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split(" ")
            if fields[4].startswith(str(here)):
                options[Path(fields[4])] = set(fields[5].split(","))
        assert set(options) == {here, *(here / point.relative_to(tree) for point in points)}
        assert all({"nosuid", "nodev"} <= found for found in options.values())
        plain = {point for point, found in options.items() if "idmapped" not in found}
        assert plain == {here / "plain"}
        assert (here / "plain/good/file").exists()
        idmapped.unmount_under(layout.directory)
        assert all((point / "file").exists() for point in points)
    finally:
        subprocess.run(["umount", "--lazy", str(tree / "good"), str(tree / "plain")], check=True)


def test_a_server_that_does_not_answer_holds_nobody_up(layout: JobLayout, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    with running_lxcfs() as lxcfs:
        lxcfs.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        found = mount(layout, str(LXCFS / "proc"), str(tmp_path / "good"))
        assert time.monotonic() - begin < 6
        assert list(found) == [str(tmp_path / "good")]
