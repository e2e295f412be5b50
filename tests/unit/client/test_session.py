"""The containers of a job over several nodes, with fake nodes below."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from oar_lxc.agent.hosts import all_names
from oar_lxc.client import session
from oar_lxc.client.commands import Outcome
from oar_lxc.client.session import Session
from oar_lxc.errors import (
    ContainerError,
    JobEnvironmentError,
    LaunchError,
    NodeError,
    NodeNotPreparedError,
    NotReadyError,
    OarLxcError,
    SpecError,
)
from oar_lxc.linux.process import identity
from oar_lxc.linux.signals import SIGNALS
from oar_lxc.model import events, requests
from oar_lxc.model.job import Job
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.plan import PlannedContainer, head_of
from oar_lxc.model.spec import Group, Port
from tests.unit.fakes.remote import FakeRemote, prepared_nodes

JOB = Job(42, "alice", {"node1": 1, "node2": 2})


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRemote]:
    """Return the way to two prepared nodes; sessions of job 42 take it, and are on node1."""
    with prepared_nodes(tmp_path, monkeypatch, JOB) as remote:
        yield remote


def signal_self(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def files(remote: FakeRemote) -> list[str]:
    return [name for node in remote.by_name.values() for name in node.files()]


def test_containers_are_launched_on_every_node_and_gone_after_the_block(
    remote: FakeRemote,
) -> None:
    with Session(Group(per_node=2), JOB) as containers:
        assert [(c.name, c.node) for c in containers.containers] == [
            ("vm1", "node1"),
            ("vm2", "node1"),
            ("vm3", "node2"),
            ("vm4", "node2"),
        ]
        assert remote.running() == ["vm1", "vm2", "vm3", "vm4"]
    assert remote.running() == []
    assert files(remote) == []
    assert containers.containers == ()


def test_a_handle_tells_address_image_and_init(remote: FakeRemote) -> None:
    with Session(job=JOB) as containers:
        first, second = containers.containers
        assert (first.address, second.address) == ("100.65.80.3", "100.65.80.4")
        assert first.image == "debian-12"
        assert first.init_pid == remote.by_name["node1"].runtime.init_pid("vm1")


def test_a_handle_tells_the_same_as_a_list(remote: FakeRemote) -> None:
    with Session(job=JOB) as containers:
        listed = [event for _, event in remote.collect(requests.List(), events.Container)]
        for handle, container in zip(containers.containers, listed, strict=True):
            same = {one.name: getattr(handle, one.name) for one in fields(container)}
            assert events.Container(**same) == container
            assert (handle.name, handle.init_pid) == (container.name, container.pid)
            assert "session" not in repr(handle)
            assert handle.run(["true"]).status == 0


def test_one_for_each_core_follows_the_nodefile(remote: FakeRemote) -> None:
    with Session(Group(per_core=True), JOB) as containers:
        assert [c.node for c in containers.containers] == ["node1", "node2", "node2"]


def test_progress_is_told_as_it_comes(remote: FakeRemote) -> None:
    told: list[tuple[str, str, str]] = []

    def tell(node: str, event: events.Event) -> None:
        told.append((node, event["container"], event["event"]))  # as scripts of 0.1 do

    with Session(job=JOB, on_progress=tell):
        pass
    assert told[:2] == [("node1", "vm1", "planned"), ("node2", "vm2", "planned")]
    assert sorted(told[2:4]) == [("node1", "vm1", "started"), ("node2", "vm2", "started")]


def test_an_exception_in_the_block_comes_out_and_nothing_is_left(remote: FakeRemote) -> None:
    with pytest.raises(ZeroDivisionError), Session(job=JOB):
        _ = 1 // 0
    assert remote.running() == []
    assert files(remote) == []


def test_a_half_failed_launch_says_which_container_where_and_why_and_is_undone(
    remote: FakeRemote,
) -> None:
    remote.by_name["node2"].runtime.broken = {"vm4": ["ERROR conf - no such rootfs"]}
    with pytest.raises(LaunchError) as caught:
        Session(Group(per_node=2), JOB).__enter__()
    (failure,) = caught.value.failures
    assert str(failure) == (
        "container vm4 on node node2: LXC could not start it\n    ERROR conf - no such rootfs"
    )
    assert remote.running() == []
    assert files(remote) == []


def test_a_launch_on_a_node_that_does_not_answer_is_undone_on_the_others(
    remote: FakeRemote,
) -> None:
    remote.unreachable = ["node2"]
    with pytest.raises(LaunchError, match="node node2: it cannot be reached"):
        Session(job=JOB).__enter__()
    assert remote.running() == []
    assert files(remote) == []


def test_an_unknown_image_fails_on_each_node_and_leaves_nothing(remote: FakeRemote) -> None:
    with pytest.raises(LaunchError, match="image nosuch does not exist on this node") as caught:
        Session(Group(image="nosuch"), JOB).__enter__()
    assert {f.node for f in caught.value.failures} == {"node1", "node2"}
    assert files(remote) == []


def test_a_second_session_of_the_same_names_leaves_the_first_alone(remote: FakeRemote) -> None:
    with Session(job=JOB) as first:
        pids = [c.init_pid for c in first.containers]
        with pytest.raises(SpecError, match="another session of the job has a container vm1"):
            Session(job=JOB).__enter__()
        runtimes = [node.runtime for node in remote.by_name.values()]
        assert [r.init_pid(n) for r, n in zip(runtimes, ("vm1", "vm2"), strict=True)] == pids


def test_two_sessions_with_names_of_their_own_live_side_by_side(remote: FakeRemote) -> None:
    with Session(Group(name="a"), JOB):
        with Session(Group(name="b"), JOB):
            assert remote.running() == ["a1", "a2", "b1", "b2"]
        assert remote.running() == ["a1", "a2"]


def known(remote: FakeRemote, node: str) -> dict[str, str]:
    return {name: ip for name, (ip, _, _) in all_names(remote.by_name[node].layout).items()}


def told(remote: FakeRemote, node: str, container: str) -> list[str]:
    """Return the lines of /etc/hosts that a running container was told."""
    text = (remote.by_name[node].runtime.told / container).read_text()
    return [line.split()[1] for line in text.splitlines() if re.match("100[.].* # oar-lxc$", line)]


def test_two_sessions_never_have_one_address(remote: FakeRemote) -> None:
    with Session(Group(name="a"), JOB) as one, Session(Group(name="b"), JOB) as other:
        addresses = {c.name: c.address for c in one.containers + other.containers}
        assert len(set(addresses.values())) == 4
        for name in ("a1", "a2", "b1", "b2"):
            node = "node1" if name.endswith("1") else "node2"
            containers = remote.by_name[node].layout.containers
            assert f" = {addresses[name]}/21 " in (containers / name / "config").read_text()
        assert known(remote, "node1") == known(remote, "node2") == addresses


def test_running_containers_are_told_of_those_that_come_and_go(remote: FakeRemote) -> None:
    with Session(Group(name="a"), JOB):
        with Session(Group(name="b", total=1), JOB):
            for node, name in (("node1", "a1"), ("node2", "a2")):
                assert told(remote, node, name) == ["a1", "a2", "b1"]
            hosts = remote.by_name["node2"].layout.containers.glob(".layers.*/b/etc/hosts")
            text = next(hosts).read_text()
            assert [line.split()[1] for line in text.splitlines()[1:]] == ["a1", "a2", "b1"]
        for node, name in (("node1", "a1"), ("node2", "a2")):
            assert told(remote, node, name) == ["a1", "a2"]


def test_a_container_that_was_stopped_meanwhile_is_told_when_it_starts(remote: FakeRemote) -> None:
    node = remote.by_name["node1"]
    with Session(Group(name="a"), JOB):
        node.run(requests.Stop(("a1",), 0))
        with Session(Group(name="b", total=1), JOB):
            assert not (node.runtime.told / "a1").exists()
            node.run(requests.Start(("a1",)))
            assert told(remote, "node1", "a1") == ["a1", "a2", "b1"]
            node.run(requests.Freeze(("a1",)))
        node.run(requests.Unfreeze(("a1",)))
        assert told(remote, "node1", "a1") == ["a1", "a2"]


def test_launches_that_come_to_a_node_in_another_order_know_of_each_other(
    remote: FakeRemote,
) -> None:
    """The second session has its numbers, and all its containers, before the first has any."""
    second = Session(Group(name="b"), JOB)

    def overtake(node: str, event: events.Event) -> None:
        if isinstance(event, events.Planned) and event.container == "a1":
            second.__enter__()

    with Session(Group(name="a"), JOB, on_progress=overtake):
        assert set(known(remote, "node1")) == {"a1", "a2", "b1", "b2"}
        layers = remote.by_name["node1"].layout.containers.glob(".layers.*/a/etc/hosts")
        assert " b2 # oar-lxc\n" in next(layers).read_text()
        assert sorted(told(remote, "node1", "b1")) == ["a1", "a2", "b1", "b2"]
        second.__exit__(None, None, None)
        assert told(remote, "node1", "a1") == ["a1", "a2"]


def test_numbers_are_free_again_and_not_at_once_given_out(remote: FakeRemote) -> None:
    seen: list[str] = []
    for _ in range(3):
        with Session(job=JOB) as containers:
            seen += [c.address for c in containers.containers]
    assert seen == [f"100.65.80.{number}" for number in range(3, 9)]
    # Another session has nearly all: what a launch that fails had is what the next one gets.
    node = remote.by_name["node1"]
    others = [
        held(f"c{n}", "node9", address=f"100.65.{80 + n // 256}.{n % 256}/21")["containers"][0]
        for n in range(9, 2000)
    ]
    session = {**held("", "node9"), "containers": others}
    ledger = {"next": 0, "sessions": {"x": session}}
    Path(node.layout.private / "ledger.json").write_text(json.dumps(ledger))
    node.runtime.broken = {"vm1": ["no"]}
    for _ in range(3):
        with pytest.raises(LaunchError):
            Session(Group(per_node=15), JOB).__enter__()
    with pytest.raises(SpecError, match="has 2044 addresses"):
        Session(Group(per_node=30), JOB).__enter__()


def test_each_container_has_a_host_key_of_its_own(remote: FakeRemote) -> None:
    with Session(Group(per_node=2), JOB):
        node = remote.by_name["node1"]
        told_keys = {event["container"]: event["host_key"] for event in node.run(requests.List())}
        assert len(set(told_keys.values())) == 2
        for name, public in told_keys.items():
            upper = node.layout.containers / name / "upper"
            assert (upper / "etc/ssh/ssh_host_ed25519_key.pub").read_text() == f"{public}\n"


def test_cores_and_ports_are_the_jobs(remote: FakeRemote) -> None:
    job = Job(42, "alice", {"node1": 2, "node2": 1})
    port = Port(8080, 80)
    one, other = (Session(Group(name=name, total=1, cores=1), job) for name in "ab")
    with one, other:
        plans = (*one.plan.containers, *other.plan.containers)
        assert {(c.node, c.first_core) for c in plans} == {("node1", 0), ("node1", 1)}
        with pytest.raises(SpecError, match="of which other sessions have 2"):
            Session(Group(name="c", cores=1), job).__enter__()
    Path(remote.by_name["node1"].layout.private / "ledger.json").write_text(
        json.dumps({"next": 0, "sessions": {"x": held("a1", "node1", port)}})
    )
    with pytest.raises(SpecError, match="vm: ports has 8080, which on node1 leads into a1"):
        Session(Group(ports=(port,)), job).__enter__()


def held(name: str, node: str, *ports: Port, address: str = "100.65.80.9/21") -> dict[str, Any]:
    """Return what the ledger has of a session of another node."""
    planned = PlannedContainer(name, node, address, "debian-12", "a", ports=ports)
    data = {**asdict(planned), "host_key": "ssh-ed25519 A"}
    return {"owner": ["node9", "1", "1"], "containers": [data]}


def test_a_session_of_another_node_gets_its_numbers_from_the_same_place(
    remote: FakeRemote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session(Group(name="a"), JOB) as one:
        remote.local = "node2"
        monkeypatch.setattr(session, "JobLayout", lambda job: JobLayout(job, tmp_path / "node2"))
        with Session(Group(name="b"), JOB) as other:
            addresses = {c.address for c in one.containers + other.containers}
            assert len(addresses) == 4
            refused = "^group a: another session of the job has a container a1"
            with pytest.raises(SpecError, match=refused):
                Session(Group(name="a", total=1), JOB).__enter__()
            private = remote.by_name["node2"].layout.private
            assert "ledger.json" not in os.listdir(private)
    table = json.loads((remote.by_name["node1"].layout.private / "ledger.json").read_text())
    assert table["sessions"] == {}


def test_sessions_that_start_at_one_time_share_nothing(remote: FakeRemote) -> None:
    sessions = [Session(Group(name=name, per_node=2), JOB) for name in "abcd"]
    threads = [threading.Thread(target=one.__enter__) for one in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    containers = [c for one in sessions for c in one.containers]
    assert len(containers) == len({c.address for c in containers}) == 16
    assert len(known(remote, "node1")) == len(known(remote, "node2")) == 16
    for one in sessions:
        one.__exit__(None, None, None)
    assert files(remote) == []


def test_a_session_that_was_killed_before_it_had_containers_is_no_obstacle(
    remote: FakeRemote,
) -> None:
    ledger = remote.by_name["node1"].layout.private / "ledger.json"
    dead = {**held("a1", "node1"), "owner": ["node1", str(os.getpid()), "1"]}
    ledger.write_text(json.dumps({"next": 0, "sessions": {"x": dead}}))
    with Session(Group(name="a", total=1), Job(42, "alice", {"node1": 1})):
        assert remote.running() == ["a1"]
    living = {**dead, "owner": ["node1", *identity(os.getpid())]}
    ledger.write_text(json.dumps({"next": 0, "sessions": {"x": living}}))
    with pytest.raises(SpecError, match="another session of the job has a container a1"):
        Session(Group(name="a", total=1), Job(42, "alice", {"node1": 1})).__enter__()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"next": 0}', '{"next": "x", "sessions": {}}'])
def test_a_damaged_table_is_one_sentence(remote: FakeRemote, text: str) -> None:
    (remote.by_name["node1"].layout.private / "ledger.json").write_text(text)
    with pytest.raises(OarLxcError, match=r"ledger.json is damaged: .* remove the file"):
        Session(job=JOB).__enter__()
    assert files(remote) == []


def test_the_head_node_is_the_first_by_its_number() -> None:
    assert head_of(["node10", "node9"]) == "node9"
    assert head_of(["n-10.site", "n-9.site"]) == "n-9.site"


def test_a_command_runs_in_every_container(remote: FakeRemote) -> None:
    with Session(job=JOB) as containers:
        outcomes = containers.run(["sh", "-c", "cat; echo err >&2; exit 5"], stdin="in")
    assert outcomes == [Outcome(name, 5, "in", "err\n") for name in ("vm1", "vm2")]


def test_a_command_runs_in_some_containers_in_the_order_asked_for(remote: FakeRemote) -> None:
    with Session(Group(per_node=2), JOB) as containers:
        outcomes = containers.run(["true"], ["vm4", "vm1"])
    assert [o.container for o in outcomes] == ["vm4", "vm1"]


def test_output_is_handed_on_as_it_comes(remote: FakeRemote) -> None:
    told: list[tuple[str, str, str]] = []
    with Session(job=JOB) as containers:
        outcomes = containers.run(
            ["echo", "x"],
            ["vm2"],
            on_output=lambda name, stream, text: told.append((name, stream, text)),
        )
    assert told == [("vm2", "stdout", "x\n")]
    assert outcomes == [Outcome("vm2", 0, "", "")]


def test_a_command_whose_time_is_up_has_status_124(remote: FakeRemote) -> None:
    with Session(job=JOB) as containers:
        assert containers.run(["sleep", "60"], ["vm1"], timeout=0.1)[0].status == 124


def test_a_command_in_a_container_that_is_none_is_an_error(remote: FakeRemote) -> None:
    with (
        Session(job=JOB) as containers,
        pytest.raises(ContainerError, match="no such container; it has: vm1, vm2"),
    ):
        containers.run(["true"], ["vm1", "vm9"])


def test_a_command_in_a_container_that_died_is_an_error(remote: FakeRemote) -> None:
    with Session(job=JOB) as containers:
        remote.by_name["node2"].runtime.kill(["vm2"], 5)
        with pytest.raises(ContainerError, match="vm2 on node node2: it is STOPPED"):
            containers.run(["true"])


def test_a_command_on_a_node_that_does_not_answer_is_an_error(remote: FakeRemote) -> None:
    with Session(job=JOB) as containers:
        remote.unreachable = ["node2"]
        with pytest.raises(NodeError, match=r"node node2: .* No route"):
            containers.run(["true"])
        remote.unreachable = []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"argv": []}, "the command is []; it is a list of words"),
        ({"argv": "uname -a"}, "the command is 'uname -a'; it is a list of words"),
        ({"argv": b"ls"}, "the command is b'ls'; it is a list of words"),
        ({"argv": None}, "the command is None; it is a list of words"),
        ({"argv": ["sleep", 5]}, "word 2 of the command is 5; it is a text"),
        ({"argv": ["a\0b"]}, "word 1 of the command is 'a\\x00b'; no word can hold a zero byte"),
        ({"stdin": 5}, "stdin is 5; it is a text or bytes"),
        ({"stdin": None}, "stdin is None; it is a text or bytes"),
        ({"timeout": "5"}, "timeout is '5'; it is a number of seconds"),
        ({"timeout": -1}, "timeout is -1; it is a number of seconds"),
        ({"timeout": float("nan")}, "timeout is nan; it is a number of seconds"),
        ({"containers": 1}, "containers is 1; it is a list of names"),
        ({"containers": [1]}, "containers has 1; it is a list of names"),
        ({"containers": b"vm1"}, "containers is b'vm1'; it is a list of names"),
        ({"on_output": "print"}, "on_output is 'print'; it is a function"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(
    remote: FakeRemote, arguments: dict[str, Any], sentence: str
) -> None:
    with Session(job=JOB) as containers:
        with pytest.raises(SpecError) as caught:
            containers.run(**{"argv": ["true"], **arguments})
        assert str(caught.value).startswith(sentence)
        assert containers.run(["true"])[0].status == 0


def test_input_may_be_bytes_and_containers_one_name(remote: FakeRemote) -> None:
    with Session(job=JOB) as containers:
        (outcome,) = containers.run(["cat"], "vm2", stdin=b"a\xffb")
        assert (outcome.container, outcome.stdout) == ("vm2", "a\udcffb")
        assert containers.containers[0].run(["cat"], stdin=b"x").stdout == "x"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"spec": "vms.toml"}, "groups is 'vms.toml'; it is a Group or a list of Groups"),
        ({"spec": {"total": 2}}, "groups is {'total': 2}; it is a Group or a list"),
        ({"spec": [Group(), "web"]}, "number 2 of the groups is 'web'; it is a Group"),
        ({"spec": []}, "the spec has no group"),
        ({"job": 42}, "job is 42; it is a Job"),
        ({"on_progress": "print"}, "on_progress is 'print'; it is a function"),
        ({"timeout": "5"}, "timeout is '5'; it is a number of seconds"),
        ({"wait": 5}, "wait is 5; it is a text"),
        ({"count": 3}, "Session: unknown key 'count'; known: spec"),
        ({"total": 3}, "Session: total is a Group's: write Session(Group(total=…))"),
        ({"on_progres": print}, "Session: unknown key 'on_progres'; did you mean on_progress?"),
    ],
)
def test_what_is_no_session_is_one_sentence(
    remote: FakeRemote, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SpecError) as caught:
        Session(**{"job": JOB, **arguments})
    assert str(caught.value).startswith(sentence)
    assert files(remote) == []


def test_a_session_takes_several_groups(remote: FakeRemote) -> None:
    with Session([Group(name="a", total=1), Group(name="b", total=1)], JOB) as containers:
        assert [(c.name, c.node) for c in containers.containers] == [
            ("b1", "node1"),
            ("a1", "node2"),
        ]


def test_a_grace_that_is_no_number_is_one_sentence(remote: FakeRemote) -> None:
    with Session(job=JOB) as containers, pytest.raises(SpecError, match="grace is '5'; it is"):
        containers.stop("5")  # type: ignore[arg-type]


def test_a_session_that_has_not_begun_stops_nothing(remote: FakeRemote) -> None:
    node = remote.by_name["node1"]
    with Session(Group(name="a"), JOB):
        (node.layout.containers / "notes").write_text("mine")
        (node.layout.private / "ports-x.json").write_text("{}")
        before = files(remote)
        Session(Group(name="b"), JOB).stop()
        assert node.run(requests.Destroy("")) == []
        assert files(remote) == before
        assert (node.layout.private / "ports-x.json").exists()
        assert remote.running() == ["a1", "a2"]


def test_containers_can_be_stopped_before_the_block_ends(remote: FakeRemote) -> None:
    with Session(job=JOB) as containers:
        containers.stop()
        assert remote.running() == []
        assert containers.containers == ()


def test_what_cannot_be_destroyed_does_not_hide_why_the_block_ended(
    remote: FakeRemote, capsys: pytest.CaptureFixture[str]
) -> None:
    remote.by_name["node1"].runtime.immortal = ["vm1"]
    with pytest.raises(ZeroDivisionError), Session(job=JOB):
        _ = 1 // 0
    assert remote.running() == ["vm1"]
    told = capsys.readouterr()
    assert "container vm1 on node node1: it still ran" in told.out + told.err


def test_running_needs_no_waiting(remote: FakeRemote) -> None:
    with Session(job=JOB) as containers:
        containers.wait_ready("running", timeout=0.001)


def test_containers_whose_sshd_does_not_answer_are_named_and_run_on(remote: FakeRemote) -> None:
    with Session(job=JOB) as containers:
        with pytest.raises(NotReadyError, match=r"vm1 on node node1: sshd did not answer"):
            containers.wait_ready("ssh", timeout=0.05)
        assert remote.running() == ["vm1", "vm2"]
    assert remote.running() == []


def test_a_launch_that_waits_for_sshd_in_vain_is_undone(remote: FakeRemote) -> None:
    with pytest.raises(LaunchError, match="vm2 on node node2: sshd did not answer"):
        Session(job=JOB, wait="ssh", timeout=0.05).__enter__()
    assert remote.running() == []
    assert files(remote) == []


def test_nothing_else_can_be_waited_for(remote: FakeRemote) -> None:
    with pytest.raises(SpecError, match="wait is 'sssh'; did you mean ssh"):
        Session(job=JOB, wait="sssh")
    with Session(job=JOB) as containers, pytest.raises(SpecError, match="wait is 'bot'"):
        containers.wait_ready("bot")


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGTERM, SystemExit(143)),
        (signal.SIGINT, KeyboardInterrupt()),
        (signal.SIGUSR2, SystemExit(140)),
    ],
)
def test_a_signal_ends_the_block_and_nothing_is_left(
    remote: FakeRemote, number: int, expected: BaseException
) -> None:
    with pytest.raises(type(expected)) as caught, Session(job=JOB):
        signal_self(number)
    assert caught.value.args == expected.args
    assert remote.running() == []
    assert files(remote) == []


def test_a_signal_during_the_launch_undoes_it(
    remote: FakeRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(node: str, event: events.Event) -> None:
        if isinstance(event, events.Started):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        Session(job=JOB, on_progress=interrupt).__enter__()
    assert remote.running() == []
    assert files(remote) == []


def test_a_second_signal_does_not_cut_the_clean_up_short(remote: FakeRemote) -> None:
    def insist(node: str, event: events.Event) -> None:
        if isinstance(event, events.Gone):
            for number in SIGNALS:
                os.kill(os.getpid(), number)

    with pytest.raises(SystemExit), Session(Group(per_node=2), JOB, on_progress=insist):
        signal_self(signal.SIGTERM)
    assert remote.running() == []
    assert files(remote) == []


def test_the_programs_own_signal_handlers_come_back(remote: FakeRemote) -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with Session(job=JOB):
        assert {n: signal.getsignal(n) for n in SIGNALS} != before
    assert {n: signal.getsignal(n) for n in SIGNALS} == before
    remote.by_name["node1"].runtime.broken = {"vm1": ["no"]}
    with pytest.raises(LaunchError):
        Session(job=JOB).__enter__()
    assert {n: signal.getsignal(n) for n in SIGNALS} == before


def test_a_session_works_in_a_thread_that_gets_no_signals(remote: FakeRemote) -> None:
    seen: list[int] = []

    def work() -> None:
        with Session(job=JOB) as containers:
            seen.append(len(containers.containers))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert seen == [2]
    assert remote.running() == []


def test_a_session_can_be_opened_again(remote: FakeRemote) -> None:
    containers = Session(job=JOB)
    for _ in range(2):
        with containers:
            assert remote.running() == ["vm1", "vm2"]
        assert remote.running() == []


def test_outside_of_a_job_there_is_no_session() -> None:
    with pytest.raises(JobEnvironmentError, match="this is not an OAR job"):
        Session()


def test_on_a_node_that_is_not_prepared_there_is_no_session(remote: FakeRemote) -> None:
    remote.by_name["node1"].layout.published.unlink()
    here = Job(42, "alice", {os.uname().nodename: 1})
    with pytest.raises(NodeNotPreparedError, match=r"is not prepared for job 42: .*`-t lxc`"):
        Session(job=here)


def test_on_a_machine_that_is_no_node_of_the_job_there_is_no_session(remote: FakeRemote) -> None:
    remote.by_name["node1"].layout.published.unlink()
    with pytest.raises(NodeNotPreparedError, match=r"is not a node of job 42: .* type deploy"):
        Session(job=JOB)


def test_a_spec_that_does_not_fit_fails_before_anything_is_made(remote: FakeRemote) -> None:
    with pytest.raises(SpecError, match="has 2044 addresses"):
        Session(Group(per_node=2000), JOB)
    assert files(remote) == []


def test_keys_that_cannot_be_made_leave_nothing(remote: FakeRemote) -> None:
    key = remote.by_name["node1"].layout.ssh_key
    in_the_way = key.with_name(f".{key.name}.pub.{os.getpid()}")
    in_the_way.mkdir()
    with pytest.raises(OarLxcError, match=r"cannot make keys in .*: Is a directory"):
        Session(job=JOB).__enter__()
    assert remote.running() == []
    assert files(remote) == []
    in_the_way.rmdir()
    with Session(job=JOB):
        pass


def test_keys_are_made_once(remote: FakeRemote) -> None:
    key = remote.by_name["node1"].layout.ssh_key
    with Session(job=JOB):
        key.write_text("FIRST")
    with Session(job=JOB):
        assert key.read_text() == "FIRST"
