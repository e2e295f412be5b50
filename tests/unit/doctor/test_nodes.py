"""Why the server does not reach a node, or gets no report of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from oar_lxc.doctor import nodes
from oar_lxc.doctor.findings import Machine, Outcome, Role, well
from oar_lxc.doctor.report import Facts, Report
from oar_lxc.errors import CommandTimeoutError, OarLxcError
from oar_lxc.linux.run import Result

SERVER = Machine(Role.SERVER, root=True, conf=None, peers=("node1", "node2"))
REPORT = Report("node1.site", "node", (well("x"),), Facts("0.1.0", 1.0, cpuset=True))


BAD = REPORT.to_data()
BAD["facts"] |= {"names": "no names"}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("ssh: connect to host n port 6667: Connection refused", "systemctl restart oar-node"),
        ("No RSA host key is known\nHost key verification failed.", "unknown here"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
         "not the cluster's"),
        ("oar@n: Permission denied (publickey).", "does not accept user oar's key"),
        ("ssh: Could not resolve hostname n: Name or service not known", "/etc/hosts"),
        ("ssh: connect to host n port 6667: Connection timed out", "is it on"),
        ("ssh: connect to host n port 6667: No route to host", "ip route get node1"),
        ("something\nelse", "something else"),
        ("", "ended with status 255"),
    ],
)  # fmt: skip
def test_why_a_node_is_not_reached_is_told(said: str, told: str) -> None:
    found = nodes.judge_knock("node1", Result(("ssh",), 255, "", said), "again")
    assert found.outcome is Outcome.PROBLEM
    assert found.said.startswith("node node1: ")
    assert told in f"{found.said} {found.mend}"
    assert found.meaning
    assert "{" not in found.mend


def answered(
    monkeypatch: pytest.MonkeyPatch, answer: Result | OarLxcError
) -> tuple[Report, list[str]]:
    lines: list[str] = []

    def knock(node: str, line: str, timeout: float) -> Result:
        lines.append(line)
        if isinstance(answer, OarLxcError):
            raise answer
        return answer

    monkeypatch.setattr(nodes, "knock", knock)
    return nodes.report_of("node1", SERVER, ["disk"]), lines


def test_a_cluster_without_nodes_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_may_be_oar", lambda: True)
    (report,) = nodes.everywhere(replace(SERVER, peers=()), [], lambda node: None)
    assert [one.outcome for one in report.findings] == [Outcome.UNKNOWN]


@pytest.mark.parametrize("status", [0, 1, 3])
def test_a_node_is_told_the_others_and_its_report_has_its_name_in_oar(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    text = json.dumps({"machines": [REPORT.to_data()]})
    report, (line,) = answered(monkeypatch, Result(("ssh",), status, text, ""))
    assert line.endswith("doctor --json --peers node1,node2 --check disk")
    assert (report.machine, report.role) == ("node1", "node")
    assert report.findings[0] == REPORT.findings[0]
    assert report.findings[1].check == "clock"  # that of 1970
    assert report.findings[1].outcome is Outcome.PROBLEM


@pytest.mark.parametrize(
    ("answer", "outcome", "told"),
    [
        (Result((), 255, "", "Connection refused"), "problem", "nothing listens"),
        (Result((), 127, "", ""), "problem", "has no package oar-lxc"),
        (Result((), 2, "", "No such command 'doctor'"), "unknown", "No such command"),
        (Result((), 0, "{}", ""), "unknown", "gave no report"),
        (Result((), 0, '{"machines": [{"findings": [{}]}]}', ""), "unknown", "gave no report"),
        (Result((), 0, json.dumps({"machines": [BAD]}), ""), "unknown", "gave no report"),
        (Result((), 0, "[]", ""), "unknown", "gave no report"),
        (Result((), 0, '{"machines": [7]}', ""), "unknown", "gave no report"),
        (Result((), 0, "no JSON", ""), "unknown", "gave no report"),
        (CommandTimeoutError(["ssh"], 120), "unknown", "did not end within 120 s"),
    ],
)
def test_a_node_without_a_report_is_never_well(
    monkeypatch: pytest.MonkeyPatch, answer: Result | OarLxcError, outcome: str, told: str
) -> None:
    report, _ = answered(monkeypatch, answer)
    (found,) = report.findings
    assert (report.role, found.outcome.value, found.check) == ("", outcome, "ssh")
    assert told in found.said
    assert "node1" in found.said + found.mend
