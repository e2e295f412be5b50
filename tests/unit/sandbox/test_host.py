"""What a host lacks is told by one sentence each, with what to do, before anything is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oar_lxc.errors import CommandError
from oar_lxc.linux.run import Result
from oar_lxc.root import placement
from oar_lxc.root.placement import Hierarchy
from oar_lxc.sandbox import host, suites
from oar_lxc.sandbox.host import GIB, Host
from oar_lxc.sandbox.state import SandboxError, Settings

PLACE = Path("/var/lib/somewhere")
GOOD = Host(
    fuse="",
    user_namespaces=1000,
    unprivileged=True,
    memory=8 * GIB,
    disk={PLACE: 50 * GIB},
    storage="",
    cgroups="",
)
LACKS: dict[str, tuple[dict[str, Any], str, str]] = {
    "fuse": ({"fuse": "No such file or directory"}, "/dev/fuse", "modprobe fuse"),
    "fuse of a container": ({"fuse": "Operation not permitted"}, "/dev/fuse", "lxc.mount.entry"),
    "user namespaces": ({"user_namespaces": 0}, "user namespaces", "user.max_user_namespaces"),
    "unprivileged ones": (
        {"unprivileged": False},
        "user namespaces",
        "unprivileged_userns_clone=1",
    ),
    "memory": ({"memory": GIB // 2}, "0.5 GiB of memory", "--nodes"),
    "disk": ({"disk": {PLACE: GIB}}, f"{PLACE} has 1.0 GiB free", "make room"),
    "a real file system": ({"storage": "it is on overlay: mount one"}, "overlay", "mount one"),
    "cgroups": ({"cgroups": "a controller is missing: boot"}, "a controller", "boot"),
}


def test_a_host_that_has_everything_is_taken() -> None:
    assert host.problems(GOOD, nodes=2, new=True) == []
    host.refuse([])


@pytest.mark.parametrize("lack", LACKS)
def test_what_is_missing_is_told_with_what_to_do(lack: str) -> None:
    change, what, cure = LACKS[lack]
    (sentence,) = host.problems(replace(GOOD, **change), nodes=2, new=True)
    assert what in sentence
    assert cure in sentence
    assert "\n" not in sentence
    with pytest.raises(SandboxError, match="this machine cannot hold a sandbox"):
        host.refuse([sentence])


@pytest.mark.parametrize("cpuset", [True, False])
def test_controllers_that_machines_need_and_the_host_lacks_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuset: bool
) -> None:
    monkeypatch.setattr(suites, "cgroup_version", lambda: 2)
    monkeypatch.setattr(placement, "hierarchies", lambda: [Hierarchy(tmp_path, (), unified=True)])
    there = tmp_path / "cgroup.controllers"
    settings = Settings(suite="trixie", cpuset=cpuset)
    there.write_text("cpu io memory pids\n")
    told = host.look((PLACE,), settings).cgroups
    start = "machines would have the cgroups of this host, and cgroup version 2 at "
    assert told.startswith(start) if cpuset else told == ""
    there.write_text("cpuset cpu io memory pids\n")
    assert host.look((PLACE,), settings).cgroups == ""


def test_a_cpuset_that_cannot_be_on_here_is_refused_with_what_can_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suites, "cgroup_version", lambda: 1)
    told = host.look((PLACE,), Settings(suite="trixie")).cgroups
    assert told.endswith("ask for --no-cpuset or --suite bookworm")
    monkeypatch.setattr(suites, "cgroup_version", lambda: 2)
    told = host.look((PLACE,), Settings(suite="bookworm")).cgroups
    assert told.endswith("ask for --no-cpuset or --suite trixie")


def test_all_that_is_missing_is_told_at_once() -> None:
    poor = replace(GOOD, fuse="No such file or directory", memory=0, disk={PLACE: 0})
    assert len(host.problems(poor, nodes=2, new=True)) == 3


def test_a_sandbox_that_is_there_is_not_asked_for_its_room_again() -> None:
    assert host.problems(replace(GOOD, memory=0, disk={PLACE: 0}), nodes=2, new=False) == []


def test_more_nodes_need_more_memory() -> None:
    small = replace(GOOD, memory=2 * GIB)
    assert host.problems(small, nodes=2, new=True) == []
    assert host.problems(small, nodes=20, new=True)


@pytest.mark.parametrize("what", ["an overlay below", *(probe.what for probe in host.PROBES)])
def test_what_the_kernel_refuses_is_told_in_its_words(tmp_path: Path, what: str) -> None:
    def run(argv: Sequence[str], *, input: str = "", timeout: float = 60) -> Result:
        names = {probe.argv: probe.what for probe in host.PROBES}
        if names.get(tuple(argv), "an overlay below") == what:
            raise CommandError(argv, 2, "\nError: Unknown device type.\nmore\n")
        return Result(tuple(argv), 0, "", "")

    (sentence,) = host.kernel_problems(tmp_path / "not/there/yet", run)
    assert what in sentence
    assert "(Error: Unknown device type.)" in sentence
    assert "modprobe" in sentence
    assert list(tmp_path.iterdir()) == []


def test_this_machine_is_looked_at_in_a_moment_and_left_as_it_is(tmp_path: Path) -> None:
    here = host.look((tmp_path / "a", tmp_path / "b"), Settings(cpuset=False))
    assert here.memory > 0
    assert set(here.disk) == {tmp_path / "a", tmp_path / "b"}
    assert list(tmp_path.iterdir()) == []
