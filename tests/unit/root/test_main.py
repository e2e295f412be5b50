"""The command line of the root side: what it refuses before it does anything."""

from __future__ import annotations

import os

import pytest

from oar_lxc.linux.node_log import NodeLog
from oar_lxc.root.main import main

PREPARE = ["prepare", "--job", "42", "--user", "root", "--node", "node1", "--nodes", "node1"]


@pytest.fixture(autouse=True)
def _no_root_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the checks run as anybody; whatever goes beyond them fails the test."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(NodeLog, "write", lambda *_, **__: pytest.fail("it was logged"))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    said = capsys.readouterr()
    assert said.out == ""
    return caught.value.code, said.err


def change(name: str, value: str) -> list[str]:
    at = PREPARE.index(name) + 1
    return [*PREPARE[:at], value, *PREPARE[at + 1 :]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (change("--job", "0"), "job id '0' is not a number"),
        (change("--job", "42;id"), "job id '42;id' is not a number"),
        (change("--user", "../x"), "user '../x' is not a user name"),
        (change("--user", "no-such-user-here"), "user no-such-user-here does not exist on this"),
        (change("--node", "a/b"), "node 'a/b' is not a host name"),
        (change("--nodes", "node1,"), "node '' is not a host name"),
        (change("--nodes", "node1,-x"), "node '-x' is not a host name"),
        ([*PREPARE, "--users", "1000-"], "--users '1000-': '1000-' is not"),
        (change("--nodes", "node2"), "node node1 is not among --nodes node2"),
        ([*PREPARE, "--cgroup", "/oar/bob_42"], "is not OAR's cgroup of job 42 of root"),
        ([*PREPARE, "--cgroup", "/../root_42"], "is not OAR's cgroup of job 42 of root"),
        (["destroy", "--job", "x", "--user", "root"], "job id 'x' is not a number"),
        (["destroy", "--job", "1", "--user", ""], "user '' is not a user name"),
        (["destroy", "--job=--", "--user", "root"], "--job is '--', which is no value of it"),
        (
            ["prepare", "--job=1", "--user=root", "--node=n", "--nodes=--"],
            "--nodes is '--', which is no value of it",
        ),
        (
            ["leftovers", "--job=1", "--user=root", "--first-id=--"],
            "--first-id is '--', which is no value of it",
        ),
        (
            ["leftovers", "--job", "1", "--user", "root", "--first-id", "²"],
            "--first-id '²' is not where a range of ids of user root starts: leave it out",
        ),
        (
            ["leftovers", "--job", "1", "--user", "root", "--first-id", "1879048193"],
            "--first-id '1879048193' is not where a range of ids of user root starts: leave it",
        ),
        (
            ["leftovers", "--job", "1", "--user", "no-such-user-here"],
            "nothing tells which ids job 1 had: give --first-id",
        ),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status, said = run(capsys, *arguments)
    assert status == 2
    assert message in said
    assert said.startswith("oar-lxc-node: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [(), ("frobnicate",), ("prepare",), ("destroy", "--job", "1")]
)
def test_a_missing_argument_is_status_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run(capsys, *arguments)[0] == 2


@pytest.mark.parametrize("command", ["prepare", "destroy", "leftovers", "reap"])
def test_only_root_may(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    arguments = [command, *PREPARE[1:5]] if command in ("destroy", "leftovers") else PREPARE
    status, said = run(capsys, *(["reap"] if command == "reap" else arguments))
    assert status == 2
    assert "must be run as root" in said
