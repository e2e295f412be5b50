"""The role frontend: a machine from which users submit jobs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from oar_lxc.setup import admission, join, packages, requirements
from oar_lxc.setup.bundle import Bundle
from oar_lxc.setup.steps import SetupPlan


def make_plan(path: Path, settings: Mapping[str, str]) -> SetupPlan:
    """Return the plan for a frontend.

    Args:
        path: the server's bundle.
        settings: more keys of ``oar.conf``.
    """
    return plan_of(Bundle.read(path), settings)


def plan_of(bundle: Bundle, settings: Mapping[str, str]) -> SetupPlan:
    """Return the plan for a frontend of a cluster.

    Args:
        bundle: what the cluster's machines share.
        settings: more keys of ``oar.conf``.
    """
    return SetupPlan(
        "frontend",
        [
            requirements.is_debian(),
            requirements.is_not_the_server("users can submit jobs there as it is"),
            packages.installed(packages.FRONTEND),
            join.oar_conf(bundle, {**bundle.database, **settings}),
            *join.oar_keys(bundle),
            *admission.frontend_steps(),
        ],
    )
