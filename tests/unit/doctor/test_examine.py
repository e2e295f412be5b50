"""A check that cannot look is never well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.doctor import machine as machine_module
from oar_lxc.doctor.examine import examine, results_of
from oar_lxc.doctor.findings import AS_ROOT, Check, Finding, Machine, Outcome, Role, well
from oar_lxc.doctor.machine import chosen, role_here
from oar_lxc.errors import CommandError, UsageError
from oar_lxc.setup import packages
from oar_lxc.setup.bundle import Bundle
from oar_lxc.setup.oarconf import OarConf
from oar_lxc.setup.steps import NotYetError

USER = Machine(Role.NODE, root=False, conf=None)
BUNDLE = Bundle("server", {}, "", "prologue", "a", "b", "c", "d")


def check_of(error: Exception | None, *findings: Finding) -> Check:
    def look(machine: Machine) -> Iterator[Finding]:
        yield from findings
        if error:
            raise error

    return Check("disk", {Role.NODE}, look)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied", "/etc/x"), "/etc/x: Permission denied"),
        (NotYetError("the database is not there yet"), "the database is not there yet"),
        (CommandError(["nft"], 127, "nft: No such file"), "nft: No such file"),
        (None, "nothing was looked at"),
    ],
)
def test_what_a_check_could_not_see_is_not_known(error: Exception | None, told: str) -> None:
    (found,) = results_of(check_of(error), USER)
    assert found.outcome is Outcome.UNKNOWN
    assert told in found.said
    assert (found.check, found.mend) == ("disk", AS_ROOT)


def test_what_it_saw_before_counts_besides() -> None:
    first, second = results_of(check_of(NotYetError("later"), well("x")), USER)
    assert (first.outcome, second.outcome) == (Outcome.WELL, Outcome.UNKNOWN)


def test_a_mistake_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        list(results_of(check_of(ZeroDivisionError()), USER))


def test_a_machine_has_the_checks_of_its_role() -> None:
    told: list[str] = []
    other = Check("sweep", {Role.SERVER}, lambda machine: [well("y")])
    peers = Check("packets", {Role.NODE}, lambda machine: [well("z")], needs_peers=True)
    report = examine(USER, told.append, [check_of(None, well("x")), other, peers])
    assert told == ["disk"]
    assert [one.said for one in report.findings] == ["x"]
    assert report.role == "node"


@pytest.mark.parametrize(
    ("installed", "role"),
    [
        ({"oar-server", "oar-user"}, Role.SERVER),
        ({"oar-node", "oar-user"}, Role.NODE),
        ({"oar-user"}, Role.FRONTEND),
    ],
)
def test_a_role_is_told_by_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], role: Role
) -> None:
    monkeypatch.setattr(
        packages, "missing", lambda names: [n for n in names if n not in installed]
    )
    monkeypatch.setattr(machine_module, "SIGNS", [(*s[:2], None) for s in machine_module.SIGNS])
    assert role_here() is role


def test_a_machine_without_a_role_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "missing", list)
    monkeypatch.setattr(machine_module, "SIGNS", [(*s[:2], None) for s in machine_module.SIGNS])
    with pytest.raises(UsageError, match="no server, frontend or node of OAR"):
        role_here()


def test_what_was_chosen_is_in_the_bundle_or_else_in_oar_conf(tmp_path: Path) -> None:
    path = tmp_path / "bundle.tar"
    conf = OarConf('CPUSET_PATH="/oar"\n')
    assert chosen(conf, path) == (True, False)
    path.write_bytes(BUNDLE.to_bytes())
    assert chosen(conf, path) == (False, False)
    assert chosen(conf, None) == (True, False)  # on a node, which has no say in it
