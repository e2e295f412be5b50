"""The commands that reach containers, with fake nodes and an oarsh and an ssh of our own."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.cli import main as cli_main
from oar_lxc.cli import reach
from oar_lxc.cli.look import describe, size
from oar_lxc.cli.main import cli
from oar_lxc.errors import ContainerError, OarLxcError, UsageError
from oar_lxc.keys import CLIENT, HOST
from oar_lxc.timeline import note
from tests.unit.fakes import (
    FakeNode,
    FakeRemote,
    add_program,
    invoke,
    recorded,
    recorder,
    wait_until,
)

SSH = """
# Look at the files while they are there.
for word; do case "$word" in
IdentityFile=*) cp -p "${word#*=}" "$SEEN/key";;
UserKnownHostsFile=*) cp "${word#*=}" "$SEEN/known_hosts"; echo "${word#*=}" > "$SEEN/path";;
esac; done
exit 5
"""


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRemote]:
    """Return the way to two nodes of job 42, seen from a frontend."""
    nodes = {n: FakeNode(tmp_path / n, n, ("node1", "node2")) for n in ("node1", "node2")}
    remote = FakeRemote(nodes)
    for node, name in (("node1", "vm1"), ("node2", "vm2")):
        directory = nodes[node].layout.containers / name
        directory.mkdir()
        (directory / "config").write_text(
            "lxc.net.0.ipv4.address = 100.65.80.3/21 100.65.87.255\n"
        )
    nodes["node1"].runtime.start("vm1")
    wanted: list[int | None] = []

    def find(job_id: int | None) -> FakeRemote:
        wanted.append(job_id)
        assert job_id in (None, 42)
        return remote

    monkeypatch.setattr(reach, "find_remote", find)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(tmp_path))
    yield remote
    remote.close()


@pytest.fixture
def running(remote: FakeRemote) -> FakeRemote:
    """Return the same with all containers RUNNING."""
    remote.by_name["node2"].runtime.start("vm2")
    return remote


def oarsh(tmp_path: Path, body: str = "") -> None:
    log = f'echo "$OAR_JOB_ID" > {tmp_path}/job\n'
    add_program(tmp_path / "bin", "oarsh", log + recorder(tmp_path / "oarsh", body))


def test_a_list_is_a_table_for_people(
    remote: FakeRemote, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(cli, "list", "42") == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["CONTAINER", "NODE", "STATE", "READY", "ADDRESS", "PID", "CPUS"]
    pid = remote.by_name["node1"].runtime.init_pid("vm1")
    assert first.split()[:6] == ["vm1", "node1", "RUNNING", "no", "100.65.80.3", str(pid)]
    assert second.split() == ["vm2", "node2", "STOPPED", "-", "100.65.80.3", "-", "-"]


def test_a_timeline_is_a_table_for_people_and_json_for_programs(
    remote: FakeRemote, capsys: pytest.CaptureFixture[str]
) -> None:
    note(remote.by_name["node2"].layout, "start", 9.0, 0.25, 3)
    note(remote.by_name["node1"].layout, "create", 8.0, 1.5, 2)
    assert invoke(cli, "timeline", "42") == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["NODE", "PHASE", "BEGIN", "SECONDS", "CONTAINERS"]
    assert first.split()[:2] + first.split()[3:] == ["node1", "create", "1.500", "2"]
    assert second.split()[:2] + second.split()[3:] == ["node2", "start", "0.250", "3"]
    assert invoke(cli, "timeline", "42", "--json") == 0
    assert json.loads(capsys.readouterr().out)[1] == {
        "node": "node2",
        "phase": "start",
        "begin": 9.0,
        "seconds": 0.25,
        "containers": 3,
    }


def test_a_list_is_json_for_programs(
    remote: FakeRemote, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(cli, "list", "42", "--json") == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["name"], first["node"], first["state"]) == ("vm1", "node1", "RUNNING")
    assert first["pid"] == remote.by_name["node1"].runtime.init_pid("vm1")
    assert (second["name"], second["pid"], second["cpus"]) == ("vm2", 0, "")


@pytest.mark.parametrize(
    ("options", "expected"),
    [([], ("", "job 42 has no containers\n")), (["--json"], ("[]\n", ""))],
)
def test_a_list_of_none_is_told_on_standard_error_or_is_json(
    remote: FakeRemote,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    expected: tuple[str, str],
) -> None:
    for node, name in (("node1", "vm1"), ("node2", "vm2")):
        (remote.by_name[node].layout.containers / name / "config").unlink()
    assert invoke(cli, "list", "42", *options) == 0
    assert capsys.readouterr() == expected


def test_a_command_for_a_container_that_does_not_run_is_one_sentence(
    remote: FakeRemote,
) -> None:
    with pytest.raises(ContainerError, match="vm2 on node node2: it is STOPPED, not RUNNING"):
        invoke(cli, "exec", "42/vm2", "--", "true")


def test_a_command_is_run_on_the_containers_node_inside_the_job(
    running: FakeRemote, tmp_path: Path
) -> None:
    oarsh(tmp_path)
    assert invoke(cli, "exec", "42/vm2", "--", "sh", "-c", "echo 'a  b'; $X") == 0
    (call,) = recorded(tmp_path / "oarsh")
    assert call[0] == "node2"
    words = shlex.split(call[1])
    assert words[:4] == [sys.executable, "-m", "oar_lxc.doorway", "42"]
    assert words[4:] == ["attach", "vm2", "sh", "-c", "echo 'a  b'; $X"]
    assert (tmp_path / "job").read_text() == "42\n"


@pytest.mark.parametrize("status", [0, 1, 3, 255])
def test_the_status_of_a_command_is_passed_on(
    remote: FakeRemote, tmp_path: Path, status: int
) -> None:
    oarsh(tmp_path, f"exit {status}")
    assert invoke(cli, "exec", "42/vm1", "--", "true") == status


def test_a_command_that_a_signal_ended_has_the_status_that_shells_give_it(
    remote: FakeRemote, tmp_path: Path
) -> None:
    oarsh(tmp_path, "kill -TERM $$")
    assert invoke(cli, "exec", "42/vm1", "--", "true") == 143


def test_a_commands_streams_are_passed_through(
    remote: FakeRemote, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    oarsh(tmp_path, "echo out; echo err >&2")
    assert invoke(cli, "exec", "42/vm1", "--", "true") == 0
    assert capfd.readouterr() == ("out\n", "err\n")


@pytest.mark.parametrize("arguments", [("exec",), ("exec", "vm1"), ("shell",), ("ssh",)])
def test_a_missing_argument_is_told_with_how_it_is_meant(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(cli, *arguments) == 2
    assert "Missing argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (("list", "x"), "job id 'x' is not a number", 2),
        (("exec", "42/", "--", "true"), "'42/' names no container", 2),
        (("exec", "42/vm9", "--", "true"), "container vm9: job 42 has no such container; it", 1),
        (("ssh", "vm9"), "container vm9: job 42 has no such container; it has: vm1, vm2", 1),
        (("ssh", "42/vm1"), "job 42 has no ssh key", 2),
    ],
)
def test_a_mistake_is_one_sentence_after_the_programs_name(
    remote: FakeRemote,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
    status: int,
) -> None:
    monkeypatch.setattr(sys, "argv", ["oar-lxc", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli_main.main()
    assert caught.value.code == status
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("oar-lxc: ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_outside_of_a_job_a_name_alone_is_no_target(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OarLxcError, match="this is not an OAR job: name the job"):
        cli.main(["list"], standalone_mode=False)


def test_show_is_lines_for_people_and_json_for_programs(
    remote: FakeRemote, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(cli, "show", "42/vm1") == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert (lines["container:"], lines["state:"], lines["node:"]) == (
        "42/vm1",
        "RUNNING, not ready yet",
        "node1",
    )
    assert invoke(cli, "show", "42/vm2", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["job"], shown["state"]) == ("vm2", 42, "STOPPED")


def test_what_a_container_uses_is_told_with_its_limits() -> None:
    facts = {"job": 42, "name": "vm1", "state": "RUNNING", "node": "n", "address": "a"}
    facts |= {"ready": True}
    facts |= {"group": "vm", "image": "i", "pid": 7, "cpus": "0-1", "cores": 2, "ports": []}
    facts |= {"memory": 1 << 20, "memory_limit": 512 << 20, "processes": 5, "processes_limit": 0}
    lines = dict(describe(facts))
    assert lines["memory"] == "1.0 MiB of 512.0 MiB"
    assert lines["processes"] == "5, no limit of its own"
    assert lines["CPUs"] == "0-1, 2 reserved for it"


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 50, "1024.0 TiB")]
)
def test_a_size_is_written_in_units_of_1024(number: int, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(
    ("targets", "stopped"),
    [(["42/vm1"], ["vm1"]), (["42/"], ["vm1", "vm2"]), (["vm2", "vm1"], ["vm1", "vm2"])],
)
def test_stop_and_start_tell_what_has_become_of_each(
    running: FakeRemote,
    capsys: pytest.CaptureFixture[str],
    targets: list[str],
    stopped: list[str],
) -> None:
    assert invoke(cli, "stop", *targets) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(" on ")[0] for line in said] == stopped
    assert all(line.endswith(" is stopped") for line in said)
    assert running.running() == [name for name in ("vm1", "vm2") if name not in stopped]
    assert invoke(cli, "start", *targets) == 0
    assert all(line.endswith(" runs") for line in capsys.readouterr().out.splitlines())
    assert running.running() == ["vm1", "vm2"]


def test_one_that_fails_is_told_and_the_others_are_done(
    running: FakeRemote, capsys: pytest.CaptureFixture[str]
) -> None:
    running.by_name["node1"].runtime.immortal = ["vm1"]
    with pytest.raises(ContainerError, match="vm1 on node node1: it still ran 10 s after SIGKILL"):
        invoke(cli, "stop", "--kill", "42/")
    assert capsys.readouterr().out == "vm2 on node2 is stopped\n"
    running.by_name["node1"].runtime.immortal = []


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (["42/vm9", "42/vm1"], "vm9: job 42 has no such container; it has: vm1, vm2"),
        (["42/vm1", "43/vm1"], "containers of one job at a time, not of 42, 43"),
        (["42/../vm1"], "job id '42/..' is not a number"),
        (["/"], "job id '' is not a number"),
        (["42/VM1"], "'42/VM1' names no container"),
    ],
)
def test_what_is_no_container_stops_none(
    running: FakeRemote, targets: list[str], sentence: str
) -> None:
    with pytest.raises(OarLxcError, match=sentence):
        invoke(cli, "stop", *targets)
    assert running.running() == ["vm1", "vm2"]


def test_a_frozen_container_is_told_with_what_thaws_it(running: FakeRemote) -> None:
    assert invoke(cli, "freeze", "42/vm1") == 0
    for command in (["exec", "42/vm1", "--", "true"], ["logs", "42/vm1"], ["shell", "42/vm1"]):
        with pytest.raises(ContainerError, match="FROZEN, not RUNNING: thaw it with `oar-lxc un"):
            invoke(cli, *command)
    assert invoke(cli, "unfreeze", "42/vm1") == 0


def test_logs_reads_the_journal_in_the_container(running: FakeRemote, tmp_path: Path) -> None:
    oarsh(tmp_path)
    assert invoke(cli, "logs", "-n", "5", "-f", "42/vm1") == 0
    (call,) = recorded(tmp_path / "oarsh")
    words = shlex.split(call[1])
    assert words[3:6] == ["42", "attach", "vm1"]
    assert words[-3:] == ["--follow", "--lines", "5"]


def test_logs_of_lxc_are_read_on_the_node_also_of_a_stopped_one(
    remote: FakeRemote, tmp_path: Path
) -> None:
    oarsh(tmp_path)
    assert invoke(cli, "logs", "--lxc", "42/vm2") == 0
    (call,) = recorded(tmp_path / "oarsh")
    assert shlex.split(call[1])[3:] == ["42", "log", "vm2", "+1"]


def test_a_console_needs_a_terminal(remote: FakeRemote) -> None:
    with pytest.raises(UsageError, match="a console needs a terminal"):
        invoke(cli, "console", "42/vm1")


def test_oarsh_ends_with_us_though_it_is_anothers(remote: FakeRemote, tmp_path: Path) -> None:
    """It hangs on a terminal of ours, which the kernel takes away."""
    wait = "sleep 5 & wait"  # a shell handles no signal while it waits otherwise
    oarsh(tmp_path, f'trap "echo > {tmp_path}/hup; exit" HUP; echo > {tmp_path}/up; {wait}')
    pid = os.fork()
    if pid == 0:
        try:
            invoke(cli, "exec", "42/vm1", "--", "true")
        finally:
            os._exit(0)
    assert wait_until((tmp_path / "up").exists)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert wait_until((tmp_path / "hup").exists)


@pytest.fixture
def keys(running: FakeRemote, tmp_path: Path) -> Path:
    """Give the job ssh keys; return where our ssh leaves what it saw."""
    private = running.by_name["node1"].layout.private
    (private / CLIENT).write_text("-----BEGIN KEY-----\n")
    (private / f"{HOST}.pub").write_text("ssh-ed25519 AAAA oar job 42\n")
    add_program(tmp_path / "bin", "ssh", recorder(tmp_path / "ssh", SSH))
    return tmp_path


def options(keys: Path) -> tuple[dict[str, str], list[str]]:
    (call,) = recorded(keys / "ssh")
    assert call[:2] == ["-F", "/dev/null"]
    found = {}
    rest = call[2:]
    while rest[0] == "-o":
        name, value = rest[1].split("=", 1)
        found[name] = value
        rest = rest[2:]
    return found, rest


def test_ssh_goes_through_the_containers_node_and_its_status_is_passed_on(keys: Path) -> None:
    assert invoke(cli, "ssh", "42/vm2", "uptime", "-p") == 5
    found, rest = options(keys)
    assert rest == ["root@vm2", "uptime", "-p"]
    proxy = shlex.split(found["ProxyCommand"].replace("%%", "%"))
    assert proxy[:4] == ["env", "OAR_JOB_ID=42", "oarsh", "node2"]
    assert shlex.split(proxy[4])[-4:] == ["oar_lxc.doorway", "42", "connect", "vm2"]


def test_ssh_trusts_only_the_host_key_that_the_job_made(keys: Path) -> None:
    invoke(cli, "ssh", "42/vm2")
    found, _ = options(keys)
    assert found["StrictHostKeyChecking"] == "yes"
    assert found["HostKeyAlias"] == "vm2"
    assert (keys / "known_hosts").read_text() == "vm2 ssh-ed25519 AAAA\n"


def test_ssh_uses_only_the_key_of_the_job_and_keeps_it_to_itself(keys: Path) -> None:
    invoke(cli, "ssh", "42/vm2")
    found, _ = options(keys)
    assert found["IdentitiesOnly"] == "yes"
    assert (keys / "key").read_text() == "-----BEGIN KEY-----\n"
    assert stat.S_IMODE((keys / "key").stat().st_mode) == 0o600


def test_after_ssh_no_key_is_left(keys: Path) -> None:
    invoke(cli, "ssh", "42/vm2")
    path = Path((keys / "path").read_text().strip())
    assert path.is_absolute()
    assert not path.parent.exists()


def test_help_names_every_command_without_importing_any(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert invoke(cli, "--help") == 0
    said = capsys.readouterr().out
    for name in ("list", "exec", "shell", "ssh", "image", "setup", "sandbox"):
        assert f"\n  {name} " in said


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(cli, "frobnicate") == 2
    assert "No such command 'frobnicate'" in capsys.readouterr().err
