"""What is on disk before containers start."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.container.create import create_containers, remove_containers
from oar_lxc.container.job_namespaces import JobNamespaces
from oar_lxc.container.node_launch import NodeLaunch
from oar_lxc.errors import CommandError
from oar_lxc.linux.ed25519 import KeyPair
from oar_lxc.model.layout import BRIDGE_INSIDE
from oar_lxc.model.names import Peer
from oar_lxc.model.plan import PlannedContainer
from tests.unit.fakes.node import KEYS, FakeNode
from tests.unit.fakes.programs import add_program, recorded, recorder
from tests.unit.fakes.runtime import IMAGE

PAIRS = {name: KeyPair(bytes([number]) * 64) for number, name in enumerate(("vm1", "vm2"))}
NAMES = {
    "vm1": Peer("100.65.80.2", PAIRS["vm1"].public),
    "vm2": Peer("100.65.80.3", PAIRS["vm2"].public),
}
SHARE = [
    PlannedContainer(name, "node1", f"{ip}/21", IMAGE, "vm") for name, (ip, _, _) in NAMES.items()
]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    called = tmp_path / "called"  # by each program that should be the containers' root
    monkeypatch.setattr(JobNamespaces, "become_root", lambda self: called.touch())
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    node = FakeNode(tmp_path / "node1")
    yield node
    node.runtime.close()


def create(node: FakeNode) -> None:
    images = {IMAGE: node.layout.images / IMAGE / "rootfs"}
    launch = NodeLaunch(node.layout, node.published, "s1", images, KEYS, PAIRS, NAMES)
    made = create_containers(launch, SHARE)
    assert [name for names in made for name in names] == list(NAMES)


def config(node: FakeNode, name: str) -> dict[str, str]:
    lines = (node.layout.containers / name / "config").read_text().splitlines()
    assert len(lines) == len({line.split(" = ")[0] for line in lines}) + 1  # lxc.idmap twice
    return dict(line.split(" = ", 1) for line in lines)


def layer(node: FakeNode) -> Path:
    return node.layout.containers / ".layers.s1/vm"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_configuration_names_the_containers_own_directory_address_and_bridge(
    node: FakeNode,
) -> None:
    create(node)
    facts = config(node, "vm2")
    directory = node.layout.containers / "vm2"
    rootfs = node.layout.images / IMAGE / "rootfs"
    assert facts["lxc.uts.name"] == "vm2"
    assert facts["lxc.rootfs.path"] == f"overlay:{layer(node)}:{rootfs}:{directory}/upper"
    assert facts["lxc.net.0.link"] == BRIDGE_INSIDE
    assert facts["lxc.net.0.ipv4.address"] == "100.65.80.3/21 100.65.87.255"
    assert facts["lxc.net.0.ipv4.gateway"] == "100.65.80.1"
    assert facts["lxc.log.file"] == f"{directory}/lxc.log"


def test_a_container_gets_the_ids_of_the_job_and_no_others(node: FakeNode) -> None:
    create(node)
    lines = (node.layout.containers / "vm1/config").read_text().splitlines()
    assert [line for line in lines if line.startswith("lxc.idmap")] == [
        f"lxc.idmap = {kind} 0 0 65536" for kind in "ug"
    ]


def test_a_container_knows_its_name_and_all_others(node: FakeNode) -> None:
    create(node)
    assert (node.layout.containers / "vm1/upper/etc/hostname").read_text() == "vm1\n"
    assert (layer(node) / "etc/hosts").read_text() == (
        "127.0.0.1 localhost\n100.65.80.2 vm1 # oar-lxc\n100.65.80.3 vm2 # oar-lxc\n"
    )


def test_keys_are_where_sshd_looks_and_private_ones_are_private(node: FakeNode) -> None:
    create(node)
    authorized = layer(node) / "root/.ssh/authorized_keys"
    assert (authorized.read_text(), mode(authorized)) == (KEYS["authorized"], 0o600)
    for name, pair in PAIRS.items():
        directory = node.layout.containers / name
        host = directory / "upper/etc/ssh/ssh_host_ed25519_key"
        assert mode(host) == 0o600
        assert pair.private().splitlines()[0] == host.read_text().splitlines()[0]
        assert Path(f"{host}.pub").read_text() == f"{pair.public}\n"
        assert json.loads((directory / "container.json").read_text())["host_key"] == pair.public
    root = layer(node) / "root"
    assert mode(root) & 0o777 == mode(root / ".ssh") & 0o777 == 0o700


def test_what_containers_root_owns_is_unpacked_under_its_ids(
    node: FakeNode, tmp_path: Path
) -> None:
    add_program(tmp_path / "bin", "tar", recorder(tmp_path / "calls", f"ls {tmp_path}/called"))
    create(node)
    assert [call[0] for call in recorded(tmp_path / "calls")] == ["-xp"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_users_umask_does_not_matter(node: FakeNode, umask: int) -> None:
    before = os.umask(umask)
    try:
        create(node)
    finally:
        os.umask(before)
    assert mode(node.layout.containers / "vm1") == 0o770
    assert mode(layer(node) / "etc/hosts") == 0o644


def test_a_failing_unpack_is_an_error(node: FakeNode, tmp_path: Path) -> None:
    add_program(tmp_path / "bin", "tar", "echo No space left >&2; exit 2")
    with pytest.raises(CommandError, match="No space left"):
        create(node)


def test_removal_takes_what_was_named_and_nothing_else(node: FakeNode) -> None:
    create(node)
    remove_containers(node.layout, node.published, ["vm1"])
    assert sorted(os.listdir(node.layout.containers)) == [".layers.s1", "vm2"]
    assert (layer(node) / "etc/hosts").exists()


def test_removal_may_run_twice_and_of_nothing(node: FakeNode) -> None:
    create(node)
    for _ in range(2):
        remove_containers(node.layout, node.published, ["vm1", "vm2"])
    remove_containers(node.layout, node.published, [])
    assert os.listdir(node.layout.containers) == []


def test_removal_does_not_follow_links(node: FakeNode, tmp_path: Path) -> None:
    create(node)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (node.layout.containers / "vm1/link").symlink_to(outside)
    (node.layout.containers / "vm1/upper/link").symlink_to(outside)
    remove_containers(node.layout, node.published, ["vm1"])
    assert (outside / "file").exists()
