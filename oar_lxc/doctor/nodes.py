"""Reach the nodes as OAR does, as user oar on port 6667, and let each look at itself."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from oar_lxc.doctor.compare import compare, judge_clock
from oar_lxc.doctor.findings import AS_ROOT, Finding, Machine, problem, unknown, well
from oar_lxc.doctor.parallel import in_parallel
from oar_lxc.doctor.report import FOUND, NOT_LOOKED_AT, WELL, Report
from oar_lxc.errors import CommandTimeoutError, OarLxcError, UsageError
from oar_lxc.linux.run import Result, run
from oar_lxc.model.layout import check_node
from oar_lxc.oar.commands import node_words
from oar_lxc.oar.paths import SSHD_PORT
from oar_lxc.oar.ssh import ssh
from oar_lxc.setup.bundle import BUNDLE

OAR = "oar"
COMMAND = "/usr/bin/oar-lxc"
KNOCK = 30.0  # seconds to reach a node
LOOK = 120.0  # seconds for a node to look at itself
CHECK = "ssh"
_SSH_FAILED = 255
_NO_REPORT = (ValueError, KeyError, TypeError, IndexError, AttributeError)
_MISSING = 127
_NO_NODES = unknown("OAR does not say which nodes there are", "oarnodes -l")
_MEANING = "OAR does not reach the node: it becomes Suspected, and jobs on it fail."
_JOIN = f"oar-lxc setup node --bundle bundle.tar    # on {{node}}, with {BUNDLE} of this server"

# Words of ssh → what is so, and the command that mends it; the first that matches counts.
_MEANINGS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        f"its host key of port {SSHD_PORT} is not the cluster's",
        _JOIN,
    ),
    (
        "Host key verification failed",
        f"its host key of port {SSHD_PORT} is unknown here",
        "{setup}    # then on {node}: oar-lxc setup node --bundle bundle.tar",
    ),
    ("Permission denied", "it does not accept user oar's key", _JOIN),
    (
        "Connection refused",
        f"nothing listens on port {SSHD_PORT}",
        "systemctl restart oar-node    # on {node}",
    ),
    (
        "Could not resolve",
        "its name is unknown here",
        "echo 'ADDRESS {node}' >>/etc/hosts    # or in DNS",
    ),
    (
        "timed out",
        f"it does not answer: is it on, and does a packet filter stop port {SSHD_PORT}?",
        "ping {node}",
    ),
    (
        "No route to host",
        "there is no way to its address: is it on, and is its network routed?",
        "ip route get {node}",
    ),
)


def cluster_nodes() -> tuple[str, ...]:
    """Return the names of the cluster's nodes; empty where OAR does not answer."""
    names = []
    try:
        words = node_words()
    except OarLxcError:
        return ()
    for word in words:
        try:
            names.append(check_node(word))
        except UsageError:
            continue
    return tuple(names)


def reachable(machine: Machine) -> Iterator[Finding]:
    """Look whether user oar reaches each node."""
    if not _may_be_oar():
        yield unknown("only root and oar reach the nodes as OAR does", AS_ROOT)
    elif not machine.peers:
        yield _NO_NODES
    else:
        yield from in_parallel(lambda node: try_node(node, machine.setup), machine.peers)


def try_node(node: str, setup: str) -> Finding:
    """Return whether user oar reaches a node; ``setup`` is what sets up this server."""
    try:
        return judge_knock(node, knock(node, "true", KNOCK), setup)
    except CommandTimeoutError as error:
        return judge_knock(node, Result(error.argv, _SSH_FAILED, "", "timed out"), setup)


def judge_knock(node: str, result: Result, setup: str) -> Finding:
    """Return the finding for a node.

    Args:
        node: its name.
        result: how ssh ended that was to run something there.
        setup: the command that sets up this server.
    """
    if result.status == 0:
        return well(f"node {node} lets user oar in on port {SSHD_PORT}")
    said, mend = explain(result)
    return problem(f"node {node}: {said}", _MEANING, mend.format(node=node, setup=setup))


def explain(result: Result) -> tuple[str, str]:
    """Return what a failed connection means, and the command that mends it."""
    said = result.stderr.strip() or f"ssh ended with status {result.status}"
    for words, meaning, mend in _MEANINGS:
        if words.lower() in said.lower():
            return meaning, mend
    return " ".join(said.split()), f"runuser -u {OAR} -- ssh -v -p {SSHD_PORT} {{node}} true"


def knock(node: str, line: str, timeout: float) -> Result:
    """Run a shell line on a node as user oar.

    Raises:
        OarLxcError: it did not end in time.
    """
    argv = [*ssh(), "-o", "StrictHostKeyChecking=yes", node, line]
    if os.geteuid() == 0:
        argv = ["runuser", "-u", OAR, "--", *argv]
    return run(argv, check=False, timeout=timeout, cwd="/")


def everywhere(
    machine: Machine, only: Sequence[str], told: Callable[[str], object]
) -> list[Report]:
    """Let each node look at itself, and compare them with each other and with this server.

    Args:
        machine: this server, with the names of the nodes.
        only: the names of checks; all if empty.
        told: called with the name of each node that has answered.
    """
    if not _may_be_oar():
        raise UsageError("oar-lxc doctor --everywhere must be run as root or oar")
    if not machine.peers:
        return [Report("nodes", "", (replace(_NO_NODES, check=CHECK),))]

    def ask(node: str) -> Report:
        report = report_of(node, machine, only)
        told(node)
        return report

    reports = compare(in_parallel(ask, machine.peers), machine)
    return [replace(one, findings=_of_names(one.findings, only)) for one in reports]


def _of_names(findings: Sequence[Finding], only: Sequence[str]) -> tuple[Finding, ...]:
    return tuple(one for one in findings if not only or one.check in (*only, CHECK))


def report_of(node: str, machine: Machine, only: Sequence[str] = ()) -> Report:
    """Return what a node finds of itself, or why it cannot be asked."""
    words = [COMMAND, "doctor", "--json", "--peers", ",".join(machine.peers)]
    words += [word for name in only for word in ("--check", name)]
    line = f"[ -x {COMMAND} ] || exit {_MISSING}; exec oardodo {shlex.join(words)}"
    before = time.time()
    try:
        result = knock(node, line, LOOK)
        if result.status in (WELL, FOUND, NOT_LOOKED_AT):
            data = json.loads(result.stdout)
            report = Report.from_data(data["machines"][0], node)
            return _with_clock(report, before, time.time())
    except (OarLxcError, *_NO_REPORT) as error:
        finding = unknown(
            f"node {node} gave no report ({error})", f"oar-lxc doctor    # on {node}"
        )
    else:
        finding = _no_report(node, result, machine.setup)
    return Report(node, "", (replace(finding, check=CHECK),))


def _with_clock(report: Report, before: float, after: float) -> Report:
    if report.facts is None:
        return report
    finding = judge_clock(report.machine, report.facts.time, before, after)
    return replace(report, findings=(*report.findings, finding))


def _no_report(node: str, result: Result, setup: str) -> Finding:
    install = f"apt-get install ./oar-lxc_*_all.deb    # on {node}"
    if result.status == _SSH_FAILED:
        return judge_knock(node, result, setup)
    if result.status == _MISSING:
        meaning = "Jobs of type lxc fail on it."
        return problem(f"node {node} has no package oar-lxc", meaning, install)
    said = " ".join(result.stderr.split()) or f"status {result.status}"
    return unknown(f"node {node} gave no report ({said})", install)


def _may_be_oar() -> bool:
    if os.geteuid() == 0:
        return True
    try:
        return pwd.getpwnam(OAR).pw_uid == os.geteuid()
    except KeyError:
        return False
