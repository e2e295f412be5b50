"""What make asks before it installs anything: whether this machine can hold a sandbox."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from oar_lxc.root import placement
from oar_lxc.sandbox import check_host, host, state, suites


@pytest.fixture(autouse=True)
def _no_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_host, "State", lambda: state.State(tmp_path / "state", tmp_path))
    # Of the machine that runs this, all is well but for what a test names.
    monkeypatch.setattr(
        host, "problems", lambda here, nodes, new: [here.cgroups] * (here.cgroups != "")
    )


def test_a_host_that_cannot_hold_a_sandbox_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (suites, state):
        monkeypatch.setattr(module, "cgroup_version", lambda: 2)
    unified = placement.Hierarchy(tmp_path, (), unified=True)
    monkeypatch.setattr(placement, "hierarchies", lambda: [unified])
    start = "make: this machine cannot hold a sandbox:\n"
    assert check_host.main(["--suite", "trixie"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"{start}machines would have the cgroups of this host, and ")
    assert "lacks the controllers cpuset, cpu, memory, pids" in said
    assert check_host.main(["--suite", "bookworm"]) == 1
    assert capsys.readouterr().err.startswith(f"{start}OAR 2.5 of Debian 12 confines jobs ")


def test_a_host_is_taken_with_the_suite_that_fits_its_cgroups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (suites, state):
        monkeypatch.setattr(module, "cgroup_version", lambda: 2)
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    unified = placement.Hierarchy(tmp_path, (), unified=True)
    monkeypatch.setattr(placement, "hierarchies", lambda: [unified])
    assert check_host.main([]) == 0
    assert capsys.readouterr().err == ""


def test_a_suite_whose_cpuset_cannot_be_on_is_taken_with_it_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (suites, state):
        monkeypatch.setattr(module, "cgroup_version", lambda: 1)
    assert check_host.main(["--suite", "trixie"]) == 0
    assert capsys.readouterr().err == ""


def test_it_needs_no_package_that_make_has_yet_to_install() -> None:
    absent = "import sys; sys.modules |= dict.fromkeys(('click', 'rich', 'structlog', 'psutil'))"
    script = f"{absent}; import oar_lxc.sandbox.check_host"
    subprocess.run([sys.executable, "-c", script], check=True)
