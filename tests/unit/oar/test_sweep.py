"""OAR's word carried to the nodes, with an OAR, an ssh and nodes of our own."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import structlog

from oar_lxc.errors import OarLxcError
from oar_lxc.model.reaped import DESTROYED, LEFT_ALONE, WOULD_DESTROY, Reaped
from oar_lxc.oar import ssh
from oar_lxc.oar.sweep import sweep
from tests.unit.fakes.programs import add_program, recorded, recorder

ALONE = Reaped(42, "alice", LEFT_ALONE, "OAR's cgroup /oar/alice_42 exists")
LIVING = Reaped(43, "bob", LEFT_ALONE, "OAR's cgroup /oar/bob_43 exists")


class Cluster:
    """Nodes that say what they have, and an OAR that says how jobs are."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "bin"
        add_program(self.bin, "oarnodes", "printf 'node1\\nnode2\\nnode3\\n'")
        # ssh OPTIONS NODE LINE: what the node says is in a file; a node without one is down.
        body = f"""
for word; do node=$last; last=$word; done
cat {directory}/$node.$(case $last in *dry-run*) echo look;; *) echo reap;; esac) && exit 0
echo "ssh: connect to host $node port 6667: Connection refused" >&2; exit 255"""
        add_program(self.bin, "ssh", recorder(directory / "ssh", body))
        self.oar("42 : Terminated", "43 : Running")

    def oar(self, *lines: str, status: int = 0) -> None:
        """Let oarstat say something."""
        text = "".join(f"{line}\\n" for line in lines)
        body = f"printf '{text}'; exit {status}"
        add_program(self.bin, "oarstat", recorder(self.directory / "oarstat", body))

    def node(self, name: str, looked: list[Reaped], done: list[Reaped] | None = None) -> None:
        """Let a node say what it has, and what it did."""
        for what, jobs in (("look", looked), ("reap", done)):
            if jobs is not None:
                text = json.dumps([asdict(job) for job in jobs])
                (self.directory / f"{name}.{what}").write_text(text)

    @property
    def orders(self) -> list[str]:
        """What nodes were told to do, apart from looking."""
        calls = recorded(self.directory / "ssh")
        return sorted(f"{c[-2]}: {c[-1]}" for c in calls if "--dry-run" not in c[-1])


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster(tmp_path)
    monkeypatch.setenv("PATH", f"{found.bin}:{os.environ['PATH']}")
    monkeypatch.setattr(ssh, "CONF", tmp_path / "missing")
    monkeypatch.setattr(ssh, "DEFAULT_SSH", [str(found.bin / "ssh")])
    for name in ("node1", "node2", "node3"):
        found.node(name, [])
    return found


def test_what_is_done_is_logged_with_node_and_job(cluster: Cluster) -> None:
    (cluster.directory / "node3.look").unlink()
    cluster.node("node1", [ALONE], [replace(ALONE, action=DESTROYED)])
    with structlog.testing.capture_logs() as logs:
        structlog.configure()
        sweep(120)
    structlog.reset_defaults()
    told = [log for log in logs if log["event"] != "running a program"]
    assert [
        (log["event"], log.get("node"), log.get("job"), log.get("action")) for log in told
    ] == [
        ("reap", "node1", 42, LEFT_ALONE),
        ("no answer", "node3", None, None),
        ("asked OAR", None, None, None),
        ("reap", "node1", 42, DESTROYED),
    ]


def test_where_nodes_have_nothing_oar_is_not_asked(cluster: Cluster) -> None:
    done = sweep(120)
    assert done.jobs == {"node1": [], "node2": [], "node3": []}
    assert done.unreachable == {}
    assert not (cluster.directory / "oarstat").exists()
    assert cluster.orders == []


def test_a_job_that_has_ended_by_oars_word_is_destroyed_where_it_is(cluster: Cluster) -> None:
    gone = Reaped(42, "alice", DESTROYED, "OAR says that it has ended")
    cluster.node("node1", [ALONE, LIVING], [gone, LIVING])
    cluster.node("node2", [LIVING])
    done = sweep(7)
    assert done.jobs == {"node1": [gone, LIVING], "node2": [LIVING], "node3": []}
    (order,) = cluster.orders
    assert order.startswith("node1: [ ! -x /usr/sbin/oar-lxc-node ] || oardodo ")
    assert order.endswith(" reap --json --grace=7 --ended=42")
    assert recorded(cluster.directory / "oarstat") == [["-s", "-j42", "-j43"]]


def test_a_dead_job_is_destroyed_without_oars_word(cluster: Cluster) -> None:
    dead = Reaped(44, "bob", WOULD_DESTROY, "the node was booted since it was prepared")
    cluster.node("node3", [dead], [])
    sweep(120)
    (order,) = cluster.orders
    assert order.endswith("--ended=")


def test_a_dry_run_orders_nothing(cluster: Cluster) -> None:
    cluster.node("node1", [ALONE])
    sweep(120, dry_run=True)
    assert cluster.orders == []


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("42 : Finishing",),
        ("42 : toError",),
        ("42 : Suspended",),
        ("421 : Terminated",),
        ("Terminated",),
        ("Error: the database 42 : Terminated",),
    ],
)
def test_what_is_not_oars_clear_word_ends_no_job(cluster: Cluster, lines: tuple[str, ...]) -> None:
    cluster.node("node1", [ALONE])
    cluster.oar(*lines)
    assert sweep(120).jobs["node1"] == [ALONE]
    assert cluster.orders == []


def test_without_an_answer_of_oar_nothing_is_destroyed(cluster: Cluster) -> None:
    cluster.node("node1", [ALONE])
    cluster.oar("42 : Terminated", status=3)
    with pytest.raises(OarLxcError, match="oarstat"):
        sweep(120)
    assert cluster.orders == []


def test_a_node_that_is_down_is_told_and_the_others_are_served(cluster: Cluster) -> None:
    cluster.node("node1", [ALONE], [])
    (cluster.directory / "node2.look").unlink()
    (cluster.directory / "node3.look").write_text("Traceback: ...")
    done = sweep(120)
    assert list(done.unreachable) == ["node2", "node3"]
    assert done.unreachable["node2"].endswith("port 6667: Connection refused")
    assert len(cluster.orders) == 1


def test_a_resource_without_a_hosts_name_is_told_and_the_others_are_served(
    cluster: Cluster,
) -> None:
    add_program(cluster.bin, "oarnodes", "printf 'node1\n_x;y\n'")
    cluster.node("node1", [ALONE], [])
    done = sweep(120)
    assert done.unreachable == {"_x;y": "node '_x;y' is not a host name"}
    assert len(cluster.orders) == 1


def test_where_oar_is_not_one_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OarLxcError, match="run this on the OAR server"):
        sweep(120)
