"""The files by which plain ssh reaches containers, and the Ansible inventory."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from oar_lxc.cli import inventory
from oar_lxc.cli import sshconfig as cli_sshconfig
from oar_lxc.cli.main import cli
from oar_lxc.cli.shared.meter import Meter
from oar_lxc.cli.shared.targets import complete_container
from oar_lxc.client import lookup, sshfiles
from oar_lxc.client.sshfiles import INCLUDE, SshFiles, forget_ended, include, known_jobs
from oar_lxc.errors import JobError, OarLxcError, UsageError
from oar_lxc.linux.login_shell import NO_MARK, unpack
from oar_lxc.model.layout import DESCRIPTION_FILE, JobLayout
from tests.unit.fakes.node import FakeNode
from tests.unit.fakes.programs import add_program, invoke
from tests.unit.fakes.remote import FakeRemote, told_in_the_meantime

KEY = "-----BEGIN KEY-----\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the ``.ssh`` of a user who has none yet."""
    home = tmp_path / "my home" / ".ssh"
    home.parent.mkdir()
    monkeypatch.setattr(cli_sshconfig, "ssh_home", lambda: home)
    monkeypatch.setattr(cli_sshconfig, "has_ended", lambda job_id: job_id < 42)
    return home


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[FakeRemote]:
    """Return the way to job 42, with web1 on node1 and my-db1 on node2."""
    nodes = {n: FakeNode(tmp_path / n, n, ("node1", "node2")) for n in ("node1", "node2")}
    remote = FakeRemote(nodes)
    for node, name in (("node1", "web1"), ("node2", "my-db1")):
        directory = nodes[node].layout.containers / name
        directory.mkdir()
        (directory / "config").write_text("lxc.net.0.ipv4.address = 100.64.8.3/21\n")
        description = json.dumps({"host_key": f"ssh-ed25519 {name}"})
        (directory / "container.json").write_text(description)
    nodes["node1"].layout.ssh_key.write_text(KEY)
    monkeypatch.setattr(lookup, "find_remote", lambda job_id: remote)
    yield remote
    remote.close()


def ssh_says(home: Path, name: str) -> dict[str, str]:
    """Return what ssh makes of the configuration for a host."""
    argv = ["ssh", "-G", "-F", str(home / "oar-lxc/42/config"), name]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)


def test_ssh_reads_of_each_container_what_is_needed(remote: FakeRemote, home: Path) -> None:
    assert invoke(cli, "ssh-config", "42") == 0
    for name, node in (("web1", "node1"), ("my-db1", "node2")):
        said = ssh_says(home, f"{name}.42")
        assert said["user"] == "root"
        assert said["identityfile"] == str(home / "oar-lxc/42/id_ed25519")
        assert said["stricthostkeychecking"] == "true"
        assert said["userknownhostsfile"] == str(home / "oar-lxc/42/known_hosts")
        proxy = shlex.split(said["proxycommand"])
        assert proxy[:5] == ["env", "-u", "DISPLAY", "OAR_JOB_ID=42", "oarsh"]
        assert proxy[-2] == node
        *_, module, job, mark, words = shlex.split(proxy[-1])
        assert (module, job, mark) == ("oar_lxc.agent.attach", "42", NO_MARK)
        assert unpack(words) == ["connect", name]


# What people have for all hosts, none of which a container's entry may take.
FOR_ALL = """
Host *
    RequestTTY force
    RemoteCommand tmux attach
    ProxyJump gateway
    ProxyUseFdpass yes
    HostKeyAlgorithms ssh-rsa
    PubkeyAcceptedKeyTypes ssh-rsa
    PubkeyAuthentication no
    PreferredAuthentications password
    VerifyHostKeyDNS yes
    AddKeysToAgent yes
    User alice
"""


def test_what_is_set_for_all_hosts_does_not_break_the_way_to_containers(
    remote: FakeRemote, home: Path
) -> None:
    home.mkdir(exist_ok=True)
    (home / "config").write_text(FOR_ALL)
    assert invoke(cli, "ssh-config", "42", "--install") == 0
    said = ssh_says(home, "web1.42")
    assert said["user"] == "root"
    assert said["requesttty"] == "auto"
    assert "proxyjump" not in said
    assert "remotecommand" not in said
    assert said["proxyusefdpass"] == "no"
    assert said["verifyhostkeydns"] == said["addkeystoagent"] == "false"
    assert said["hostkeyalgorithms"] == said["pubkeyacceptedalgorithms"] == "ssh-ed25519"
    assert said["pubkeyauthentication"] == "true"
    assert said["preferredauthentications"] == "publickey"


def test_hosts_that_only_look_like_containers_are_left_alone(
    remote: FakeRemote, home: Path
) -> None:
    invoke(cli, "ssh-config", "42")
    for name in ("10.0.0.42", "web2.42", "web1.421", "web1"):
        assert "proxycommand" not in ssh_says(home, name)


def test_only_the_user_may_read_the_files(remote: FakeRemote, home: Path) -> None:
    invoke(cli, "ssh-config", "42")
    assert (home / "oar-lxc/42/id_ed25519").read_text() == KEY
    assert (home / "oar-lxc/42/known_hosts").read_text() == (
        "my-db1.42 ssh-ed25519 my-db1\nweb1.42 ssh-ed25519 web1\n"
    )
    for path in (home / "oar-lxc").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_the_hosts_are_printed_and_the_line_is_told(
    remote: FakeRemote, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    invoke(cli, "ssh-config", "42")
    said = capsys.readouterr()
    assert said.out.split() == ["my-db1.42", "web1.42"]
    assert INCLUDE in said.err
    assert not (home / "config").exists()
    include(home)
    invoke(cli, "ssh-config", "42")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("before", [None, "Host x\n  User y\n", "# \xe9\n", "a" * 100])
def test_the_line_comes_first_and_once_and_all_else_stays(
    remote: FakeRemote, home: Path, before: str | None
) -> None:
    if before is not None:
        home.mkdir()
        (home / "config").write_text(before, encoding="latin-1")
        (home / "config").chmod(0o640)
    for _ in range(2):
        invoke(cli, "ssh-config", "42", "--install")
    text = (home / "config").read_text(encoding="latin-1")
    assert text == f"{INCLUDE}\n\n{before or ''}"
    assert stat.S_IMODE((home / "config").stat().st_mode) == (0o600 if before is None else 0o640)


def test_a_configuration_that_is_a_link_stays_one(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    (tmp_path / "dotfiles").write_text("Host x\n")
    (home / "config").symlink_to(tmp_path / "dotfiles")
    assert include(home)
    assert (home / "config").is_symlink()
    assert (tmp_path / "dotfiles").read_text() == f"{INCLUDE}\n\nHost x\n"


def test_jobs_that_have_ended_are_forgotten(remote: FakeRemote, home: Path) -> None:
    for name in ("41", "43", "mine"):
        (home / "oar-lxc" / name).mkdir(parents=True)
        (home / "oar-lxc" / name / "id_ed25519").write_text(KEY)
    invoke(cli, "ssh-config", "42")
    assert known_jobs(home) == [42, 43]
    assert (home / "oar-lxc/mine/id_ed25519").exists()


def test_where_oar_cannot_be_asked_nothing_is_forgotten(
    remote: FakeRemote, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(job_id: int) -> bool:
        raise UsageError("this machine has no oarstat")

    monkeypatch.setattr(cli_sshconfig, "has_ended", fail)
    (home / "oar-lxc/41").mkdir(parents=True)
    assert invoke(cli, "ssh-config", "42") == 0
    assert known_jobs(home) == [41, 42]


def test_remove_removes_one_job_or_all(remote: FakeRemote, home: Path) -> None:
    for name in ("40", "43", "44"):
        (home / "oar-lxc" / name).mkdir(parents=True)
    invoke(cli, "ssh-config", "43", "--remove")
    assert known_jobs(home) == [40, 44]
    invoke(cli, "ssh-config", "--remove")
    assert not (home / "oar-lxc").exists()


def test_that_there_is_nothing_to_remove_is_told(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(cli, "ssh-config", "999", "--remove") == 0
    assert capsys.readouterr().out == f"no files of job 999 in {home}/oar-lxc\n"
    assert invoke(cli, "ssh-config", "--remove") == 0
    assert capsys.readouterr().out == f"no files of jobs in {home}/oar-lxc\n"


def test_a_link_is_not_followed_to_remove(home: Path, tmp_path: Path) -> None:
    (home / "oar-lxc").mkdir(parents=True)
    (tmp_path / "precious").mkdir()
    (home / "oar-lxc/42").symlink_to(tmp_path / "precious")
    assert not SshFiles(42, home).remove()
    assert (tmp_path / "precious").exists()


def test_the_end_of_the_last_session_forgets_the_job(home: Path, tmp_path: Path) -> None:
    node = FakeNode(tmp_path / "n")
    (home / "oar-lxc/42").mkdir(parents=True)
    other = node.layout.containers / "vm1"
    other.mkdir()
    (other / DESCRIPTION_FILE).write_text('{"session": "other"}')
    forget_ended(node.layout, home)
    assert known_jobs(home) == [42]
    for path in other.iterdir():
        path.unlink()
    forget_ended(node.layout, home)
    assert known_jobs(home) == []
    forget_ended(JobLayout(43, tmp_path / "nowhere"), home)


def test_a_home_that_cannot_be_written_is_one_sentence(
    remote: FakeRemote, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.parent.rmdir()
    home.parent.write_text("a file")
    with pytest.raises(OarLxcError, match=r"cannot write .*: Not a directory"):
        cli.main(["ssh-config", "42"], standalone_mode=False)


@pytest.mark.parametrize(
    ("module", "command"), [(cli_sshconfig, "ssh-config"), (inventory, "inventory")]
)
def test_what_lasts_is_told_in_a_file_too(
    remote: FakeRemote,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    command: str,
) -> None:
    monkeypatch.setattr(module, "Meter", partial(Meter, patience=0.0))
    said = told_in_the_meantime(remote, capsys, monkeypatch)
    assert invoke(cli, command, "42") == 0
    assert "asking the nodes: 0 s\n" in said


def test_a_job_without_keys_is_one_sentence(remote: FakeRemote) -> None:
    remote.by_name["node1"].layout.ssh_key.unlink()
    with pytest.raises(JobError, match="job 42 has no ssh key: it has not launched"):
        cli.main(["ssh-config", "42"], standalone_mode=False)


def test_an_inventory_has_the_groups_of_the_spec(
    remote: FakeRemote, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(cli, "inventory", "42") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("#")
    assert "    web:" in lines
    assert "    my_db:" in lines
    assert lines.index("        my-db1.42:") < lines.index("    web:")
    assert '          oar_lxc_node: "node2"' in lines
    config = home / "oar-lxc/42/config"
    assert f"    ansible_ssh_common_args: \"-F '{config}'\"" in lines
    assert config.exists()


@pytest.mark.parametrize(
    ("group", "name"),
    [("web", "web"), ("my-db", "my_db"), ("all", "group_all"), ("", "group_"), ("1x", "group_1x")],
)
def test_a_group_has_a_name_that_ansible_takes(group: str, name: str) -> None:
    assert inventory.group_name(group) == name


def test_completion_knows_jobs_and_containers(
    remote: FakeRemote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = "Job id    S User\\n------ - -----\\n42        R alice\\n43        R alice\\n"
    add_program(tmp_path / "bin", "oarstat", f'[ "$*" = -u ] && printf "{table}"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("OAR_JOB_ID", raising=False)

    def complete(begun: str) -> list[str]:
        context, parameter = object(), object()
        items = complete_container(context, parameter, begun)  # type: ignore[arg-type]
        return [str(item.value) for item in items]

    assert complete("4") == ["42/", "43/"]
    assert complete("42/") == ["42/my-db1", "42/web1"]
    assert complete("42/w") == ["42/web1"]
    assert complete("x/") == []
    monkeypatch.setenv("OAR_JOB_ID", "42")
    assert complete("") == ["my-db1", "web1"]


def test_ssh_home_is_where_ssh_looks_whatever_home_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/elsewhere")
    assert not str(sshfiles.ssh_home()).startswith("/elsewhere")
