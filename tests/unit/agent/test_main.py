"""What acts on one node as the job's user, with a fake runtime below it."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from oar_lxc.agent import prepared
from oar_lxc.agent.main import OPERATIONS, carry_out, read_request
from oar_lxc.agent.prepared import environ_here, open_job
from oar_lxc.container import ssh_probe
from oar_lxc.errors import (
    ContainerError,
    ImageError,
    NodeNotPreparedError,
    OarLxcError,
    UsageError,
)
from oar_lxc.linux.cgroups import enter_cgroups
from oar_lxc.model import events, requests, wire
from oar_lxc.model.job import Job
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.names import Peer
from oar_lxc.model.plan import make_plan
from oar_lxc.model.published import REFUSED, PublishedJob
from oar_lxc.model.spec import Group
from tests.unit.fakes.node import HOST_KEY, KEYS, FakeNode, stay_oneself
from tests.unit.fakes.programs import add_program, wait_until
from tests.unit.fakes.runtime import IMAGE


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    stay_oneself(monkeypatch)
    node = FakeNode(tmp_path / "node1")
    yield node
    node.runtime.close()


def request(per_node: int = 2, **spec: Any) -> requests.Launch:
    plan = make_plan(Group(per_node=per_node, **spec), Job(42, "alice", {"node1": 1}))
    return requests.Launch(
        plan=plan,
        keys=KEYS,
        host_keys={planned.name: HOST_KEY.secret.hex() for planned in plan.containers},
        names={"s1": {c.name: Peer(c.ip, HOST_KEY.public) for c in plan.containers}},
        session="s1",
        wait="running",
        timeout=60,
    )


def awaiting(wait: str, timeout: float, per_node: int, **spec: Any) -> requests.AwaitReady:
    return requests.AwaitReady(request(per_node, **spec).plan, wait, timeout)


def kinds(told: list[events.Event]) -> dict[str, str]:
    return {e["container"]: e.kind for e in told}


@pytest.mark.parametrize("number", [1, 2, 9])
def test_a_launch_starts_every_container(node: FakeNode, number: int) -> None:
    told = node.run(request(number))
    names = [f"vm{i + 1}" for i in range(number)]
    assert kinds(told) == dict.fromkeys(names, "started")
    assert node.runtime.running() == node.runtime.names() == names


def test_a_launch_tells_what_the_kernel_knows_of_each_init(node: FakeNode) -> None:
    for event in node.run(request(2)):
        status = Path(f"/proc/{event['pid']}/status").read_text()
        cgroups = Path(f"/proc/{event['pid']}/cgroup").read_text().splitlines()
        assert f"\nCpus_allowed_list:\t{event['cpus']}\n" in status
        assert event["cgroup"] in [line.split(":", 2)[2] for line in cgroups]
        assert event["pid"] == node.runtime.init_pid(event["container"])


def test_a_launch_enters_the_jobs_cgroups_first(node: FakeNode) -> None:
    node.run(request(1))
    assert (node.cgroup / "cgroup.procs").read_text() == str(os.getpid())


def test_a_launch_that_may_not_enter_the_cgroups_makes_nothing(node: FakeNode) -> None:
    node.cgroup.rmdir()
    with pytest.raises(OarLxcError, match=f"cannot enter cgroup {node.cgroup}: No such file"):
        node.run(request(1))
    assert node.files() == []


@pytest.mark.parametrize("number", [1, 2, 6])
def test_a_launch_with_one_failing_container_is_undone(node: FakeNode, number: int) -> None:
    broken = f"vm{number}"
    node.runtime.broken = {broken: ["ERROR utils - no init", "ERROR start - failed"]}
    told = node.run(request(number))
    assert [e for e in told if isinstance(e, events.Failed)] == [
        events.Failed(
            broken, "LXC could not start it", ("ERROR utils - no init", "ERROR start - failed")
        )
    ]
    assert node.runtime.running() == []
    assert node.files() == []


def test_a_launch_with_an_unknown_image_makes_nothing(node: FakeNode) -> None:
    with pytest.raises(ImageError, match=f"image nosuch does not exist .* images here: {IMAGE}"):
        node.run(request(1, image="nosuch"))
    assert node.files() == []


def test_a_launch_on_a_full_disk_is_one_sentence_and_leaves_nothing(
    node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "tar: vm1/upper/etc/hosts: Cannot write: No space left on device"
    more = "tar: Exiting with failure status due to previous errors"
    add_program(tmp_path / "bin", "tar", f'echo "{said}" >&2; echo "{more}" >&2; exit 2')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(OarLxcError, match="No space left on device") as caught:
        node.run(request(2))
    assert "\n" not in str(caught.value)
    assert node.files() == []


def test_a_launch_whose_directory_cannot_be_made_is_one_sentence(node: FakeNode) -> None:
    node.layout.containers.rmdir()
    with pytest.raises(
        OarLxcError, match=r"cannot create containers in .*: No such file or directory"
    ):
        node.run(request(2))


def test_a_launch_of_names_that_exist_leaves_those_alone(node: FakeNode) -> None:
    node.run(request(1))
    pid = node.runtime.init_pid("vm1")
    with pytest.raises(ContainerError, match=r"^container vm1: job 42 has one of this name"):
        node.run(request(2))
    assert node.runtime.init_pid("vm1") == pid
    assert node.runtime.names() == ["vm1"]


def test_launches_wait_for_each_other(node: FakeNode) -> None:
    told: list[events.Event] = []
    arguments = (node.on(told.append), requests.Destroy(None))
    with node.on(told.append).locked():
        thread = threading.Thread(target=carry_out, args=arguments)
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
    thread.join(5)
    assert not thread.is_alive()


def test_a_list_tells_of_every_container(node: FakeNode) -> None:
    node.run(request(2))
    node.runtime.kill(["vm2"], 5)
    first, second = node.run(requests.List())
    assert (first["container"], first["state"], first["node"]) == ("vm1", "RUNNING", "node1")
    assert first["address"] == "100.65.80.2"
    assert first["pid"] == node.runtime.init_pid("vm1")
    assert first["cpus"]
    assert (second["container"], second["state"], second["pid"]) == ("vm2", "STOPPED", 0)


def test_a_container_is_not_ready_before_it_is_waited_for(node: FakeNode) -> None:
    ready: list[bool] = []

    def emit(event: events.Event) -> None:
        if isinstance(event, events.Started | events.Provisioned):
            ready.extend(told["ready"] for told in node.run(requests.List()))

    carry_out(node.on(emit), request(1))
    assert ready == [False]
    assert node.run(requests.List())[0]["ready"]
    node.run(requests.Stop(None, 0))
    assert not node.run(requests.List())[0]["ready"]
    node.run(requests.Start(None))
    assert node.run(requests.List())[0]["ready"]


def test_a_list_of_what_cannot_be_read_is_an_error(node: FakeNode) -> None:
    node.layout.containers.rmdir()
    with pytest.raises(OSError, match="No such file"):
        node.run(requests.List())


def execution(
    *argv: str, containers: tuple[str, ...] | None = None, stdin: str = ""
) -> requests.Exec:
    return requests.Exec(containers, argv, stdin, 20)


def test_a_command_runs_in_all_containers(node: FakeNode) -> None:
    node.run(request(2))
    told = node.run(execution("sh", "-c", "exit 3"))
    assert {e["container"]: e["status"] for e in told} == {"vm1": 3, "vm2": 3}


def test_a_command_runs_in_the_named_containers_that_are_here(node: FakeNode) -> None:
    node.run(request(2))
    told = node.run(execution("true", containers=("vm2", "elsewhere")))
    assert {e["container"] for e in told} == {"vm2"}


def test_bytes_go_in_and_out_unchanged(node: FakeNode) -> None:
    node.run(request(1))
    stdin = b"\x00\xff\xc3".decode("utf-8", "surrogateescape")
    told = node.run(execution("cat", stdin=stdin))
    output = "".join(e.data for e in told if isinstance(e, events.Output))
    assert output.encode("utf-8", "surrogateescape") == b"\x00\xff\xc3"


def test_a_destruction_leaves_nothing(node: FakeNode) -> None:
    node.run(request(3))
    assert kinds(node.run(requests.Destroy(None))) == {
        "vm1": "gone",
        "vm2": "gone",
        "vm3": "gone",
    }
    assert node.runtime.running() == []
    assert node.files() == []
    assert node.run(requests.Destroy(None)) == []


def test_a_session_destroys_its_own_containers_and_no_others(node: FakeNode) -> None:
    node.run(request(1))
    node.run(replace(request(1, name="web"), session="s2"))
    pid = node.runtime.init_pid("web1")
    assert node.run(requests.Destroy("s3")) == []
    assert kinds(node.run(requests.Destroy("s1"))) == {"vm1": "gone"}
    assert node.runtime.init_pid("web1") == pid
    assert node.runtime.names() == ["web1"]


def test_what_a_launch_that_was_killed_had_half_made_goes_with_its_session(
    node: FakeNode,
) -> None:
    for name in (".vm1.s1", ".layers.s1", ".vm1.s2", ".s1.notes"):
        (node.layout.containers / name).mkdir()
    (node.layout.containers / ".vm1.s1/config").touch()
    assert node.run(requests.Destroy("s1")) == []
    assert node.files() == [".s1.notes", ".vm1.s2"]


def test_what_the_user_keeps_beside_the_containers_is_not_touched(node: FakeNode) -> None:
    (node.layout.containers / "notes").write_text("mine")
    (node.layout.containers / "data").mkdir()
    node.run(request(1))
    assert kinds(node.run(requests.Destroy(None))) == {"vm1": "gone"}
    assert node.files() == ["data", "notes"]


def test_a_name_that_the_user_took_is_refused_and_his_files_are_kept(node: FakeNode) -> None:
    (node.layout.containers / "vm1").mkdir()
    (node.layout.containers / "vm1/mine").touch()
    with pytest.raises(ContainerError, match="vm1"):
        node.run(request(1))
    assert node.files() == ["vm1", "vm1/mine"]


def test_what_does_not_die_is_told_and_keeps_its_directory(node: FakeNode) -> None:
    node.run(request(2))
    node.runtime.immortal = ["vm1"]
    told = node.run(requests.Destroy(None))
    assert kinds(told) == {"vm1": "failed", "vm2": "gone"}
    assert "still ran 10 s after SIGKILL" in told[-1]["reason"]
    assert node.runtime.names() == ["vm1"]


def test_a_container_is_ready_when_its_sshd_answers(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(ssh_probe, "SSH_PORT", server.getsockname()[1])
        node.run(request(2))
        wanted = awaiting("ssh", 0.2, 2)
        here = zip(wanted.plan.containers, ("127.0.0.1/21", "127.0.0.9/21"), strict=True)
        planned = tuple(replace(container, address=address) for container, address in here)
        wanted = replace(wanted, plan=replace(wanted.plan, containers=planned))

        def greet() -> None:
            connection, _ = server.accept()
            connection.sendall(b"SSH-2.0-test\r\n")
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        ready, failed = node.run(wanted)
        thread.join()
    assert isinstance(ready, events.Ready)
    assert ready.container == "vm1"
    assert isinstance(failed, events.Failed)
    assert failed.container == "vm2"
    assert failed.reason == "sshd did not answer within 0.2 s"


def test_a_late_container_with_few_processes_is_told_how_many_it_takes(node: FakeNode) -> None:
    node.run(request(1))
    for number, hint in ((8, "; processes is 8, which may be too few for it: "), (10, "")):
        (failed,) = node.run(awaiting("false", 0.2, 1, processes=number))
        assert failed["reason"].startswith(f"`false` did not succeed within 0.2 s{hint}")
        assert ("processes" in failed["reason"]) == bool(hint)


def test_keys_are_told_where_they_are(node: FakeNode) -> None:
    assert node.run(requests.TellKeys()) == []
    node.layout.ssh_key.write_text("PRIVATE")
    assert node.run(requests.TellKeys()) == [events.Keys("PRIVATE")]


def test_an_unknown_operation_is_refused_with_all_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'explode'; known: launch.*destroy.*unfreeze"):
        read_request("explode", "{}")


@pytest.mark.parametrize("line", ["", "{", "[]", "1", "null", '"x"', "{}", "[" * 99999])
def test_what_is_no_request_is_one_sentence(line: str) -> None:
    with pytest.raises(UsageError, match="the request for stop is wrong: ") as caught:
        read_request("stop", line)
    assert "\n" not in str(caught.value)


def test_each_request_is_carried_out_by_a_function_for_it() -> None:
    assert set(OPERATIONS) == set(wire.REQUESTS)
    for kind, place in OPERATIONS.items():
        module, _, name = place.partition(":")
        function = getattr(import_module(module), name)
        cls = wire.REQUESTS[kind].__name__
        annotation = function.__annotations__["request"]
        assert annotation.removeprefix("requests.") == cls, place


def test_an_interrupted_launch_is_undone(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(event: events.Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(node.on(interrupt), request(2))
    assert wait_until(lambda: node.runtime.running() == [])
    assert node.files() == []


def _publish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str, state: str = "ready"
) -> None:
    monkeypatch.setattr(prepared, "JobLayout", lambda job_id: JobLayout(job_id, tmp_path))
    layout = JobLayout(42, tmp_path)
    layout.directory.mkdir(parents=True)
    published = PublishedJob(
        42, user, "node1", ("node1",), state, "all id ranges are in use", namespaces=True
    )
    layout.published.write_text(published.to_json())


def test_the_job_of_the_calling_user_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    _publish(tmp_path, monkeypatch, me)
    layout, published = open_job(42)
    assert (layout.job_id, published.user) == (42, me)


def test_to_open_a_job_leaves_the_callers_environment_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _publish(tmp_path, monkeypatch, pwd.getpwuid(os.getuid()).pw_name)
    before = dict(os.environ)
    layout, _ = open_job(42)
    assert dict(os.environ) == before
    assert environ_here(layout)["XDG_RUNTIME_DIR"] == str(layout.private)


def test_the_job_of_another_user_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _publish(tmp_path, monkeypatch, "mallory")
    with pytest.raises(NodeNotPreparedError, match="job 42 belongs to mallory"):
        open_job(42)


def test_a_refused_job_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish(tmp_path, monkeypatch, pwd.getpwuid(os.getuid()).pw_name, REFUSED)
    with pytest.raises(NodeNotPreparedError, match="refused job 42: all id ranges are in use"):
        open_job(42)


def test_every_cgroup_is_entered(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    enter_cgroups([str(tmp_path / "a"), str(tmp_path / "b")])
    for name in "ab":
        assert (tmp_path / name / "cgroup.procs").read_text() == str(os.getpid())


@pytest.mark.parametrize(
    ("arguments", "reason", "status"),
    [
        ((), "usage: ", 2),
        (("42x", "list"), "job id '42x' is not a number", 2),
        (("2147483647", "list"), "is not prepared for job 2147483647", 1),
    ],
)
def test_a_failure_is_an_event_and_a_status(
    arguments: tuple[str, ...], reason: str, status: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "oar_lxc.agent.main", *arguments],
        input="{}\n",
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == status
    assert done.stderr == ""
    assert '{"event": "error", "reason": "' in done.stdout
    assert reason in done.stdout


def test_the_timeline_has_each_phase_in_order(node: FakeNode) -> None:
    node.published = replace(node.published, prepared={"begin": 5.0, "all": 0.1, "ids": 0.02})
    node.run(request(2))
    node.run(requests.Destroy("s1"))
    told = node.run(requests.Timeline())
    assert [(e["phase"], e["containers"]) for e in told] == [
        ("prepare", 0),
        ("image", 0),
        ("create", 2),
        ("start", 2),
        ("destroy", 2),
    ]
    assert (told[0]["begin"], told[0]["seconds"]) == (5.0, 0.1)
    assert told[0]["steps"] == {"ids": 0.02}
    assert all(e["seconds"] >= 0 for e in told)
    begins = [e["begin"] for e in told]
    assert begins == sorted(begins)


def test_a_node_without_containers_starts_none(node: FakeNode) -> None:
    elsewhere = make_plan(Group(), Job(42, "alice", {"node2": 1}))
    assert node.run(replace(request(1), plan=elsewhere)) == []
    assert "start" not in [event["phase"] for event in node.run(requests.Timeline())]
    assert node.runtime.running() == []


def test_a_timeline_that_users_spoiled_is_what_can_be_read_of_it(node: FakeNode) -> None:
    node.layout.timeline.write_text('[]\n{"phase": "x"}\n{"phase": "start"\nno\n')
    assert node.run(requests.Timeline()) == []
