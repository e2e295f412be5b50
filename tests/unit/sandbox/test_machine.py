"""Machines: what they are made of, and commands that arrive as they were given."""

from __future__ import annotations

import os
import subprocess
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from oar_lxc.model.addresses import POOL
from oar_lxc.sandbox.cluster import _server_arguments, not_alive
from oar_lxc.sandbox.machine import Definition, HostMount, Machine
from oar_lxc.sandbox.network import CANDIDATES, Addresses
from oar_lxc.sandbox.state import SandboxError, Settings, State
from tests.unit.fakes.programs import add_program

WHERE = Addresses(IPv4Network("10.77.0.0/24"))


def machine(tmp_path: Path, name: str = "node1") -> Machine:
    return Machine(name, State(tmp_path / "state", tmp_path))


def definition(tmp_path: Path) -> Definition:
    return Definition(
        lowers=[tmp_path / "layer", tmp_path / "base"],
        mounts=[HostMount(tmp_path / "home", "home")],
        address=IPv4Address("10.77.0.11"),
        prefix=24,
        gateway=IPv4Address("10.77.0.1"),
        files={"etc/hostname": "node1\n"},
    )


def inside(command: list[str]) -> list[str]:
    """Return the part of a host's command that runs on the machine."""
    return command[command.index("--") + 1 :]


@pytest.mark.parametrize("word", ["a b", "it's", '"', "$HOME", "", "é\n", "*", "-x", "; false"])
def test_arguments_arrive_as_they_are(tmp_path: Path, word: str) -> None:
    argv = inside(machine(tmp_path).command(["printf", "%s|", word, "end"]))
    argv[argv.index("HOME=/root")] = f"HOME={tmp_path}"
    said = subprocess.run(argv, capture_output=True, check=True)
    assert said.stdout == f"{word}|end|".encode()


def test_a_command_starts_at_home_and_its_status_is_passed_on(tmp_path: Path) -> None:
    argv = inside(machine(tmp_path).command(["sh", "-c", "pwd; exit 7"]))
    argv[argv.index("HOME=/root")] = f"HOME={tmp_path}"
    said = subprocess.run(argv, capture_output=True, check=False)
    assert (said.stdout.decode().strip(), said.returncode) == (os.path.realpath(tmp_path), 7)


def test_a_user_s_command_takes_on_user_group_and_a_clean_environment(tmp_path: Path) -> None:
    argv = machine(tmp_path).command(["id"], user="alice")
    assert "--clear-env" in argv[: argv.index("--")]
    assert {"--reuid=alice", "--regid=alice", "--init-groups", "--reset-env"} <= set(argv)


def test_a_machine_exists_when_all_of_it_is_written(tmp_path: Path) -> None:
    node = machine(tmp_path)
    assert (node.exists, node.ready) == (False, False)
    node.define(definition(tmp_path))
    assert (node.exists, node.ready) == (True, False)
    node.mark_ready()
    assert node.ready


def test_a_user_that_a_machine_does_not_have_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    node = machine(tmp_path)
    node.define(definition(tmp_path))
    add_program(tmp_path / "bin", "lxc-info", "echo -1")
    with pytest.raises(SandboxError, match="machine node1 does not run: `oar-lxc sandbox up`"):
        node.require_user("alice")
    users = (
        "root:x:0:0::/root:/bin/bash\\nalice:x:1:1::/home/alice:/bin/sh\\nd:x:2:2::/:/bin/false"
    )
    add_program(tmp_path / "bin", "lxc-info", "echo 7")
    groups = "root:x:0:\\nalice:x:1:"
    body = f"case $* in *group*) printf '{groups}' ;; *) printf '{users}' ;; esac"
    add_program(tmp_path / "bin", "lxc-attach", body)
    node.require_user("alice")
    with pytest.raises(SandboxError) as caught:
        node.require_user("bob")
    assert str(caught.value) == "machine node1 has no user bob; users with a shell: alice, root"
    with pytest.raises(SandboxError, match="user d of machine node1 has no group of the same"):
        node.require_user("d")


def test_the_topmost_layer_comes_first(tmp_path: Path) -> None:
    node = machine(tmp_path)
    node.define(definition(tmp_path))
    config = (node.directory / "config").read_text()
    path = f"overlayfs:{tmp_path}/layer:{tmp_path}/base:{node.directory}/upper"
    assert f"lxc.rootfs.path = {path}\n" in config
    assert f"lxc.mount.entry = {tmp_path}/home home none bind,create=dir 0 0\n" in config


def test_a_machine_made_again_has_nothing_of_the_one_before(tmp_path: Path) -> None:
    node = machine(tmp_path)
    node.define(definition(tmp_path))
    node.mark_ready()
    (node.directory / "upper" / "old").touch()
    node.define(definition(tmp_path))
    assert not node.ready
    assert [p.name for p in (node.directory / "upper").iterdir()] == ["etc"]


def test_addresses_are_different_and_apart_from_those_of_jobs() -> None:
    names = ["server", "frontend", *Settings(nodes=100).node_names]
    addresses = [WHERE.of(name) for name in names]
    assert len({*addresses, WHERE.gateway}) == len(names) + 1
    assert all(address in WHERE.network for address in addresses)
    assert not any(candidate.overlaps(POOL) for candidate in CANDIDATES)


def test_every_machine_knows_the_others_by_name() -> None:
    hosts = WHERE.hosts(["server", "node2"]).splitlines()
    assert "10.77.0.2 server" in hosts
    assert "10.77.0.12 node2" in hosts
    assert not any(line.startswith("127.0.1.1") for line in hosts)


def test_the_server_is_set_up_as_asked() -> None:
    arguments = _server_arguments(Settings(nodes=2, cores=1, cpuset=False, stanza=False), WHERE)
    assert arguments.count("--node") == 2
    assert {"node1=1", "node2=1", "--no-cpuset", "--no-stanza"} <= set(arguments)
    assert not {"--no-cpuset", "--no-stanza"} & set(_server_arguments(Settings(), WHERE))


def test_nodes_that_oar_does_not_call_alive_are_found() -> None:
    listing = "node1\n    1 : Alive\n    2 : Alive\nnode2\n    3 : Suspected\n    4 : Dead\n"
    assert not_alive(listing) == ["node2"]
    assert not_alive("") == []


def test_newer_oar_writes_a_colon_behind_the_name_of_a_node() -> None:
    listing = (
        "node1:\n    1: Alive\n    2: Alive\nnode2:\n    3: Suspected (standby)\n    4: Alive\n"
    )
    assert not_alive(listing) == ["node2"]
