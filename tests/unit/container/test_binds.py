"""What containers are to see of a node, and where, refused where LXC could not mount it."""

from __future__ import annotations

from pathlib import Path

import pytest

from oar_lxc.container.binds import binds_of
from oar_lxc.errors import SpecError
from oar_lxc.model.job import Job
from oar_lxc.model.plan import make_plan
from oar_lxc.model.published import READY, PublishedJob
from oar_lxc.model.spec import Group

IMAGE = "image"


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """Return a directory with what a node and an image have."""
    for name in ("home", "data/sub", "data/deep/er", "image/etc", "image/srv", "image/data"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("data/file", "image/etc/passwd", "image/data/file"):
        (tmp_path / name).touch()
    (tmp_path / "data/link").symlink_to("sub")
    (tmp_path / "image/also").symlink_to("srv")
    return tmp_path


def bind(node: Path, *mounts: str, home: bool = False) -> list[str]:
    """Return the targets of what is mounted in a container."""
    trees = {str(node): str(node)}
    published = PublishedJob(42, "alice", "node1", ("node1",), READY, trees=trees)
    texts = [mount.replace("NODE", str(node)) for mount in mounts]
    group = Group(home=home, mounts=texts)  # type: ignore[arg-type]  # which it parses
    container = make_plan(group, Job(42, "alice", {"node1": 1})).containers[0]
    return [
        str(one.target) for one in binds_of(published, container, f"{node}/home", node / IMAGE)
    ]


@pytest.mark.parametrize(
    ("mounts", "targets"),
    [
        (["NODE/data:/srv"], ["/srv"]),
        (["NODE/data:/new/below"], ["/new/below"]),
        (["NODE/data:/also/x"], ["/srv/x"]),  # a link of the image is followed
        (["NODE/data/file:/etc/passwd"], ["/etc/passwd"]),
        (["NODE/data:/srv", "NODE/home:/srv/sub"], ["/srv", "/srv/sub"]),
        (["NODE/data:/srv", "NODE/home:/srv/deep/er"], ["/srv", "/srv/deep/er"]),
        (["NODE/data:/srv", "NODE/data/file:/srv/file"], ["/srv", "/srv/file"]),
        (["NODE/data:/srv", "NODE/home:/srv2/new"], ["/srv", "/srv2/new"]),  # not below it
        (["NODE/home:/srv/sub", "NODE/data:/srv"], ["/srv/sub", "/srv"]),
    ],
)
def test_what_can_be_mounted_is(node: Path, mounts: list[str], targets: list[str]) -> None:
    assert bind(node, *mounts) == targets


@pytest.mark.parametrize(
    ("mounts", "sentence"),
    [
        (
            ["NODE/data:/srv", "NODE/home:/srv/no/such"],
            "NODE/home: its target /srv/no/such cannot be made in what is mounted at /srv: "
            "make NODE/data/no/such on the node first, or choose another target",
        ),
        (
            ["NODE/data:/also", "NODE/home:/srv/new"],
            "NODE/home: its target /srv/new cannot be made in what is mounted at /srv: "
            "make NODE/data/new on the node first, or choose another target",
        ),
        (
            ["NODE/data:/srv", "NODE/home:/srv/sub", "NODE/data:/srv/sub/new"],
            "NODE/data: its target /srv/sub/new cannot be made in what is mounted at /srv/sub: "
            "make NODE/home/new on the node first, or choose another target",
        ),
        (
            ["NODE/data:/srv", "NODE/home:/srv/link"],
            "NODE/home: its target /srv/link leads over the link /srv/link: choose another target",
        ),
        (
            ["NODE/data:/srv", "NODE/home:/srv/file"],
            "NODE/home: its target /srv/file is a file in the container, and the source a "
            "directory: choose another target",
        ),
        (
            ["NODE/data:/etc/passwd"],
            "NODE/data: its target /etc/passwd is a file in the container, and the source a "
            "directory: choose another target",
        ),
        (
            ["NODE/data/file:/srv"],
            "NODE/data/file: its target /srv is a directory in the container, and the source a "
            "file: choose another target",
        ),
        (
            ["NODE/data/file:/srv/file", "NODE/data:/srv/file/x"],
            "NODE/data: its target /srv/file/x is below /srv/file, which is a file: choose "
            "another target",
        ),
        (
            ["NODE/data:/etc/passwd/x"],
            "NODE/data: its target /etc/passwd/x is below /etc/passwd, which is a file: choose "
            "another target",
        ),
    ],
)
def test_what_cannot_be_mounted_is_one_sentence_with_group_key_and_path(
    node: Path, mounts: list[str], sentence: str
) -> None:
    with pytest.raises(SpecError) as caught:
        bind(node, *mounts)
    assert str(caught.value) == f"group vm: mount {sentence.replace('NODE', str(node))}"


def test_below_the_home_containers_make_nothing(node: Path) -> None:
    """Though it can be written to: there, their root is nobody."""
    sentence = (
        rf"mount {node}/data: its target {node}/home/new cannot be made .* make {node}/home/"
    )
    with pytest.raises(SpecError, match=sentence):
        bind(node, f"NODE/data:{node}/home/new", home=True)
    (node / "home/new").mkdir()
    assert bind(node, f"NODE/data:{node}/home/new", home=True)[1] == f"{node}/home/new"
