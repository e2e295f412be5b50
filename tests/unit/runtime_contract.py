"""What every runtime does: the same tests for the fake one and, in tests/integration, for LXC."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from oar_lxc.container.runtime import Runtime
from oar_lxc.errors import ContainerError
from tests.unit.fakes.programs import alive, wait_until


@dataclass(frozen=True)
class Containers:
    """A runtime to test, with three containers that were not started: a, b and broken.

    Attributes:
        runtime: the runtime.
        wait: waits for a process that the runtime attached; returns its wait status.
        of_missing_directory: makes a runtime over a directory that does not exist.
        boot: whether the containers have a systemd, which boots.
    """

    runtime: Runtime
    wait: Callable[[int], int]
    of_missing_directory: Callable[[], Runtime]
    boot: bool = True

    def run(self, name: str, *argv: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        """Run a command in a container; return its exit status and what it wrote."""
        in_r, in_w = os.pipe()
        out_r, out_w = os.pipe()
        err_r, err_w = os.pipe()
        os.write(in_w, stdin)
        os.close(in_w)
        try:
            pid = self.runtime.attach(name, argv, in_r, out_w, err_w)
        finally:
            for fd in (in_r, out_w, err_w):
                os.close(fd)
        with os.fdopen(out_r, "rb") as out, os.fdopen(err_r, "rb") as err:
            written = out.read(), err.read()
        return os.waitstatus_to_exitcode(self.wait(pid)), *written


def _wait_boot(containers: Containers, *names: str) -> None:
    """Wait for the end of a boot: an init that only just started does not listen to signals."""
    ready = "systemctl is-system-running | grep -qE 'running|degraded'"
    for name in names if containers.boot else ():
        assert wait_until(lambda name=name: containers.run(name, "sh", "-c", ready)[0] == 0)  # type: ignore[misc]


class RuntimeContract:
    """Inherit it and give it a fixture ``containers``."""

    def test_names_are_those_of_the_directories_with_a_config(
        self, containers: Containers
    ) -> None:
        assert containers.runtime.names() == ["a", "b", "broken"]

    def test_names_that_cannot_be_read_are_an_error(self, containers: Containers) -> None:
        runtime = containers.of_missing_directory()
        with pytest.raises(OSError, match="No such file"):
            runtime.names()

    def test_a_container_that_was_never_started_is_stopped(self, containers: Containers) -> None:
        assert containers.runtime.state("a") == "STOPPED"
        assert containers.runtime.init_pid("a") == -1

    def test_a_started_container_runs(self, containers: Containers) -> None:
        started = containers.runtime.start("a")
        assert containers.runtime.state("a") == "RUNNING"
        assert containers.runtime.init_pid("a") == started.init_pid
        assert alive(started.init_pid)
        assert 0 < started.seconds < 30

    def test_starting_one_leaves_the_others_stopped(self, containers: Containers) -> None:
        containers.runtime.start("a")
        assert containers.runtime.state("b") == "STOPPED"

    def test_a_container_that_does_not_start_is_an_error_with_the_log(
        self, containers: Containers
    ) -> None:
        with pytest.raises(ContainerError) as caught:
            containers.runtime.start("broken")
        assert caught.value.container == "broken"
        assert caught.value.node == "node1"
        assert caught.value.log
        assert all(line in str(caught.value) for line in caught.value.log)
        assert containers.runtime.state("broken") == "STOPPED"

    def test_killed_containers_are_stopped_and_their_inits_gone(
        self, containers: Containers
    ) -> None:
        pids = [containers.runtime.start(name).init_pid for name in ("a", "b")]
        assert containers.runtime.kill(["a", "b"], 10) == []
        assert [containers.runtime.state(name) for name in ("a", "b")] == ["STOPPED", "STOPPED"]
        assert wait_until(lambda: not any(alive(pid) for pid in pids))

    def test_killed_for_good_they_are_as_dead(self, containers: Containers) -> None:
        pids = [containers.runtime.start(name).init_pid for name in ("a", "b")]
        assert containers.runtime.kill(["a"], 10, for_good=True) == []
        assert [containers.runtime.state(name) for name in ("a", "b")] == ["STOPPED", "RUNNING"]
        assert wait_until(lambda: not alive(pids[0]))
        assert alive(pids[1])

    def test_killing_one_leaves_the_others_running(self, containers: Containers) -> None:
        containers.runtime.start("a")
        pid = containers.runtime.start("b").init_pid
        assert containers.runtime.kill(["a"], 10) == []
        assert containers.runtime.init_pid("b") == pid

    def test_killing_what_does_not_run_is_success(self, containers: Containers) -> None:
        containers.runtime.start("a")
        containers.runtime.kill(["a"], 10)
        assert containers.runtime.kill(["a", "b"], 10) == []

    def test_a_command_has_its_own_streams_and_status(self, containers: Containers) -> None:
        containers.runtime.start("a")
        script = "cat; echo err >&2; exit 3"
        status, out, err = containers.run("a", "sh", "-c", script, stdin=b"\xff\0in")
        assert (status, out, err) == (3, b"\xff\0in", b"err\n")

    def test_a_missing_command_has_status_127(self, containers: Containers) -> None:
        containers.runtime.start("a")
        assert containers.run("a", "no-such-command")[0] == 127

    def test_a_command_that_a_signal_ends_is_told_so(self, containers: Containers) -> None:
        containers.runtime.start("a")
        assert containers.run("a", "sh", "-c", "kill -KILL $$")[0] == -9

    def test_a_command_does_not_see_the_environment_of_the_caller(
        self, containers: Containers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OAR_LXC_SECRET", "seen")
        containers.runtime.start("a")
        _, out, _ = containers.run("a", "env")
        variables = dict(line.split("=", 1) for line in out.decode().splitlines())
        assert "OAR_LXC_SECRET" not in variables
        assert variables["HOME"] == "/root"
        assert "/usr/bin" in variables["PATH"].split(":")

    def test_nothing_can_be_run_in_a_stopped_container(self, containers: Containers) -> None:
        with pytest.raises(ContainerError, match="a on node node1: it is STOPPED, not RUNNING"):
            containers.run("a", "true")

    def test_no_descriptor_is_left_open(self, containers: Containers) -> None:
        containers.runtime.start("a")
        before = sorted(p.name for p in Path("/proc/self/fd").iterdir())
        containers.run("a", "true")
        containers.runtime.kill(["a"], 10)
        assert sorted(p.name for p in Path("/proc/self/fd").iterdir()) == before

    def test_asked_to_end_all_of_them_stop(self, containers: Containers) -> None:
        pids = [containers.runtime.start(name).init_pid for name in ("a", "b")]
        _wait_boot(containers, "a", "b")
        assert containers.runtime.shutdown(["a", "b"], 20) == []
        assert [containers.runtime.state(name) for name in ("a", "b")] == ["STOPPED", "STOPPED"]
        assert wait_until(lambda: not any(alive(pid) for pid in pids))

    def test_asking_what_does_not_run_is_success(self, containers: Containers) -> None:
        assert containers.runtime.shutdown(["a"], 10) == []

    def test_a_stopped_container_starts_again(self, containers: Containers) -> None:
        containers.runtime.start("a")
        containers.runtime.kill(["a"], 10)
        assert alive(containers.runtime.start("a").init_pid)
        assert containers.runtime.state("a") == "RUNNING"

    def test_a_frozen_container_is_frozen_until_it_is_thawed(self, containers: Containers) -> None:
        pid = containers.runtime.start("a").init_pid
        containers.runtime.freeze("a")
        assert containers.runtime.state("a") == "FROZEN"
        with pytest.raises(ContainerError, match="it is FROZEN, not RUNNING: thaw it with"):
            containers.run("a", "true")
        containers.runtime.unfreeze("a")
        assert containers.runtime.state("a") == "RUNNING"
        assert containers.runtime.init_pid("a") == pid
        assert containers.run("a", "true")[0] == 0

    def test_a_frozen_container_is_thawed_to_end(self, containers: Containers) -> None:
        containers.runtime.start("a")
        _wait_boot(containers, "a")
        containers.runtime.freeze("a")
        assert containers.runtime.shutdown(["a"], 20) == []

    def test_what_does_not_run_cannot_be_frozen(self, containers: Containers) -> None:
        with pytest.raises(ContainerError, match="a on node node1: LXC could not freeze it"):
            containers.runtime.freeze("a")
