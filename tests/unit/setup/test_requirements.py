"""What is checked of a machine, and explained where it is not so."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from oar_lxc.root import placement
from oar_lxc.setup import frontend, node, packages, requirements
from oar_lxc.setup.bundle import Bundle
from oar_lxc.setup.steps import SetupPlan
from tests.unit.fakes.programs import add_program


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


def test_a_node_without_oars_cpuset_needs_cgroups_for_containers_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = requirements.containers_have_cgroups()
    unified, older = (
        placement.Hierarchy(Path("/sys/fs/cgroup", name), names, unified=not names)
        for name, names in (("unified", ()), ("pids", ("pids",)))
    )
    monkeypatch.setattr(placement, "hierarchies", lambda: [unified, older])
    assert step.pending() is None
    monkeypatch.setattr(placement, "hierarchies", lambda: [unified])
    assert "this node has cgroup version 2 alone" in (step.pending() or "")
    assert step.apply is None


@pytest.mark.parametrize("version", ["2.6.1-1+deb13u1", "3.0.2-1"])
def test_a_newer_oar_has_its_cpuset_in_version_2_alone(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    step = requirements.cpuset_can_be_on(lambda: version)
    older = placement.Hierarchy(Path("/sys/fs/cgroup/cpuset"), ("cpuset",), unified=False)
    monkeypatch.setattr(placement, "hierarchies", lambda: [older])
    assert "set the server up with --no-cpuset" in (step.pending() or "")


@pytest.mark.parametrize("version", ["2.5.9-1+deb12u1", "2.5.10~g5k32-1", ""])
def test_an_older_oar_has_its_cpuset_in_version_1(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(requirements, "_cgroup_problem", lambda *_: "version 2: boot with")
    assert requirements.cpuset_can_be_on(lambda: version).pending() == "version 2: boot with"


@pytest.mark.parametrize(
    ("installed", "candidate", "version"),
    [
        ("2.5.9-1", "2.6.1-1", "2.5.9-1"),
        ("(none)", "2.6.1-1", "2.6.1-1"),
        ("(none)", "(none)", ""),
    ],
)
def test_the_version_of_a_package_is_what_is_installed_or_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str, candidate: str, version: str
) -> None:
    listing = f"oar-node:\n  Installed: {installed}\n  Candidate: {candidate}\n  Version table:\n"
    add_program(tmp_path / "bin", "apt-cache", f"cat <<'END'\n{listing}END")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert packages.version_of("oar-node") == version


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
    deep = requirements.storage_is_real(tmp_path / "not" / "there").pending()
    there = requirements.storage_is_real(tmp_path).pending()
    assert (deep or "").replace("/not/there", "") == (there or "")


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (lambda path: frontend.make_plan(path, {}), "submit jobs there"),
        (lambda path: node.make_plan(node.Options(path)), "beside the database"),
    ],
)
@pytest.mark.parametrize("server", [True, False])
def test_the_server_is_neither_a_frontend_nor_a_node(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plan: Callable[[Path], SetupPlan],
    told: str,
    server: bool,
) -> None:
    monkeypatch.setattr(packages, "missing", lambda names: [] if server else list(names))
    bundle = Bundle("server", {}, "/oar", "stanza", "a", "b", "c", "d")
    (tmp_path / "bundle.tar").write_bytes(bundle.to_bytes())
    steps = plan(tmp_path / "bundle.tar").steps
    (step,) = (step for step in steps if step.title == "not the OAR server")
    said = step.pending()
    assert step.apply is None
    assert said is None if not server else told in str(said)
