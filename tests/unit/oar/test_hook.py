"""Prologue and epilogue, with an oardodo and an ssh of our own."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from oar_lxc.errors import ConfigError, JobEnvironmentError, UsageError
from oar_lxc.model.config import Config
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.published import READY, PublishedJob
from oar_lxc.oar import hook
from oar_lxc.oar import ssh as reach
from oar_lxc.oar.hook import run_hook
from tests.unit.fakes.programs import add_program, recorded, recorder

HOOKS = Path(__file__).parents[3] / "hooks"
HERE = socket.gethostname()


@dataclass
class Cluster:
    """A head node, this one, from which two others can be reached."""

    directory: Path

    @property
    def node(self) -> str:
        """The root side's command on every node."""
        return str(self.directory / "bin/oar-lxc-node")

    @property
    def nodefile(self) -> Path:
        """The nodefile of the job."""
        return self.directory / "nodes"

    def oardodo(self, body: str = "") -> None:
        """Let oardodo, here and on the other nodes, do something."""
        add_program(self.directory / "bin", "oardodo", recorder(self.directory / "root", body))

    @property
    def root(self) -> list[list[str]]:
        """What was run as root on any node: the command's words, in no order."""
        return sorted(recorded(self.directory / "root"))

    @property
    def ssh(self) -> list[list[str]]:
        """The arguments of each call of ssh, in no order."""
        return sorted(recorded(self.directory / "ssh"))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster(tmp_path)
    found.nodefile.write_text(f"{HERE}\nnode2\nnode2\nnode3\n")
    found.oardodo()
    add_program(tmp_path / "bin", "oar-lxc-node", "exit 66")
    monkeypatch.setattr(reach, "NODE_COMMAND", found.node)
    # ssh OPTIONS NODE LINE: the login shell of oar runs the line.
    then = 'for line; do :; done; exec sh -c "$line"'
    add_program(tmp_path / "bin", "ssh", recorder(tmp_path / "ssh", then))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "oar.conf").write_text(
        f'DB_TYPE="Pg"\n#OPENSSH_CMD="x"\nOPENSSH_CMD="{tmp_path}/bin/ssh -p 6667"\n'
    )
    monkeypatch.setattr(reach, "CONF", tmp_path / "oar.conf")
    configure(monkeypatch)
    return found


def configure(
    monkeypatch: pytest.MonkeyPatch, prepare: str = "prologue", deadline: float = 30
) -> None:
    monkeypatch.setattr(hook, "lenient_config", lambda: (Config(prepare, deadline), ""))


SELF = 10  # seconds that a hook may take itself on a busy machine


def without_deadlines(calls: list[list[str]], limit: int) -> list[list[str]]:
    """Return calls of the root side, sorted, without their deadlines, which it looks at."""
    for call in calls:
        at = call.index("--deadline")
        assert limit - SELF < float(call[at + 1]) <= limit
        del call[at : at + 2]
    return sorted(calls)


def test_a_prologue_prepares_each_node_once_under_its_own_name(cluster: Cluster) -> None:
    assert run_hook("prologue", 42, "alice", cluster.nodefile) == 0
    nodes = f"{HERE},node2,node3"
    assert without_deadlines(cluster.root, 12) == sorted(
        [
            cluster.node,
            "prepare",
            "--job",
            "42",
            "--user",
            "alice",
            "--users",
            "1000-5094",
            "--nodes",
            nodes,
            "--node",
            node,
        ]
        for node in (HERE, "node2", "node3")
    )


def test_an_epilogue_destroys_on_each_node(cluster: Cluster) -> None:
    assert run_hook("epilogue", 42, "alice", cluster.nodefile) == 0
    words = ["destroy", "--layer", "epilogue", "--job", "42"]
    assert without_deadlines(cluster.root, 24) == [[cluster.node, *words, "--user", "alice"]] * 3


def test_other_nodes_are_reached_by_the_ssh_of_oar_without_questions(cluster: Cluster) -> None:
    run_hook("epilogue", 42, "alice", cluster.nodefile)
    assert [call[-2] for call in cluster.ssh] == ["node2", "node3"]
    for call in cluster.ssh:
        assert call[:2] == ["-p", "6667"]
        assert "BatchMode=yes" in call


@pytest.mark.parametrize("text", [None, "", '# OPENSSH_CMD="x"\n'])
def test_without_an_ssh_in_oar_conf_there_is_a_default(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    (cluster.directory / "oar.conf").unlink()
    if text is not None:
        (cluster.directory / "oar.conf").write_text(text)
    monkeypatch.setattr(reach, "DEFAULT_SSH", ["ssh", "-x-default"])
    assert run_hook("epilogue", 42, "alice", cluster.nodefile) == 0
    assert [call[0] for call in cluster.ssh] == ["-x-default"] * 2


def test_where_the_stanza_prepares_the_prologue_does_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, "stanza")
    assert run_hook("prologue", 42, "alice", cluster.nodefile) == 0
    assert cluster.root == []


def test_nodes_without_oar_lxc_are_no_broken_nodes(cluster: Cluster) -> None:
    Path(cluster.node).chmod(0o644)
    for name in ("prologue", "epilogue"):
        assert run_hook(name, 42, "alice", cluster.nodefile) == 0
    assert cluster.root == []


def test_a_prologue_that_fails_on_one_node_undoes_all_as_no_epilogue_will(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.oardodo('case "$*" in *"prepare "*"--node node3") echo no bridge >&2; exit 1;; esac')
    assert run_hook("prologue", 42, "alice", cluster.nodefile) == 1
    assert [call[1] for call in cluster.root] == ["destroy"] * 3 + ["prepare"] * 3
    assert capsys.readouterr().err == "oar-lxc-node: node node3: no bridge\n"


def test_an_epilogue_that_fails_on_one_node_destroys_on_the_others(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    add_program(cluster.directory / "bin", "ssh", "echo No route to host >&2; exit 255")
    assert run_hook("epilogue", 42, "alice", cluster.nodefile) == 1
    assert len(cluster.root) == 1
    said = capsys.readouterr().err
    assert "node node2: No route to host\n" in said
    assert "node node3: No route to host\n" in said


def test_an_epilogue_leaves_the_verdict_to_the_stanza_where_that_comes_after_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(monkeypatch, "stanza")
    cluster.oardodo("echo a cgroup is left >&2; exit 1")
    assert run_hook("epilogue", 42, "alice", cluster.nodefile) == 0
    assert len(cluster.root) == 3
    assert "node node3: a cgroup is left\n" in capsys.readouterr().err


@pytest.mark.parametrize("death", ["kill -9 $$", "exit 137"])
def test_what_was_killed_on_a_node_is_run_once_more_in_what_time_is_left(
    cluster: Cluster, death: str
) -> None:
    cluster.oardodo(f'mkdir "{cluster.directory}/first" 2>/dev/null || exit 0; {death}')
    assert run_hook("epilogue", 42, "alice", cluster.nodefile) == 0
    assert len(cluster.root) == 4
    deadlines = sorted(float(call[call.index("--deadline") + 1]) for call in cluster.root)
    assert 24 - SELF < deadlines[-1] <= 24


def test_what_is_killed_again_and_again_has_failed(cluster: Cluster) -> None:
    cluster.oardodo("kill -9 $$")
    assert run_hook("epilogue", 42, "alice", cluster.nodefile) == 1
    assert len(cluster.root) == 6


def test_a_node_that_hangs_does_not_use_up_the_time_for_undoing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, deadline=0.5)
    cluster.oardodo('case "$2" in prepare) exec sleep 60;; esac')
    begin = time.monotonic()
    assert run_hook("prologue", 42, "alice", cluster.nodefile) == 1
    assert time.monotonic() - begin < 10
    assert [call[1] for call in cluster.root] == ["destroy"] * 3 + ["prepare"] * 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it is left behind
def test_a_command_of_root_that_oar_may_not_kill_does_not_hold_the_hook(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(group: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    configure(monkeypatch, deadline=0.2)
    monkeypatch.setattr(os, "killpg", refuse)
    monkeypatch.setattr("oar_lxc.linux.run.KILL_WAIT", 0.1)
    cluster.nodefile.write_text(f"{HERE}\n")
    cluster.oardodo(f"echo $$ > {cluster.directory}/pid; exec sleep 30")
    begin = time.monotonic()
    assert run_hook("epilogue", 42, "alice", cluster.nodefile) == 1
    assert time.monotonic() - begin < 20
    os.kill(int((cluster.directory / "pid").read_text()), signal.SIGKILL)


def test_a_node_by_its_full_name_may_be_this_one(cluster: Cluster) -> None:
    cluster.nodefile.write_text(f"{HERE}.example.org\n")
    assert run_hook("epilogue", 42, "alice", cluster.nodefile) == 0
    assert (len(cluster.root), cluster.ssh) == (1, [])


def test_without_a_cpuset_no_cgroup_is_named(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OAR_CPUSET", "/no/such/alice_42")
    run_hook("epilogue", 42, "alice", cluster.nodefile)
    assert all("--cgroup" not in call for call in cluster.root)


def _damage(path: Path, content: bytes | str | None) -> None:
    """Put content in the place of a file, or a FIFO, a directory or nothing."""
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "fifo":
        os.mkfifo(path)
    elif content == "directory":
        path.mkdir()


DAMAGES = [None, b"", b"node1;id\n", b"\xff\0", "fifo", "directory"]


@pytest.mark.parametrize("content", DAMAGES)
def test_a_prologue_with_a_damaged_nodefile_is_one_sentence_and_nothing_is_run(
    cluster: Cluster, content: bytes | str | None
) -> None:
    _damage(cluster.nodefile, content)
    with pytest.raises(JobEnvironmentError):
        run_hook("prologue", 42, "alice", cluster.nodefile)
    assert cluster.root == []


@pytest.mark.parametrize("content", DAMAGES)
def test_an_epilogue_with_a_damaged_nodefile_destroys_where_prepare_says_that_the_job_is(
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes | str | None,
) -> None:
    _damage(cluster.nodefile, content)
    monkeypatch.setattr(hook, "JobLayout", lambda job: JobLayout(job, cluster.directory))
    monkeypatch.setattr(hook, "PUBLISHER", os.geteuid())
    layout = JobLayout(42, cluster.directory)
    layout.directory.mkdir(parents=True)
    published = PublishedJob(42, "alice", HERE, (HERE, "node2", "node3"), READY, namespaces=True)
    layout.published.write_text(published.to_json())
    assert run_hook("epilogue", 42, "alice", cluster.nodefile) == 0
    assert [call[1] for call in cluster.root] == ["destroy"] * 3
    assert str(cluster.nodefile) in capsys.readouterr().err


@pytest.mark.parametrize("published", [None, b"", b'{"nodes": [1]}', "fifo", "directory"])
def test_an_epilogue_that_knows_no_nodes_destroys_on_its_own_and_says_so(
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    published: bytes | str | None,
) -> None:
    cluster.nodefile.unlink()
    monkeypatch.setattr(hook, "JobLayout", lambda job: JobLayout(job, cluster.directory))
    layout = JobLayout(42, cluster.directory)
    layout.directory.mkdir(parents=True)
    layout.published.touch()
    _damage(layout.published, published)
    assert run_hook("epilogue", 42, "alice", cluster.nodefile) == 1
    assert [call[1] for call in cluster.root] == ["destroy"]
    assert "only this node is cleaned" in capsys.readouterr().err


def test_a_prologue_with_a_wrong_configuration_fails_and_nothing_is_run(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook, "lenient_config", lambda: (Config(), "x.toml: unknown key"))
    with pytest.raises(ConfigError, match=r"x\.toml: unknown key; mend it"):
        run_hook("prologue", 42, "alice", cluster.nodefile)
    assert cluster.root == []


def test_an_epilogue_with_a_wrong_configuration_destroys_and_says_so(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hook, "lenient_config", lambda: (Config(), "x.toml: unknown key"))
    assert run_hook("epilogue", 42, "alice", cluster.nodefile) == 0
    assert [call[1] for call in cluster.root] == ["destroy"] * 3
    assert "x.toml: unknown key; mend it: the defaults" in capsys.readouterr().err
    cluster.oardodo("exit 1")  # nobody knows whether the stanza follows, and tells of it
    assert run_hook("epilogue", 42, "alice", cluster.nodefile) == 1


@pytest.mark.parametrize("content", [b'OPENSSH_CMD="ssh \'"\n', b"\xff\0", "fifo", "directory"])
def test_a_damaged_oar_conf_keeps_no_node_from_being_cleaned(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, content: bytes | str
) -> None:
    _damage(cluster.directory / "oar.conf", content)
    monkeypatch.setattr(reach, "DEFAULT_SSH", ["ssh", "-x-default"])
    assert run_hook("epilogue", 42, "alice", cluster.nodefile) == 0
    assert [call[0] for call in cluster.ssh] == ["-x-default"] * 2


def test_an_unknown_hook_is_refused(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match="known: prologue, epilogue"):
        run_hook("server_prologue", 42, "alice", cluster.nodefile)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("prologue", "42"), 2, "usage: hook prologue|epilogue JOB USER NODEFILE"),
        (("epilogue", "x", "alice", "/x"), 1, "job id 'x' is not a number"),
        (("epilogue", "42", "../x", "/x"), 1, "user '../x' is not a user name"),
        (("server_prologue", "42", "alice", "/no/such", "3600"), 1, "known: prologue, epilogue"),
    ],
)
def test_oars_arguments_are_checked_and_more_of_them_are_taken(
    arguments: tuple[str, ...], status: int, message: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "oar_lxc.oar.hook", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == status
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def run_script(tmp_path: Path, name: str, *arguments: str) -> tuple[int, list[list[str]]]:
    """Run a hook script whose absolute paths lead below tmp_path; return status and calls."""
    add_program(tmp_path, "python3", recorder(tmp_path / "calls", "exit 7"))
    text = (HOOKS / name).read_text()
    for path in ("/etc/oar-lxc", "/var/lib/oar-lxc"):
        text = text.replace(path, shlex.quote(f"{tmp_path}{path}").strip("'"))
    (tmp_path / name).write_text(text.replace("/usr/bin/python3", str(tmp_path / "python3")))
    done = subprocess.run(["sh", str(tmp_path / name), *arguments], timeout=20, check=False)
    return done.returncode, recorded(tmp_path / "calls")


ARGUMENTS = ("42", "alice", "/tmp/OAR_42", "3600")


@pytest.mark.parametrize(
    "text", [None, "", '[hooks]\nprepare = "stanza"\n', "[hooks]\ndeadline = 9\n"]
)
def test_the_prologue_starts_no_python_where_the_stanza_prepares(
    tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "etc/oar-lxc").mkdir(parents=True)
        (tmp_path / "etc/oar-lxc/oar-lxc.toml").write_text(text)
    assert run_script(tmp_path, "prologue", *ARGUMENTS) == (0, [])


@pytest.mark.parametrize(
    "text",
    [
        '[hooks]\nprepare = "prologue"\n',
        '[hooks]\nprepare="prologue"  # both\n',
        "[hooks]\nprepare = 'prologue'\n",
        '[hooks]\n\tprepare = "prologue"\n',
        'hooks.prepare = "prologue"\n',
        'hooks = { prepare = "prologue" }\n',
    ],
)
def test_the_prologue_starts_the_hook_where_it_prepares(tmp_path: Path, text: str) -> None:
    (tmp_path / "etc/oar-lxc").mkdir(parents=True)
    (tmp_path / "etc/oar-lxc/oar-lxc.toml").write_text(text)
    status, calls = run_script(tmp_path, "prologue", *ARGUMENTS)
    assert status == 7
    assert calls == [["-I", "-m", "oar_lxc.oar.hook", "prologue", *ARGUMENTS]]


def test_the_epilogue_of_a_job_without_containers_starts_no_python(tmp_path: Path) -> None:
    (tmp_path / "var/lib/oar-lxc/jobs/421").mkdir(parents=True)
    assert run_script(tmp_path, "epilogue", *ARGUMENTS) == (0, [])


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_what_is_no_file_holds_no_hook_up_and_lets_the_epilogue_destroy(
    tmp_path: Path, kind: str
) -> None:
    (tmp_path / "etc/oar-lxc").mkdir(parents=True)
    (tmp_path / "etc/oar-lxc/oar-lxc.toml").touch()
    _damage(tmp_path / "etc/oar-lxc/oar-lxc.toml", kind)
    assert run_script(tmp_path, "prologue", *ARGUMENTS) == (0, [])
    status, calls = run_script(tmp_path, "epilogue", *ARGUMENTS)
    assert (status, len(calls)) == (7, 1)


def test_a_huge_configuration_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "etc/oar-lxc").mkdir(parents=True)
    with (tmp_path / "etc/oar-lxc/oar-lxc.toml").open("wb") as file:
        file.truncate(1 << 40)
    assert run_script(tmp_path, "prologue", *ARGUMENTS) == (0, [])
    assert run_script(tmp_path, "epilogue", *ARGUMENTS) == (0, [])


def test_the_epilogue_of_a_job_with_containers_starts_the_hook(tmp_path: Path) -> None:
    (tmp_path / "var/lib/oar-lxc/jobs/42").mkdir(parents=True)
    status, calls = run_script(tmp_path, "epilogue", *ARGUMENTS)
    assert status == 7
    assert calls == [["-I", "-m", "oar_lxc.oar.hook", "epilogue", *ARGUMENTS]]
