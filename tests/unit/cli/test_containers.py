"""The commands that reach containers, with fake nodes and an oarsh and an ssh of our own."""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import signal
import stat
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from oar_lxc.agent.timeline import note
from oar_lxc.cli import control, copy, look
from oar_lxc.cli import main as cli_main
from oar_lxc.cli.look import fact_lines, size
from oar_lxc.cli.main import cli
from oar_lxc.cli.shared import attach
from oar_lxc.cli.shared.meter import Meter
from oar_lxc.client import lookup, node_cache
from oar_lxc.client.ssh_options import ssh_options
from oar_lxc.errors import ContainerError, NodeError, OarLxcError, UsageError
from oar_lxc.linux.login_shell import unpack
from oar_lxc.model.events import Shown
from tests.unit.fakes.node import FakeNode
from tests.unit.fakes.programs import add_program, invoke, recorded, recorder, wait_until
from tests.unit.fakes.remote import FakeRemote, told_in_the_meantime

SSH = """
# Look at the files while they are there.
for word; do case "$word" in
IdentityFile=*) cp -p "${word#*=}" "$SEEN/key";;
UserKnownHostsFile=*) cp "${word#*=}" "$SEEN/known_hosts"; echo "${word#*=}" > "$SEEN/path";;
esac; done
exit 5
"""
# Starts its proxy as the real one does, which has closed all files but the first three.
SPEAKS = r"""
for word; do case "$word" in ProxyCommand=*) proxy=${word#*=};; esac; done
(echo hello; sleep 1) | "$SHELL" -c "exec $proxy" | head -n 1 > "$SEEN/heard"
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

    monkeypatch.setattr(lookup, "find_remote", find)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(tmp_path))
    yield remote
    remote.close()


@pytest.fixture
def running(remote: FakeRemote) -> FakeRemote:
    """Return the same with all containers RUNNING."""
    remote.by_name["node2"].runtime.start("vm2")
    return remote


# Writes the mark that its command line names, as the attach program does.
OPEN = r"""
for last; do :; done; token=${last% *}; token=${token##* }
printf '\n\001oar-lxc %s\n' "$token"; printf '\n\001oar-lxc %s\n' "$token" >&2
"""


def oarsh(tmp_path: Path, body: str = "", before: str = "") -> None:
    """Let an oarsh be there; what it does before the attach program begins, and after that."""
    log = f'echo "$OAR_JOB_ID" > {tmp_path}/job\n{before}\n'
    add_program(tmp_path / "bin", "oarsh", log + recorder(tmp_path / "oarsh", OPEN + body))


def asked(tmp_path: Path) -> tuple[str, list[str], list[str]]:
    """Return the node that oarsh was asked for, the words of its line, and what they say."""
    (call,) = recorded(tmp_path / "oarsh")
    words = shlex.split(call[-1])
    return call[-2], words, unpack(words[-1])


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
    node, words, said = asked(tmp_path)
    assert node == "node2"
    assert words[:3] == ["exec", sys.executable, "-I"]
    assert words[4:6] == ["oar_lxc.agent.attach", "42"]
    assert said == ["attach", "vm2", "sh", "-c", "echo 'a  b'; $X"]
    assert (tmp_path / "job").read_text() == "42\n"


@pytest.mark.parametrize("status", [0, 1, 3, 255])
def test_the_status_of_a_command_is_passed_on(
    remote: FakeRemote, tmp_path: Path, status: int
) -> None:
    oarsh(tmp_path, f"exit {status}")
    assert invoke(cli, "exec", "42/vm1", "--", "true") == status


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("Finishing", "oar-lxc: job 42 is ending (Finishing), and its containers with it\n"),
        ("Running", ""),  # it is the command's own status
    ],
)
def test_a_command_that_ends_with_its_job_is_told_so(
    remote: FakeRemote, tmp_path: Path, capfd: pytest.CaptureFixture[str], state: str, told: str
) -> None:
    oarsh(tmp_path, "exit 255")
    owner = pwd.getpwuid(os.getuid()).pw_name
    text = f"    owner = {owner}\n    state = {state}\n"
    add_program(tmp_path / "bin", "oarstat", f"printf '%s' '{text}'")
    assert invoke(cli, "exec", "42/vm1", "--", "true") == 255
    assert capfd.readouterr().err == told


GREETING = "echo Welcome; printf 'no end'; echo loud >&2; set -x; : $0; set +x"


def test_what_the_login_shell_writes_is_no_part_of_the_streams(
    remote: FakeRemote, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    oarsh(tmp_path, "echo out; echo err >&2", GREETING)
    assert invoke(cli, "exec", "42/vm1", "--", "true") == 0
    assert capfd.readouterr() == ("out\n", "err\n")


def test_input_is_not_read_by_what_the_login_shell_starts(
    running: FakeRemote, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "data").write_bytes(data)
    oarsh(tmp_path, f"cat > {tmp_path}/got", f"read -t 0.3 x; echo $x > {tmp_path}/taken")
    script = (tmp_path / "bin/oarsh").read_text().replace("#!/bin/sh", "#!/bin/bash", 1)
    (tmp_path / "bin/oarsh").write_text(script)
    with (tmp_path / "data").open("rb") as file:
        before = os.dup(0)
        os.dup2(file.fileno(), 0)
        try:
            assert invoke(cli, "exec", "42/vm2", "--", "cat") == 0
        finally:
            os.dup2(before, 0)
            os.close(before)
    assert (tmp_path / "got").read_bytes() == data
    assert (tmp_path / "taken").read_text() == "\n"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("echo bye; exit 3", "your login shell ended there (status 3) before oar-lxc could begin"),
        ("exit 0", "look at what ~/.bashrc"),
        ("echo 'ssh: No route to host' >&2; exit 255", "it cannot be reached: ssh: No route"),
        ("exit 255", "closed without a message: the job is ending, or the node is down"),
        (
            "echo 'oarsh: Cannot find cpuset file : /dev/cpuset//oar/a_1/tasks' >&2; exit 61",
            "the job is ending, or the node was restarted, and its containers are gone",
        ),
        (
            "echo 'oarsh: Cannot find the job'\\''s cgroup (/a), is …' >&2; exit 61",
            "the job is ending, or the node was restarted, and its containers are gone",
        ),
        ("exit 127", "oar-lxc is not installed there"),
    ],
)
def test_an_attach_program_that_does_not_begin_is_one_sentence(
    running: FakeRemote, tmp_path: Path, body: str, sentence: str
) -> None:
    oarsh(tmp_path, before=body)
    for command in (["exec", "42/vm2", "--", "true"], ["ssh", "42/vm2"]):
        with pytest.raises(NodeError, match=re.escape(sentence)) as caught:
            invoke(cli, *command)
        assert "\n" not in str(caught.value)


def test_what_the_attach_program_says_is_the_reason(running: FakeRemote, tmp_path: Path) -> None:
    oarsh(tmp_path, before="echo hello; echo 'oar-lxc: sshd of vm2 does not answer' >&2; exit 1")
    with pytest.raises(OarLxcError, match=r"^sshd of vm2 does not answer$"):
        invoke(cli, "ssh", "42/vm2")


# Runs what is to be run in the container on this machine.
INSIDE = f"""\
exec {sys.executable} -c '
import os, sys
from oar_lxc.linux.login_shell import unpack
action, name, *argv = unpack(sys.argv[1].split()[-1])
if action == "attach" and argv: os.execvp(argv[0], argv)
' "$last"
"""
# What acts on one container, of a name, with a file of this machine.
ON_ONE = (
    "exec 42/{name} -- true",
    "shell 42/{name}",
    "logs 42/{name}",
    "logs --lxc 42/{name}",
    "show 42/{name}",
    "cp {file} 42/{name}:{file}.in",
    "cp 42/{name}:{file} {file}.out",
)


def on_one(command: str, name: str, tmp_path: Path) -> list[str]:
    """Return the words of one of :data:`ON_ONE`; the file and the journal are there."""
    (tmp_path / "file").write_text("content")
    add_program(tmp_path / "bin", "journalctl", "")
    return command.format(name=name, file=tmp_path / "file").split()


@pytest.mark.parametrize("command", ON_ONE)
def test_a_container_is_gone_to_at_once_where_it_was_seen_last(
    running: FakeRemote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    oarsh(tmp_path, INSIDE)
    assert invoke(cli, "list", "42") == 0
    there = FakeRemote({"node2": running.by_name["node2"]})
    monkeypatch.setattr(attach, "Remote", lambda job_id, nodes: there)
    monkeypatch.setattr(lookup, "find_remote", lambda job_id: pytest.fail("OAR was asked"))
    assert invoke(cli, *on_one(command, "vm2", tmp_path)) == 0
    assert {call[-2] for call in recorded(tmp_path / "oarsh")} <= {"node2"}


@pytest.mark.parametrize("command", ["cp {file} vm2:/x", "cp vm2:/x {file}", "ssh vm2"])
def test_a_container_on_this_node_that_does_not_run_is_one_sentence(
    remote: FakeRemote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Also for those who have to know whether the attach program has begun."""
    remote.local = "node2"
    monkeypatch.setenv("OAR_JOB_ID", "42")
    monkeypatch.setattr(attach, "has_container", lambda job_id, name: True)
    with pytest.raises(ContainerError, match="vm2 on node node2: it is STOPPED, not RUNNING"):
        invoke(cli, *on_one(command, "vm2", tmp_path))


def test_a_container_that_is_elsewhere_now_is_looked_for(
    running: FakeRemote, tmp_path: Path
) -> None:
    node_cache.remember(42, {"vm2": "node1"})
    oarsh(tmp_path, before='case "$*" in *" node1 exec "*) exit 1;; esac')
    assert invoke(cli, "exec", "42/vm2", "--", "true") == 0
    assert asked(tmp_path)[0] == "node2"
    assert node_cache.recall(42)["vm2"] == "node2"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"vm2": "-oProxyCommand=x"}', '{"vm2": ["x"]}', '{"vm2": "a b"}']
)
def test_a_note_of_where_containers_are_that_is_wrong_is_none(
    running: FakeRemote, tmp_path: Path, text: str
) -> None:
    node_cache.remember(42, {"vm1": "node1"})
    Path(node_cache.directory(), "42.json").write_text(text)
    oarsh(tmp_path)
    assert invoke(cli, "exec", "42/vm2", "--", "true") == 0
    assert asked(tmp_path)[0] == "node2"


@pytest.mark.parametrize("command", ON_ONE)
@pytest.mark.parametrize("seen", [False, True], ids=["first", "again"])
@pytest.mark.parametrize("dead", ["node1", "node2"])
def test_a_dead_node_keeps_nobody_from_the_others(
    running: FakeRemote,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dead: str,
    seen: bool,
    command: str,
) -> None:
    monkeypatch.setattr(attach, "Remote", lambda job_id, nodes: running)
    if seen:
        node_cache.remember(42, {"vm1": "node1", "vm2": "node2"})
    running.unreachable = [dead]
    oarsh(tmp_path, INSIDE, f'case "$*" in *" {dead} exec "*) exit 255;; esac')
    there, gone = ("vm2", "vm1") if dead == "node1" else ("vm1", "vm2")
    assert invoke(cli, *on_one(command, there, tmp_path)) == 0
    with pytest.raises(NodeError, match=f"node {dead}: "):
        invoke(cli, *on_one(command, gone, tmp_path))


def test_a_list_shows_what_answers_and_fails_for_what_does_not(
    running: FakeRemote, capsys: pytest.CaptureFixture[str]
) -> None:
    running.unreachable = ["node1"]
    with pytest.raises(NodeError, match="node node1: "):
        invoke(cli, "list", "42")
    assert "vm2" in capsys.readouterr().out


WORDS = ["a b", "", "#x", "$HOME", "'", '"', "\\", "*", "!", "line\nline", "caf\udce9", "-x", "é"]


def test_words_mean_nothing_to_a_shell_and_arrive(running: FakeRemote, tmp_path: Path) -> None:
    oarsh(tmp_path)
    assert invoke(cli, "exec", "42/vm2", "--", "printf", *WORDS) == 0
    _, words, said = asked(tmp_path)
    assert said == ["attach", "vm2", "printf", *WORDS]
    assert re.fullmatch(r"[A-Za-z0-9_-]+", words[-1])


def test_a_command_that_no_line_holds_is_refused(running: FakeRemote, tmp_path: Path) -> None:
    oarsh(tmp_path)
    with pytest.raises(UsageError, match="put it into a file, or let it read"):
        invoke(cli, "exec", "42/vm2", "--", "echo", "x" * 200_000)


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
        (("exec", "42/", "--", "true"), "'42/' names no container but all of a job, which", 2),
        (("exec", "42/vm1/x", "--", "true"), "'42/vm1/x' names no container: write JOB/CON", 2),
        (("exec", "42/vm9", "--", "true"), "container vm9: job 42 has no such container; it", 1),
        (("ssh", "vm9"), "container vm9: job 42 has no such container; it has: vm1, vm2", 1),
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


def test_a_copy_without_a_destination_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(cli, "cp", "a") == 2
    assert "Missing argument 'DESTINATION'" in capsys.readouterr().err


def test_a_local_file_that_looks_like_a_place_is_told_how_to_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hint = "; if you mean the file of that name, write ./a:b"
    with pytest.raises(OarLxcError, match="this is not an OAR job") as caught:
        cli.main(["cp", "a:b", "c"], standalone_mode=False)
    assert hint not in str(caught.value)
    (tmp_path / "a:b").touch()
    with pytest.raises(OarLxcError, match="this is not an OAR job") as caught:
        cli.main(["cp", "a:b", "c"], standalone_mode=False)
    assert str(caught.value).endswith(hint)


def test_a_user_who_reaps_is_told_of_the_command_that_was_typed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError, match=r"^oar-lxc reap must be run as root$"):
        cli.main(["reap"], standalone_mode=False)


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
    always = Shown("vm1", "RUNNING", "n", "a", "vm", "i", cores=2, ports=(), pid=7, ready=True)
    memory = replace(always, memory=1 << 20, memory_limit=512 << 20)
    lines = dict(fact_lines(42, replace(memory, cpus="0-1", processes=5, processes_limit=0)))
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


@pytest.mark.parametrize(
    ("module", "words", "told"),
    [
        (control, ["stop", "42/vm1", "42/vm2"], "stopping 42/vm1 and 1 more: 0 s\n"),
        (look, ["list", "42"], "asking the nodes: 0 s\n"),
    ],
)
def test_what_lasts_is_told(
    running: FakeRemote,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    words: list[str],
    told: str,
) -> None:
    monkeypatch.setattr(module, "Meter", lambda what, files=True: Meter(what, 0.0))
    said = told_in_the_meantime(running, capsys, monkeypatch)
    assert invoke(cli, *words) == 0
    assert told in said


def test_a_copy_that_lasts_is_told_in_a_file_too(
    running: FakeRemote, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "Meter", partial(Meter, patience=0.0))
    said = told_in_the_meantime(running, capsys, monkeypatch)
    with pytest.raises(ContainerError, match="vm9"):
        invoke(cli, "cp", "42/vm9:x", ".")
    assert "copying: 0 s\n" in said


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
        (["42/../vm1"], "'42/../vm1' names no container"),
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
    _, _, said = asked(tmp_path)
    assert said[:2] == ["attach", "vm1"]
    assert said[-3:] == ["--follow", "--lines", "5"]


def test_logs_of_lxc_are_read_on_the_node_also_of_a_stopped_one(
    remote: FakeRemote, tmp_path: Path
) -> None:
    oarsh(tmp_path)
    assert invoke(cli, "logs", "--lxc", "42/vm2") == 0
    assert asked(tmp_path)[2] == ["log", "vm2", "+1"]


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
    """Let the attach program hand out ssh keys; return where our ssh leaves what it saw."""
    data = {"client": "-----BEGIN KEY-----\n", "host_key": "ssh-ed25519 vm2"}
    (tmp_path / "keys").write_text(json.dumps(data) + "\n")
    oarsh(tmp_path, f"cat {tmp_path}/keys; cat")
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
    _, rest = options(keys)
    assert rest == ["vm2", "uptime", "-p"]
    assert asked(keys)[0::2] == ("node2", ["ssh", "vm2"])


def test_what_ssh_writes_passes_to_the_container_and_back(keys: Path) -> None:
    add_program(keys / "bin", "ssh", SPEAKS)
    assert invoke(cli, "ssh", "42/vm2") == 0
    assert (keys / "heard").read_text() == "hello\n"


def test_ssh_trusts_only_the_host_key_that_the_job_made(keys: Path) -> None:
    invoke(cli, "ssh", "42/vm2")
    found, _ = options(keys)
    assert found["StrictHostKeyChecking"] == "yes"
    assert found["HostKeyAlias"] == "vm2"
    assert (keys / "known_hosts").read_text() == "vm2 ssh-ed25519 vm2\n"


def test_ssh_has_the_options_that_are_written_for_plain_ssh(keys: Path) -> None:
    invoke(cli, "ssh", "42/vm2")
    found, _ = options(keys)
    written = ssh_options(
        found["IdentityFile"], found["UserKnownHostsFile"], "vm2", found["ProxyCommand"]
    )
    assert found == written
    assert (found["User"], found["GlobalKnownHostsFile"]) == ("root", "/dev/null")


def test_ssh_uses_only_the_key_of_the_job_and_keeps_it_to_itself(keys: Path) -> None:
    invoke(cli, "ssh", "42/vm2")
    found, _ = options(keys)
    assert found["IdentitiesOnly"] == "yes"
    assert (keys / "key").read_text() == "-----BEGIN KEY-----\n"
    assert stat.S_IMODE((keys / "key").stat().st_mode) == 0o600


def test_no_file_has_the_key(keys: Path) -> None:
    """None can be left behind, wherever TMPDIR points."""
    invoke(cli, "ssh", "42/vm2")
    path = (keys / "path").read_text().strip()
    assert path.startswith(f"/proc/{os.getpid()}/fd/")
    assert " " not in path


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
