"""`oar-lxc plan`: mistakes of a spec file that only show for a job's nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oar_lxc.cli.main import cli
from oar_lxc.errors import SpecError
from tests.unit.fakes.programs import invoke


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("per_node = 5000", ", group vm: per_node is 5000; the job's network has 2044 addresses"),
        ("cores = 64", ", group vm: cores is 64; container vm1 would be given core number 64 of"),
        ("per_node = 2\nports = ['8080:80']", ", group vm: ports has 8080, which on node1 leads"),
    ],
)
def test_what_does_not_fit_is_one_sentence_with_file_group_key_and_value(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "vms.toml"
    path.write_text(f"[[group]]\n{text}\n")
    with pytest.raises(SpecError) as caught:
        invoke(cli, "plan", str(path), "--nodes", "2", "--cores", "2")
    assert str(caught.value).startswith(f"{path}{sentence}")
    assert "\n" not in str(caught.value)


def test_a_directory_is_no_spec_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"^{tmp_path} cannot be read: Is a directory$"):
        invoke(cli, "plan", str(tmp_path), "--nodes", "2", "--cores", "2")


TOPOLOGY = """
[[network]]
name = "left"
subnet = "192.168.100.0/24"
[[group]]
name = "p"
total = 2
networks = ["left"]
main = false
[[group]]
name = "router"
total = 1
networks = ["left:192.168.100.1"]
forward = true
[[link]]
network = "left"
from = "p"
to = "router"
rate = "10Mbit"
delay = "40ms"
"""


def test_networks_members_and_links_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vms.toml"
    path.write_text(TOPOLOGY)
    invoke(cli, "plan", str(path), "--nodes", "2", "--cores", "2")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["left", "192.168.100.0/24", "-", "3", "node1", "node2"] in rows
    assert ["p1", "node1", "eth1", "left", "192.168.100.2", "192.168.100.1"] in rows
    assert ["router1", "node1", "eth1", "left", "192.168.100.1", "eth0"] in rows
    link = ["each", "pair", "left", "p", "router", "the", "same", "10Mbit", "40ms"]
    assert link in rows


def test_json_has_containers_networks_and_links(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vms.toml"
    path.write_text(TOPOLOGY)
    invoke(cli, "plan", str(path), "--nodes", "2", "--cores", "2", "--json")
    told = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in told["containers"]] == ["p1", "router1", "p2"]
    assert told["containers"][0]["interfaces"][0]["hardware"] == "02:6d:c0:a8:64:02"
    assert told["networks"] == [
        {"name": "left", "number": 1, "subnet": "192.168.100.0/24", "ipv6": ""}
    ]
    assert told["links"] == [
        {
            "network": "left",
            "from": "p",
            "to": "router",
            "rate": "10Mbit",
            "delay": "40ms",
            "both": True,
        }
    ]


def test_without_networks_none_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vms.toml"
    path.write_text("[[group]]\n")
    invoke(cli, "plan", str(path), "--nodes", "1", "--cores", "1")
    assert "NETWORK" not in capsys.readouterr().out
