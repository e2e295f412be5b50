"""What is checked of a machine, and explained where it is not so."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.run import Result
from oar_lxc.model.config import lenient_config
from oar_lxc.setup import check_nodes, members, requirements
from oar_lxc.setup.steps import SetupError


def hybrid(tmp_path: Path) -> tuple[Path, Path]:
    """Return a tree like version 1's cgroup file systems, and its mount table."""
    cgroups, mounts = tmp_path / "cgroup", tmp_path / "mounts"
    lines = [f"tmpfs {cgroups} tmpfs rw 0 0"]
    for controller in requirements.CONTROLLERS:
        (cgroups / controller).mkdir(parents=True)
        lines.append(f"cgroup {cgroups / controller} cgroup rw,{controller} 0 0")
    for name in ("cpuset.cpus", "cpuset.mems"):
        (cgroups / "cpuset" / name).write_text("0-1\n")
    mounts.write_text("\n".join(lines) + "\n")
    return cgroups, mounts


def problem(cgroups: Path, mounts: Path) -> str:
    return requirements.cgroups_are_usable(cgroups, mounts).pending() or ""


def test_cgroups_that_are_mounted_and_writable_are_fine(tmp_path: Path) -> None:
    cgroups, mounts = hybrid(tmp_path)
    (cgroups / "cpuset" / "oar-lxc-probe").mkdir()  # on cgroupfs files need not be made
    assert problem(cgroups, mounts) == ""


def test_a_controller_that_is_not_mounted_is_named(tmp_path: Path) -> None:
    cgroups, mounts = hybrid(tmp_path)
    kept = [line for line in mounts.read_text().splitlines() if "freezer" not in line]
    mounts.write_text("\n".join(kept))
    assert "controller freezer is not mounted" in problem(cgroups, mounts)
    assert "mount -t cgroup -o freezer" in problem(cgroups, mounts)


def test_version_2_is_recognised_and_the_way_out_told(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n")
    said = problem(tmp_path, mounts)
    assert "version 2" in said
    assert "systemd.unified_cgroup_hierarchy=0" in said


@pytest.mark.parametrize("name", ["cpuset.cpus", "cpuset.mems"])
def test_an_empty_cpuset_is_recognised(tmp_path: Path, name: str) -> None:
    cgroups, mounts = hybrid(tmp_path)
    (cgroups / "cpuset" / name).write_text("\n")
    assert f"{name} is empty" in problem(cgroups, mounts)


def test_a_cpuset_that_cannot_be_written_is_recognised(tmp_path: Path) -> None:
    cgroups, mounts = hybrid(tmp_path)
    (cgroups / "cpuset" / "oar-lxc-probe").touch()  # no directory can be made of that name
    assert "cannot be written" in problem(cgroups, mounts)


def test_storage_is_judged_by_what_it_will_lie_on(tmp_path: Path) -> None:
    said = requirements.storage_is_real(Path("/proc/none/below")).pending()
    assert said is None or "local file system" in said
    deep = requirements.storage_is_real(tmp_path / "not" / "there")
    assert deep.pending() == requirements.storage_is_real(tmp_path).pending()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("ssh: connect to host n port 6667: Connection refused", "systemctl restart oar-node"),
        ("No RSA host key is known\nHost key verification failed.", "unknown here"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
         "not the cluster's"),
        ("oar@n: Permission denied (publickey).", "does not accept user oar's key"),
        ("ssh: Could not resolve hostname n: Name or service not known", "/etc/hosts"),
        ("ssh: connect to host n port 6667: Connection timed out", "is it on"),
        ("something else", "something else"),
        ("", "ended with status 255"),
    ],
)  # fmt: skip
def test_why_a_node_is_not_reached_is_told(said: str, told: str) -> None:
    assert told in check_nodes.explain(Result(("ssh",), 255, "", said))


def test_the_administrator_s_other_keys_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "oar-lxc.toml"
    monkeypatch.setattr(members, "CONFIG", path)
    path.write_text("# mine\n[hooks]\ndeadline = 30\nprepare = 'stanza'\n")
    assert members._config_text("prologue") == (
        '# mine\n[hooks]\ndeadline = 30\nprepare = "prologue"\n'
    )
    path.unlink()
    assert members._config_text("stanza").endswith('[hooks]\nprepare = "stanza"\n')


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[hooks] # note\n", '[hooks] # note\nprepare = "prologue"\n'),
        ("[ hooks ]\ndeadline = 9", '[ hooks ]\nprepare = "prologue"\ndeadline = 9\n'),
        ("hooks.deadline = 30\n", 'hooks.prepare = "prologue"\nhooks.deadline = 30\n'),
        ('hooks.prepare = "stanza" # x\n', 'hooks.prepare = "prologue" # x\n'),
        ("hooks = { deadline = 9 }\n", 'hooks = { prepare = "prologue", deadline = 9 }\n'),
        ("hooks = {}\n", 'hooks = { prepare = "prologue" }\n'),
        ("hooks = { prepare = 'stanza' }\n", 'hooks = { prepare = "prologue" }\n'),
        ("['hooks']\n\"prepare\" = 'stanza'\n", '[\'hooks\']\n"prepare" = "prologue"\n'),
        ("[mounts]\ntrees = []\n", '[mounts]\ntrees = []\n[hooks]\nprepare = "prologue"\n'),
        (
            "[hooks]\n# prepare = 'stanza'\n[mounts]\ntrees = ['/x[hooks]']\n",
            "[hooks]\nprepare = \"prologue\"\n# prepare = 'stanza'\n"
            "[mounts]\ntrees = ['/x[hooks]']\n",
        ),
        ("[hooks]\r\ndeadline = 9\r\n", '[hooks]\nprepare = "prologue"\ndeadline = 9\n'),
        ("\ufeff[hooks]\n", '\ufeff[hooks]\nprepare = "prologue"\n'),
        ("[hooks]\nprepare = 'prologue'  # kept", "[hooks]\nprepare = 'prologue'  # kept"),
        ("", '\n[hooks]\nprepare = "prologue"\n'),
    ],
)
def test_whatever_form_the_file_has_one_value_is_another_and_the_rest_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    path = tmp_path / "oar-lxc.toml"
    monkeypatch.setattr(members, "CONFIG", path)
    path.write_text(before, newline="")
    old = lenient_config(path)
    text = members._config_text("prologue")
    assert text.lstrip("\n") == after.lstrip("\n")
    path.write_text(text)
    assert lenient_config(path) == (replace(old[0], prepare="prologue"), "")
    assert members._config_text("prologue") == text


def test_a_file_that_cannot_be_changed_safely_is_left_with_the_line_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "oar-lxc.toml"
    monkeypatch.setattr(members, "CONFIG", path)
    path.write_text('[hooks]\nprepare = """\nstanza"""\n')
    with pytest.raises(SetupError, match='write prepare = "prologue" into its table hooks'):
        members._config_text("prologue")


@pytest.mark.parametrize("kind", ["wrong", "binary", "fifo", "directory"])
def test_a_wrong_configuration_is_not_set_ups_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "oar-lxc.toml"
    monkeypatch.setattr(members, "CONFIG", path)
    make: dict[str, Callable[[], object]] = {
        "wrong": lambda: path.write_text("[hooks]\ndeadlin = 30\n"),
        "binary": lambda: path.write_bytes(b"\xff\0"),
        "fifo": lambda: os.mkfifo(path),
        "directory": path.mkdir,
    }
    make[kind]()
    with pytest.raises(OarLxcError, match=str(path)):
        members._config_text("prologue")


def test_nodes_are_prepared_by_one_of_two() -> None:
    with pytest.raises(SetupError, match="stanza or prologue"):
        members._config("nobody")
