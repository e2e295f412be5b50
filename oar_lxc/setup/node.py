"""The role node: a machine that runs jobs with containers."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oar_lxc.image.building import build
from oar_lxc.image.store import PUBLIC_STORE, Store
from oar_lxc.linux.removal import remove_tree
from oar_lxc.linux.run import run
from oar_lxc.model.config import read_config
from oar_lxc.model.image_name import ImageName
from oar_lxc.model.layout import JOB_DIRECTORIES, RECORDS, STATE, STORE
from oar_lxc.model.placement import NONE
from oar_lxc.oar import paths
from oar_lxc.root import placement
from oar_lxc.setup import (
    config_file,
    files,
    former_lines,
    ids,
    join,
    journal,
    lxcfs,
    network,
    packages,
    requirements,
    services,
    slices,
    units,
)
from oar_lxc.setup.bundle import BUNDLE, Bundle
from oar_lxc.setup.steps import SetupPlan, Step

DIRECTORIES = (
    (STATE, 0o755),
    (STATE / RECORDS, 0o700),
    (STATE / JOB_DIRECTORIES, 0o711),
    (STATE / STORE, 0o700),
)
# By its name before what an administrator writes there, which counts.
_LIMITS = services.UNITS / "oar-node.service.d/10-oar-lxc.conf"
_NO_LIMIT = """\
# Made by oar-lxc setup node. All jobs run in this service, and have its limits together. A limit
# in a file of a later name, such as limits.conf, holds for them and for their containers.
[Service]
TasksMax=infinity
"""
_NOT_THE_SERVER = (
    "jobs would run beside the database and the cluster's keys. Set up a machine of its own as a "
    "node; to see containers on a single machine, `make demo` in a clone brings up a cluster in it"
)


@dataclass(frozen=True)
class Options:
    """The administrator's choices for a node.

    Attributes:
        bundle: the server's bundle.
        settings: more keys of ``oar.conf``.
        prepare: the hook that prepares the node; if empty, the bundle's choice.
        images: images to build if they are missing.
    """

    bundle: Path = BUNDLE
    settings: Mapping[str, str] = field(default_factory=dict)
    prepare: str = ""
    images: Sequence[str] = ()


def make_plan(options: Options) -> SetupPlan:
    """Return the plan for a node."""
    return plan_of(Bundle.read(options.bundle), options)


def plan_of(bundle: Bundle, options: Options, trial: bool = True) -> SetupPlan:
    """Return the plan for a node of a cluster.

    Args:
        bundle: what the cluster's machines share.
        options: the administrator's choices.
        trial: see :func:`oar_lxc.setup.requirements.cgroups_are_usable`.
    """
    prepare = options.prepare or bundle.prepare
    return SetupPlan(
        "node",
        [
            requirements.is_debian(),
            requirements.is_not_the_server(_NOT_THE_SERVER),
            *_cgroup_steps(bundle, trial),
            requirements.storage_is_real(STATE),
            packages.installed(packages.NODE),
            requirements.systemd_answers(),
            *([requirements.hwloc_knows_systemd()] if bundle.cpuset_path else []),
            join.oar_conf(bundle, options.settings, is_node=True),
            *join.oar_keys(bundle),
            # OAR would make it readable for all users, and a user who can read it can lock it.
            files.own_file(
                "nobody but OAR holds its lock", paths.JOB_MANAGER_LOCK, "", 0o600, "oar", "oar"
            ),
            files.own_file(
                "OAR's sshd has the cluster's host key", paths.HOST_KEY, bundle.host_private, 0o600
            ),
            files.own_file(
                "OAR's sshd has the public host key",
                paths.HOST_KEY.with_name(paths.HOST_KEY.name + ".pub"),
                bundle.host_public,
            ),
            services.with_reload(
                files.own_file("jobs may have as many processes as the node", _LIMITS, _NO_LIMIT)
            ),
            services.running(
                "oar-node",
                reads=lambda: [paths.SSHD_CONFIG, paths.HOST_KEY, _LIMITS],
                answers=lambda: _presents(bundle.host_public),
            ),
            config_file.nodes_are_prepared_by(prepare),
            *(
                files.directory(f"{path} is there", path, mode)
                for path, mode in (*DIRECTORIES, (PUBLIC_STORE, 0o755))
            ),
            former_lines.step(),
            *journal.steps(),
            slices.step(),
            *network.steps(),
            *lxcfs.steps(),
            *units.steps(),
            *(_image(name) for name in options.images),
        ],
        [*network.notes(), *ids.notes()],
    )


def _cgroup_steps(bundle: Bundle, trial: bool) -> list[Step]:
    if not bundle.cpuset_path:
        return [requirements.containers_have_cgroups()]
    return [requirements.cpuset_can_be_on(trial=trial), cpuset_link()]


def cpuset_link(link: Path = paths.CPUSET, others: Path = paths.CPUSET_LINK) -> Step:
    """Make the step for OAR's link to the hierarchy of cpusets.

    It removes a directory, left from a time without cpuset, and makes the link if OAR will not.
    With cgroup version 2 alone there is no such hierarchy: the directory is what lets OAR keep the
    keys of jobs.

    Args:
        link: the link.
        others: the link that OAR makes together with it, and looks at.
    """

    def is_in_the_way() -> bool:
        if placement.is_in_units(NONE, placement.hierarchies()):
            return False
        return not link.is_symlink() and link.is_dir() and not link.is_mount()

    def pending() -> str | None:
        if is_in_the_way():
            return f"{link}: remove the directory"
        if others.is_symlink() and not os.path.lexists(link):
            return f"{link}: make OAR's link"
        return None

    def apply() -> None:
        if is_in_the_way():
            remove_tree(link)
        if others.is_symlink() and not os.path.lexists(link):
            link.symlink_to(others.readlink())

    return Step(f"OAR can make {link}", pending, apply)


def _image(name: str) -> Step:
    parsed = ImageName.parse(name)

    def pending() -> str | None:
        return None if _store().has(parsed) else f"build image {name}"

    return Step(f"image {name} is there", pending, lambda: _build(name))


def _store() -> Store:
    return Store(read_config().store)


def _build(name: str) -> None:
    build(name, _store().root)


def _presents(host_public: str) -> bool:
    """Whether OAR's sshd answers here with the cluster's host key."""
    try:
        with socket.create_connection(("127.0.0.1", paths.SSHD_PORT), timeout=2):
            pass
    except OSError:
        return False
    scan = run(
        ["ssh-keyscan", "-T", "5", "-t", "rsa", "-p", str(paths.SSHD_PORT), "127.0.0.1"],
        check=False,
    )
    return host_public.split()[1] in scan.stdout
