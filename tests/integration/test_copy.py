"""Copies onto a full disk, into a container's tar and out of it: nothing is cut short."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from oar_lxc.cli.shared.attach import AttachCommand
from oar_lxc.cli.shared.tarpipe import ContainerSource, ContainerTarget
from oar_lxc.client.copy import (
    CopyError,
    LocalSource,
    LocalTarget,
    Place,
    Source,
    Target,
    transfer,
)
from oar_lxc.linux.run import run


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Return a directory on a file system of 1 MiB."""
    small = tmp_path / "small"
    small.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(small)])
    yield small
    run(["umount", str(small)])


def copy(source: Source, target: Target) -> None:
    """Copy all of a source."""
    with closing(source), closing(target):
        transfer(source, target, complain, lambda number: None)
        source.finish()
        target.finish()


def complain(sentence: str, *, lost: bool = True) -> None:
    """Fail: nothing is to be complained of."""
    pytest.fail(sentence)


def attach(argv: Sequence[str]) -> AttachCommand:
    """Return what runs a command in the "container", which is this machine."""
    return AttachCommand(tuple(argv), "node1", "")


@pytest.mark.parametrize("inwards", [True, False], ids=["into", "out of"])
@pytest.mark.parametrize("name", ["", "three"], ids=["directory", "name"])
def test_a_full_disk_is_told_in_the_words_of_the_system(
    small: Path, tmp_path: Path, inwards: bool, name: str
) -> None:
    (tmp_path / "three").write_bytes(os.urandom(3 << 20))
    (small / "before").write_text("mine")
    goal = str(small / name)
    place = Place("42/vm1", goal if inwards else str(tmp_path / "three"))
    if inwards:
        source: Source = LocalSource(str(tmp_path / "three"), complain)
        target: Target = ContainerTarget(place, attach, False, complain)
    else:
        source = ContainerSource(place, attach, complain)
        target = LocalTarget(goal, False, complain)
    with pytest.raises(CopyError, match=r"No space left on device$") as caught:
        copy(source, target)
    assert goal.rstrip("/") in str(caught.value)
    assert os.listdir(small) == ["before"]
