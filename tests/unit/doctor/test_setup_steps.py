"""What the doctor says of a step of set-up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from oar_lxc.doctor import setup_steps
from oar_lxc.doctor.findings import AS_ROOT, Finding, Machine, Outcome, Role
from oar_lxc.doctor.setup_steps import Steps, always, mend_cgroups, mend_database
from oar_lxc.errors import CommandError
from oar_lxc.setup.oarconf import OarConf
from oar_lxc.setup.steps import NotYetError, SetupError, SetupPlan, Step

NODE = Machine(Role.NODE, root=True, conf=OarConf(""))
SERVER = Machine(Role.SERVER, root=True, conf=None, stanza=False)


def raising(error: Exception) -> Callable[[], str | None]:
    def pending() -> str | None:
        raise error

    return pending


def applied() -> None:
    raise AssertionError("the doctor applies no step")


def said(
    monkeypatch: pytest.MonkeyPatch,
    pending: Callable[[], str | None],
    apply: Callable[[], None] | None = applied,
    look: Steps | None = None,
    machine: Machine = NODE,
) -> Finding:
    """Return what is found of a step."""
    plan = SetupPlan("node", [Step("it is so", pending, apply), Step("other", raising(OSError()))])
    monkeypatch.setattr(setup_steps, "plan_for", lambda machine: plan)
    (finding,) = (look or Steps("it is so", "It fails."))(machine)
    return finding


def test_a_step_with_nothing_to_do_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, lambda: None) == Finding(Outcome.WELL, "it is so")


def test_what_set_up_would_change_is_mended_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = said(monkeypatch, lambda: "service x: start it")
    assert found.outcome is Outcome.PROBLEM
    assert found.said == "not so: it is so (service x: start it)"
    assert (found.meaning, found.mend) == ("It fails.", "oar-lxc setup node --bundle bundle.tar")
    found = said(monkeypatch, lambda: "--- a\n+++ b\n@@\n-x\n+y\n")
    assert found.said == "not so: it is so (set-up with --dry-run shows the difference)"


def test_what_a_person_has_to_do_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    look = Steps("it is so", "It fails.", always("reboot"), Outcome.WARNING)
    for pending in (lambda: "mend\n    it", raising(SetupError("mend\n    it"))):
        found = said(monkeypatch, pending, None, look)
        assert found == Finding(Outcome.WARNING, "mend it", "It fails.", "reboot")


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (PermissionError(13, "Permission denied", "/etc/x"), AS_ROOT),
        (NotYetError("PostgreSQL does not run yet"), "--dry-run"),
        (CommandError(["systemctl"], 1, "no bus"), "--dry-run"),
        (OSError(5, "Input/output error", "/x"), "--dry-run"),
    ],
)
def test_what_could_not_be_looked_at_is_not_known(
    monkeypatch: pytest.MonkeyPatch, error: Exception, mend: str
) -> None:
    found = said(monkeypatch, raising(error))
    assert found.outcome is Outcome.UNKNOWN
    assert found.said.startswith("it is so: ")
    assert mend in found.mend


@pytest.mark.parametrize(("conf", "outcome"), [(OarConf(""), "well"), (None, "unknown")])
def test_what_a_machine_was_set_up_without_is_well_only_where_that_is_known(
    monkeypatch: pytest.MonkeyPatch, conf: OarConf | None, outcome: str
) -> None:
    machine = Machine(Role.NODE, root=False, conf=conf)
    look = Steps("no such step", "It fails.", needs_conf=True)
    assert said(monkeypatch, lambda: None, look=look, machine=machine).outcome.value == outcome


def test_the_command_repeats_what_the_server_was_set_up_with() -> None:
    machine = Machine(Role.SERVER, root=True, conf=None, cpuset=False, stanza=False)
    assert machine.setup == "oar-lxc setup server --no-cpuset --no-stanza"


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("… Mount it read-write (mount -o remount,rw /x)", "mount -o remount,rw,bind /sys/fs"),
        ("… does not mount it: mkdir -p /c && mount -t cgroup -o cpu cpu /c", "mkdir -p /c && mo"),
        ("/x/cpuset.mems is empty: no process …", "lxc-cgroup -n MACHINE cpuset.mems 0"),
        ("OAR 2.6 … set the server up with --no-cpuset, …", "oar-lxc setup server --no-cpuset"),
        ("/sys/fs/cgroup has cgroup version 2. OAR …", "update-grub"),
    ],
)
def test_cgroups_are_mended_by_what_fits(text: str, command: str) -> None:
    assert command in mend_cgroups(text, NODE)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("database oar is half there (no table queues): …", "oar-database --drop --db-is-local"),
        ("… tell PostgreSQL: psql -c X (and oar_ro likewise)", "psql -c X"),
        (
            "not so: … (create database oar and users oar and oar_ro)",
            "oar-lxc setup server --no-stanza",
        ),
    ],
)
def test_a_database_is_mended_by_what_fits(text: str, command: str) -> None:
    assert mend_database(text, SERVER).startswith(command)
