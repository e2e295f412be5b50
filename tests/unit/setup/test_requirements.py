"""What is checked of a machine, and explained where it is not so."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from oar_lxc.root import placement
from oar_lxc.setup import frontend, node, packages, requirements
from oar_lxc.setup.bundle import Bundle
from oar_lxc.setup.steps import NotYetError, SetupPlan
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


def unified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, controllers: str) -> None:
    """Let the machine have cgroup version 2 alone."""
    (tmp_path / "cgroup.controllers").write_text(f"{controllers}\n")
    mounted = [placement.Hierarchy(tmp_path, (), unified=True)]
    monkeypatch.setattr(placement, "hierarchies", lambda: mounted)


def older(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have version 1 beside a version 2 that is empty."""
    mounted = [
        placement.Hierarchy(Path("/sys/fs/cgroup/unified"), (), unified=True),
        placement.Hierarchy(Path("/sys/fs/cgroup/cpuset"), ("cpuset",), unified=False),
    ]
    monkeypatch.setattr(placement, "hierarchies", lambda: mounted)


@pytest.mark.parametrize(
    ("controllers", "lacking"),
    [
        ("cpuset cpu io memory hugetlb pids rdma misc", ""),
        ("cpu io memory pids", ""),
        ("cpu io pids", "lacks the controller memory, by"),
        ("cpuset io pids", "lacks the controllers cpu, memory, by"),
        ("", "lacks the controllers cpu, memory, pids, by"),
    ],
)
def test_a_node_without_oars_cpuset_needs_what_limits_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, controllers: str, lacking: str
) -> None:
    step = requirements.containers_have_cgroups()
    older(monkeypatch)
    assert step.pending() is None
    unified(tmp_path, monkeypatch, controllers)
    assert step.pending() is None if not lacking else lacking in (step.pending() or "")
    assert step.apply is None


@pytest.mark.parametrize("version", ["2.6.1-1+deb13u1", "3.0.2-1"])
def test_a_newer_oar_has_its_cpuset_in_version_2_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    step = requirements.cpuset_can_be_on(lambda: version)
    older(monkeypatch)
    assert "set the server up with --no-cpuset" in (step.pending() or "")
    unified(tmp_path, monkeypatch, "cpu io memory pids")
    assert "lacks the controller cpuset, by" in (step.pending() or "")
    unified(tmp_path, monkeypatch, "cpuset cpu io memory pids")
    assert step.pending() is None


def test_systemd_has_to_answer_where_it_makes_cgroups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = requirements.systemd_answers()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    add_program(tmp_path / "bin", "busctl", "echo 'Failed to connect to bus: no file' >&2; exit 1")
    unified(tmp_path, monkeypatch, "cpuset")
    assert "does not answer on D-Bus (Failed to connect to bus: no file)" in (step.pending() or "")
    older(monkeypatch)
    assert step.pending() is None
    add_program(tmp_path / "bin", "busctl", "echo 's \"257\"'")
    unified(tmp_path, monkeypatch, "cpuset")
    assert step.pending() is None


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo ay 0x0001 0x03", None),
        ("echo ay 0x0002 0xff 0x0f", None),
        ("echo 0x00000003", "does not name CPUs as systemd takes them"),
        ("echo unknown option >&2; exit 1", "does not name CPUs as systemd takes them"),
    ],
)
def test_hwloc_has_to_name_cpus_for_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str | None
) -> None:
    step = requirements.hwloc_knows_systemd()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    add_program(tmp_path / "bin", "hwloc-calc", script)
    unified(tmp_path, monkeypatch, "cpuset")
    said = step.pending()
    assert said is None if told is None else told in str(said)
    older(monkeypatch)
    assert step.pending() is None


def test_hwloc_is_asked_once_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unified(tmp_path, monkeypatch, "cpuset")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotYetError, match="comes with OAR"):
        requirements.hwloc_knows_systemd().pending()


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
