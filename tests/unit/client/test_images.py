"""Which images a job has on its nodes, asked of fake nodes from a frontend."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.cli.images import image
from oar_lxc.client import lookup
from oar_lxc.client.images import images_of
from oar_lxc.errors import ImageError, NodeError, UsageError
from oar_lxc.image.importing import import_image
from oar_lxc.image.provide import pushed_store
from oar_lxc.image.record import ImageRecord
from oar_lxc.image.store import Store
from oar_lxc.model.image_name import ImageName
from tests.unit.archives import member, system
from tests.unit.fakes.node import FakeNode
from tests.unit.fakes.programs import invoke
from tests.unit.fakes.remote import FakeRemote
from tests.unit.fakes.runtime import IMAGE

NODES = ("node2", "node10")  # in the order of the job, which is not that of the alphabet


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRemote]:
    """Return the way to two nodes of job 42, seen from a frontend, where its user has a home."""
    remote = FakeRemote({name: FakeNode(tmp_path / name, name, NODES) for name in NODES})
    monkeypatch.setattr(lookup, "find_remote", lambda job_id: remote)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield remote
    remote.close()


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Return an archive."""
    path = tmp_path / "small.tar"
    path.write_bytes(system())
    return str(path)


def public(remote: FakeRemote, node: str, name: str, digest: str) -> None:
    """Let a node have a public image with a digest of this digit alone."""
    parsed = ImageName.parse(name)
    directory = remote.by_name[node].layout.images / parsed.directory
    (directory / "rootfs").mkdir(parents=True, exist_ok=True)
    record = ImageRecord(parsed.name, parsed.tag, f"sha256:{digest * 64}")
    (directory / "image.json").write_text(record.to_json())


def test_what_nodes_have_alike_is_one_image(remote: FakeRemote, source: str) -> None:
    """The public ones are first; what differs in its digest is another image."""
    for node, digest in zip(NODES, "ba", strict=True):
        public(remote, node, IMAGE, "d")
        public(remote, node, "tool:1", digest)
    pushed = import_image(
        pushed_store(remote.by_name["node10"].layout), ImageName("a"), source
    ).digest
    found = images_of(remote)
    assert [
        (one.facts.image, one.facts.whose, one.facts.digest[:8], one.nodes) for one in found
    ] == [
        (IMAGE, "public", "sha256:d", ["node2", "node10"]),
        ("tool:1", "public", "sha256:a", ["node10"]),
        ("tool:1", "public", "sha256:b", ["node2"]),
        ("a", "own", pushed[:8], ["node10"]),
    ]
    assert found[0].facts.path == str(remote.by_name["node2"].layout.images / IMAGE)


def test_a_node_that_does_not_answer_is_an_error(remote: FakeRemote) -> None:
    """A list that lacks it would tell that the image has to be made there."""
    remote.unreachable = ["node10"]
    with pytest.raises(NodeError, match="node10"):
        images_of(remote)


def test_a_frontend_lists_the_images_of_a_job_and_those_at_home(
    remote: FakeRemote, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import_image(Store.private(), ImageName("mine"), source)
    assert invoke(image, "list", "--job", "42") == 0
    told = capsys.readouterr()
    head, first, second = told.out.splitlines()
    assert head.split() == ["IMAGE", "WHOSE", "SIZE", "CREATED", "DIGEST", "NODES"]
    assert first.split()[:2] + first.split()[-1:] == [IMAGE, "public", "node2,node10"]
    assert second.split()[:2] + second.split()[-2:] == ["mine", "own", "at", "home"]
    assert told.err == ""
    assert invoke(image, "list", "--job", "42", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["image"], one["nodes"]) for one in found] == [(IMAGE, list(NODES)), ("mine", [])]


def test_a_frontend_shows_an_image_that_is_on_nodes_alone(
    remote: FakeRemote, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(image, "show", IMAGE, "--job", "42") == 0
    told = capsys.readouterr().out.splitlines()
    assert {f"image: {IMAGE}", "whose: public", "nodes: node2, node10"} <= set(told)
    import_image(Store.private(), ImageName("mine"), source)
    assert invoke(image, "show", "mine", "--job", "42", "--json") == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert (facts["image"], facts["whose"], facts["nodes"]) == ("mine", "own", [])
    with pytest.raises(ImageError, match=f"image no is on no node of job 42; .*: {IMAGE}, mine$"):
        invoke(image, "show", "no", "--job", "42")


def test_who_looks_for_an_image_at_home_alone_is_told_where_else_it_may_be(
    remote: FakeRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ImageError, match=r"public .* as in `oar-lxc image show there --job 42`"):
        invoke(image, "show", "there")


def test_that_a_jobs_nodes_have_no_images_is_told_on_standard_error(
    remote: FakeRemote, capsys: pytest.CaptureFixture[str]
) -> None:
    for node in remote.by_name.values():
        (node.layout.images / IMAGE / "rootfs").rmdir()
    assert invoke(image, "list", "--job", "42") == 0
    assert capsys.readouterr() == ("", "no images on its nodes\n")


def test_a_job_and_a_store_are_not_asked_for_at_once(remote: FakeRemote) -> None:
    for words in (["list"], ["show", IMAGE]):
        with pytest.raises(UsageError, match="--job or --store, not both"):
            invoke(image, *words, "--job", "42", "--store", "/x")


def test_a_hostile_archive_of_the_pushed_ones_is_not_opened(remote: FakeRemote) -> None:
    """A list reads records alone."""
    store = pushed_store(remote.by_name["node2"].layout)
    (store.root / "bad").mkdir(parents=True)
    (store.root / "bad/rootfs.tar.zst").write_bytes(system(member("/x"))[:600])
    assert [one.facts.image for one in images_of(remote)] == [IMAGE, "bad"]
