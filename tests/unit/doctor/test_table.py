"""All checks are in one table, and all that set-up establishes is in it."""

from __future__ import annotations

import pytest

from oar_lxc.doctor.findings import Check, Machine, Role
from oar_lxc.doctor.setup_steps import Steps, plan_for
from oar_lxc.doctor.table import CHECKS, SET_UP, chosen
from oar_lxc.errors import UsageError
from oar_lxc.setup.oarconf import OarConf
from oar_lxc.setup.steps import Step

CONF = OarConf('CPUSET_PATH="/oar"\n')


def steps_of(role: Role) -> list[Step]:
    """Return the steps of a role's set-up, with all that an administrator may choose."""
    return list(plan_for(Machine(role, root=True, conf=CONF)).steps)


@pytest.mark.parametrize("role", Role)
def test_each_step_of_set_up_is_in_one_check(role: Role) -> None:
    """A new step of set-up needs a check in SET_UP that says what it means where it is not so."""
    looks = {check.name: check.look for check in SET_UP if role in check.roles}
    for step in steps_of(role):
        names = [n for n, look in looks.items() if isinstance(look, Steps) and look.has(step)]
        assert len(names) == 1, (step.title, names)


@pytest.mark.parametrize("check", SET_UP, ids=lambda check: check.name)
def test_each_check_of_set_up_has_a_step_in_each_of_its_roles(check: Check) -> None:
    look = check.look
    assert isinstance(look, Steps)
    for role in check.roles:
        assert [step for step in steps_of(role) if look.has(step)], role


def test_names_are_unique_and_can_be_typed() -> None:
    names = [check.name for check in CHECKS]
    assert len(names) == len(set(names))
    assert all(name.replace("-", "").isalpha() and name.islower() for name in names)


def test_checks_are_chosen_by_their_names() -> None:
    assert chosen([]) == CHECKS
    assert [check.name for check in chosen(["disk", "ssh"])] == ["disk", "ssh"]
    assert chosen(["clock"]) == ()  # of the comparison of nodes
    with pytest.raises(UsageError, match="there is no check disks; did you mean disk"):
        chosen(["disks"])
