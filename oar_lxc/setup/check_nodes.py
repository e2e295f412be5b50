"""Check that the server reaches its nodes as OAR does: as user oar, with ssh, on port 6667."""

from __future__ import annotations

from oar_lxc.linux.run import Result, run
from oar_lxc.oar.paths import SSHD_PORT
from oar_lxc.setup import database
from oar_lxc.setup.bundle import BUNDLE
from oar_lxc.setup.steps import SetupPlan, Step

# Words of ssh → their meaning and what to do; the first that matches counts.
_MEANINGS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        f"its host key of port {SSHD_PORT} is not the cluster's: run `oar-lxc setup node` there "
        f"with {BUNDLE} of this server",
    ),
    (
        "Host key verification failed",
        f"its host key of port {SSHD_PORT} is unknown here: run `oar-lxc setup server` here, then "
        f"`oar-lxc setup node` there with {BUNDLE} of this server",
    ),
    (
        "Permission denied",
        "it does not accept user oar's key: run `oar-lxc setup node` there with "
        f"{BUNDLE} of this server",
    ),
    (
        "Connection refused",
        f"nothing listens on port {SSHD_PORT}: start OAR's sshd there, systemctl restart oar-node",
    ),
    (
        "Could not resolve",
        "its name is unknown here: give it an address in DNS or /etc/hosts",
    ),
    (
        "timed out",
        f"it does not answer: is it on, and does a packet filter stop port {SSHD_PORT}?",
    ),
    (
        "No route to host",
        "there is no way to its address: is it on, and is its network routed?",
    ),
)


def make_plan() -> SetupPlan:
    """Return the check of all nodes that have resources; it runs on the server.

    Raises:
        NotYetError: OAR has no database here.
    """
    rows = database.connect().rows(
        "SELECT DISTINCT network_address AS node FROM resources "
        "WHERE type = 'default' AND network_address <> '' ORDER BY 1"
    )
    return SetupPlan("check", [reachable(str(row["node"])) for row in rows])


def reachable(node: str) -> Step:
    """Make the check of one node."""

    def problem() -> str | None:
        options = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
        argv = ["ssh", "-p", str(SSHD_PORT), *options, "-o", "ConnectTimeout=5", node, "true"]
        result = run(["runuser", "-u", "oar", "--", *argv], check=False, timeout=30, cwd="/")
        return None if result.status == 0 else f"node {node}: {explain(result)}"

    return Step(f"node {node} lets user oar in on port {SSHD_PORT}", problem)


def explain(result: Result) -> str:
    """Return what a failed connection means and what to do about it."""
    said = result.stderr.strip() or f"ssh ended with status {result.status}"
    for words, meaning in _MEANINGS:
        if words.lower() in said.lower():
            return meaning
    return said
