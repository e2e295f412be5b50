"""``oar-lxc net`` and :meth:`.Session.link`, on fake nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.agent.networks import join
from oar_lxc.cli.main import cli
from oar_lxc.client import lookup
from oar_lxc.client.session import Session
from oar_lxc.errors import ContainerError, JobError, SpecError, UsageError
from oar_lxc.model.job import Job
from oar_lxc.model.links import Link
from oar_lxc.model.networks import Membership, Network
from oar_lxc.model.plan import make_plan
from oar_lxc.model.spec import Group, Spec
from tests.unit.fakes.node import FakeNode
from tests.unit.fakes.programs import invoke
from tests.unit.fakes.remote import FakeRemote, prepared_nodes

JOB = Job(42, "alice", {"node1": 2, "node2": 2})
SPEC = Spec(
    (
        Group(name="p", total=2, networks=(Membership("left"),), main=False),
        Group(name="vm", total=1),
    ),
    networks=(Network("left"),),
    links=(Link("left", "p1", "p2", rate="10Mbit"),),
)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRemote]:
    """Return the way to two nodes of job 42, which has a network."""
    nodes = {n: FakeNode(tmp_path / n, n, ("node1", "node2")) for n in ("node1", "node2")}
    remote = FakeRemote(nodes)
    plan = make_plan(SPEC, JOB)
    for name, node in nodes.items():
        join(node.on(lambda event: None), "s1", plan)
        for planned in plan.on(name):
            directory = node.layout.containers / planned.name
            directory.mkdir()
            (directory / "config").write_text("")
            node.runtime.start(planned.name)
    monkeypatch.setattr(lookup, "find_remote", lambda job_id: remote)
    yield remote
    remote.close()


def batches(remote: FakeRemote, program: str = "tc") -> list[str]:
    """Return what a program read on all nodes."""
    return [
        text
        for node in remote.by_name.values()
        for argv, text in node.runtime.ran
        if argv[:2] == (program, "-batch")
    ]


@pytest.mark.parametrize("arguments", [["42"], ["show", "42"], []])
def test_networks_members_and_links_are_told_with_their_state(
    remote: FakeRemote, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    remote.by_name["node2"].runtime.kill(["p2"], 1)
    assert invoke(cli, "net", *arguments) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["left", "10.1.0.0/16", "-", "2", "node1", "node2"] in rows
    assert ["p1", "node1", "eth1", "left", "10.1.0.1", "-", "RUNNING"] in rows
    assert ["p2", "node2", "eth1", "left", "10.1.0.2", "-", "STOPPED"] in rows
    assert ["each", "pair", "left", "p1", "p2", "the", "same", "10Mbit", "1"] in rows


def test_json_is_for_programs(remote: FakeRemote, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(cli, "net", "42", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["networks"][0]["name"] == "left"
    assert {member["container"] for member in told["members"]} == {"p1", "p2", "vm1"}
    assert told["links"][0]["counts_for"] == 1


def test_a_link_is_set_on_all_nodes(
    remote: FakeRemote, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--to", "p2", "--rate", "2Mbit", "--loss", "1%", "--one-way")
    assert invoke(cli, "net", "set", "42/p1", *arguments) == 0
    assert capsys.readouterr().out == "left: p1 to p2: 2Mbit loss 1%\n"
    (text,) = batches(remote)  # the way back, and with it the other node, is as it was
    assert "rate 2000000bit" in text
    assert invoke(cli, "net", "set", "42/", "--rate", "1Mbit", "--network", "left") == 0
    assert capsys.readouterr().out == "left: *: 1Mbit\n"
    assert len(batches(remote, "ip")) > 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("42/p9",), "there is no network with p9"),
        (("42/p1", "--to", "vm1"), "there is no network with p1 and vm1"),
        (("42/p1", "--network", "lab"), "the link: network is lab, and p1 is not in it"),
        (("42/p1", "--to", "p1", "--network", "left"), "the link: from and to are both p1"),
        (("42/p1", "--rate", "fast"), "rate is 'fast'; it is a number of bits a second"),
        (("42/p1", "--jitter", "1ms"), "jitter is 1ms, and there is no delay"),
        (("42/a/b",), "'42/a/b' names nothing: write JOB/CONTAINER, JOB/GROUP or JOB/"),
    ],
)
def test_a_mistake_is_one_sentence_and_changes_nothing(
    remote: FakeRemote, arguments: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises((SpecError, UsageError)) as caught:
        invoke(cli, "net", "set", *arguments)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
    assert batches(remote) == []


def test_what_one_node_cannot_do_is_set_on_none(remote: FakeRemote) -> None:
    remote.by_name["node2"].runtime.lacking = ("netem",)
    with pytest.raises(SpecError) as caught:
        invoke(cli, "net", "set", "42/p1", "--delay", "10ms")
    assert str(caught.value) == (
        "the link: delay: the kernel of node2 has no netem (modprobe sch_netem)"
    )
    assert batches(remote) == []


def test_a_job_without_networks_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = FakeRemote({"node1": FakeNode(tmp_path)})
    monkeypatch.setattr(lookup, "find_remote", lambda job_id: remote)
    assert invoke(cli, "net", "42") == 0
    assert capsys.readouterr().err == ("job 42 has no networks but its main one, and no links\n")
    with pytest.raises(JobError, match="job 42 has no containers with networks or links: give"):
        invoke(cli, "net", "set", "42/vm1", "--rate", "1Mbit")


SCENARIO = """
[[at]]
time = "20ms"
stop = "p2"
[[at]]
time = "0s"
unplug = ["p"]
network = "left"
[[at]]
time = "10ms"
network = "left"
from = "p1"
to = "p2"
loss = "1%"
"""


def test_a_scenario_is_told_as_it_is_played(
    remote: FakeRemote, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO)
    assert invoke(cli, "net", "play", "42", str(path)) == 0
    told = [line.split(" s  ")[1] for line in capsys.readouterr().out.splitlines()]
    assert told == ["unplug p in left", "left: p1 to p2: loss 1%", "stop p2"]
    assert remote.by_name["node2"].runtime.state("p2") == "STOPPED"
    downs = [a for n in remote.by_name.values() for a, _ in n.runtime.ran if a[-1] == "down"]
    assert len(downs) == 2


def test_a_scenario_is_checked_before_its_first_step(remote: FakeRemote, tmp_path: Path) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO + "[[at]]\ntime = '9s'\nstop = 'p9'\n")
    with pytest.raises(SpecError) as caught:
        invoke(cli, "net", "play", "42", str(path))
    assert str(caught.value).startswith(f"{path}, at 4: stop has 'p9', and the job has no such")
    assert remote.by_name["node2"].runtime.state("p2") == "RUNNING"


def test_a_step_that_fails_ends_the_scenario(remote: FakeRemote, tmp_path: Path) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO)
    remote.by_name["node2"].runtime.lacking = ("down",)
    with pytest.raises(ContainerError, match="container p2 on node node2: it does not run"):
        invoke(cli, "net", "play", "42", str(path))
    assert remote.by_name["node2"].runtime.state("p2") == "RUNNING"


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRemote]:
    with prepared_nodes(tmp_path, monkeypatch, JOB) as remote:
        yield remote


def test_a_session_sets_links_while_it_runs(nodes: FakeRemote) -> None:
    with Session(SPEC, JOB) as session:
        assert {c.name: bool(c.address) for c in session.containers} == {
            "p1": False,
            "p2": False,
            "vm1": True,
        }
        link = session.link("p1", "p2", delay="10ms", both=False)
        assert link == Link("left", "p1", "p2", delay="10ms", both=False)
        assert any("netem limit" in text for text in batches(nodes))
        with pytest.raises(SpecError, match="Link: unknown key 'latency'; did you mean delay"):
            session.link("p1", "p2", latency="10ms")
    assert any("link del dev u1-" in text for text in _forced(nodes))


def _forced(remote: FakeRemote) -> list[str]:
    return [
        text
        for node in remote.by_name.values()
        for argv, text in node.runtime.ran
        if argv[:2] == ("ip", "-force")
    ]


def test_a_launch_that_asks_for_what_a_node_lacks_is_undone(nodes: FakeRemote) -> None:
    nodes.by_name["node2"].runtime.lacking = ("netem",)
    spec = Spec(SPEC.groups, networks=SPEC.networks, links=(Link("left", "p", delay="1ms"),))
    with pytest.raises(Exception, match=r"link 1: delay: the kernel of node2 has no netem"):
        Session(spec, JOB).__enter__()
    assert nodes.running() == []


def test_sessions_of_a_job_share_networks_and_not_their_addresses(nodes: FakeRemote) -> None:
    left = (Membership("left"),)
    with Session(SPEC, JOB) as first:
        other = Spec(
            (Group(name="q", total=1, networks=left),), networks=(Network("left"), Network("b"))
        )
        with Session(other, JOB) as second:
            (q1,) = second.plan.containers
            taken = {i.ip for c in first.plan.containers for i in c.interfaces}
            assert q1.interfaces[0].ip not in taken
            assert [(n.name, n.number) for n in second.plan.networks] == [("left", 1), ("b", 2)]
            told = (nodes.by_name["node1"].layout.private / "names.json").read_text()
            assert q1.interfaces[0].ip in told
            # A link of one session is about the containers of all.
            assert second.link("p1", "q1", loss="1%").network == "left"
    # Devices stay until the job ends, and so do the numbers in their names.
    with Session(
        Spec((Group(networks=(Membership("c"),)),), networks=(Network("c"),)), JOB
    ) as last:
        assert [(n.name, n.number) for n in last.plan.networks] == [("c", 3)]
