"""Make a node's share of a plan on disk: configurations, and files that containers' root owns.

The files of the containers' root come from one tar stream for several containers. tar unpacks it
inside the job's user namespace, so that the files get the right owners.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from oar_lxc.container.binds import binds_of
from oar_lxc.container.capacity import check_memory, job_memory
from oar_lxc.container.job_namespaces import JobNamespaces
from oar_lxc.container.layer import AccountInside, LayerFiles
from oar_lxc.container.limit_cgroups import make_limit_cgroups, remove_limit_cgroups
from oar_lxc.container.limits import Share
from oar_lxc.container.lxc_config import (
    LXCFS,
    NodeSettings,
    config_text,
    overlay_mark,
)
from oar_lxc.container.node_launch import NodeLaunch
from oar_lxc.errors import CommandError, ConfigError
from oar_lxc.image.provide import halt_signal_of_image
from oar_lxc.linux.background import in_background
from oar_lxc.linux.resolver import resolver_text
from oar_lxc.linux.run import run
from oar_lxc.model.config import read_config
from oar_lxc.model.description import session_of
from oar_lxc.model.layout import (
    CONFIG_FILE,
    DESCRIPTION_FILE,
    LOG_FILE,
    ONLINE_FILE,
    UPPER,
    WORK,
    JobLayout,
)
from oar_lxc.model.plan import PlannedContainer
from oar_lxc.model.published import PublishedJob

FIRST_BATCH = 4  # containers
LARGEST_BATCH = 64


def create_containers(
    launch: NodeLaunch, containers: Sequence[PlannedContainer]
) -> Iterator[list[str]]:
    """Make the directories of containers in batches; yield the names of each batch.

    The first batch is small: its containers can start while the next batch is made.

    Args:
        launch: what the containers have in common.
        containers: the containers to make on this node.

    Raises:
        SpecError: a mount is not possible, or the containers ask for more memory than the job has;
            nothing was made.
        OSError: a directory cannot be made; the disk or the user's quota is full.
        CommandError: a file of the containers' root cannot be made, for the same reasons.
    """
    published, directory = launch.published, launch.layout.containers
    account = _account(published)
    share = Share.of_node(published, launch.cores)
    check_memory(containers, job_memory(published, share))
    settings = _node_settings(launch, containers, share, account.home if account else "/")
    configs = {c.name: config_text(launch, c, settings[c.name]) for c in containers}
    files = LayerFiles(
        names=launch.names,
        keys=launch.keys,
        host_keys=launch.host_keys,
        account=account,
        resolver=resolver_text(_nameservers()),
        variables=launch.variables,
        nodefile=launch.nodefile,
        timezone=_timezone(),
    )
    filled: set[str] = set()
    for batch in _batches(containers):
        for planned in batch:
            description = description_of(planned, launch.session, files.environment(planned))
            description["host_key"] = launch.host_keys[planned.name].public
            texts = {
                DESCRIPTION_FILE: json.dumps(description) + "\n",
                CONFIG_FILE: configs[planned.name],
                ONLINE_FILE: settings[planned.name].cpus + "\n",
                **launch.link_files.get(planned.name, {}),
                LOG_FILE: "",  # so the user owns it; LXC writes to it as the containers' root
            }
            _make_directory(launch, planned, texts)
            make_limit_cgroups(published.cgroups, planned.name, settings[planned.name].limits)
        launch.layers.mkdir(exist_ok=True)
        os.chmod(launch.layers, 0o770)  # noqa: S103  # clears set-gid: nothing inherits the group
        archive = files.archive(launch.layers.name, batch, launch.images, filled)
        unpack = ["tar", "-xp", "--numeric-owner", "-C", str(directory)]
        run(unpack, input=archive, first=JobNamespaces(launch.layout).become_root)
        filled |= {planned.group for planned in batch}
        yield [planned.name for planned in batch]


def _node_settings(
    launch: NodeLaunch,
    containers: Sequence[PlannedContainer],
    share: Share,
    home: str,
) -> dict[str, NodeSettings]:
    """Return what each container gets of this node, by the container's name."""
    lxcfs = has_lxcfs()
    halts = {name: halt_signal_of_image(rootfs) for name, rootfs in launch.images.items()}
    limits = {planned.name: share.limits(planned) for planned in containers}
    return {
        planned.name: NodeSettings(
            limits=limits[planned.name],
            binds=binds_of(launch.published, planned, home, launch.rootfs(planned)),
            cpus=share.cpus_of(limits[planned.name]),
            lxcfs=lxcfs,
            halt=halts[planned.image],
        )
        for planned in containers
    }


def _batches(containers: Sequence[PlannedContainer]) -> Iterator[Sequence[PlannedContainer]]:
    """Yield a small batch, then larger ones: a start takes about 4 times as long as the making."""
    size, begin = FIRST_BATCH, 0
    while begin < len(containers):
        yield containers[begin : begin + size]
        begin += size
        size = min(4 * size, LARGEST_BATCH)


def _make_directory(
    launch: NodeLaunch, planned: PlannedContainer, texts: Mapping[str, str]
) -> None:
    """Make a container's directory with its files, whole or not at all.

    One of the files says to which session the container belongs: none may be without.
    """
    half = launch.layout.half_made(planned.name, launch.session)
    try:
        half.mkdir()
        os.chmod(half, 0o770)  # noqa: S103  # the containers' root has access as the group
        for file, text in texts.items():
            (half / file).write_text(text)
        half.rename(launch.directory(planned))
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


def description_of(
    planned: PlannedContainer, session: str, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return a container's description, which the agent's other operations read.

    See :func:`oar_lxc.model.description.read_description`.
    """
    data = {**asdict(planned), "session": session, "environment": dict(environment)}
    for key in ("provision", "provision_timeout", "ssh_keys"):
        del data[key]
    return data


def free_overlays(layout: JobLayout, names: Sequence[str]) -> None:
    """Let stopped containers start again, also those whose monitor was killed.

    Raises:
        CommandError: what is in the way cannot be removed.
    """
    marks = [overlay_mark(layout.containers / name) for name in names]
    if found := [str(mark) for mark in marks if mark.exists()]:
        run(["rm", "-rf", "--", *found], first=JobNamespaces(layout).become_root)


def remove_containers(layout: JobLayout, published: PublishedJob, names: Sequence[str]) -> None:
    """Remove the directories of stopped containers, with the files of the containers' root.

    Also remove the layers of sessions that have no other containers.

    Raises:
        CommandError: a file is left.
    """
    sessions = {session_of(layout.containers / name) for name in names}
    going = [layout.containers / name for name in names]
    used = {session_of(path) for path in layout.containers.iterdir() if path not in going}
    layers = [layout.layers(session) for session in sessions - used - {""}]
    paths = [path / part for path in going for part in (UPPER, WORK)] + layers
    with in_background(lambda: _remove_cgroups(layout, published, names)):
        if paths:
            with suppress(CommandError):  # if a file is left, the next command reports it
                argv = ["rm", "-rf", "--", *map(str, paths)]
                run(argv, first=JobNamespaces(layout).become_root)
            run(["rm", "-rf", "--", *map(str, going + layers)])


def remove_half_made(layout: JobLayout, published: PublishedJob, session: str) -> None:
    """Remove the directories that an interrupted session has not made completely.

    Raises:
        CommandError: a file is left.
    """
    ending = f".{session}"
    names = [n for n in os.listdir(layout.containers) if n[0] == "." and n.endswith(ending)]
    paths = [str(layout.containers / name) for name in names]
    if paths:
        with suppress(CommandError):  # if a file is left, the next command reports it
            argv = ["rm", "-rf", "--", *paths]
            run(argv, first=JobNamespaces(layout).become_root)
        run(["rm", "-rf", "--", *paths])


def _remove_cgroups(layout: JobLayout, published: PublishedJob, names: Sequence[str]) -> None:
    """Remove the cgroups of stopped containers; the job's end removes what is left."""
    if left := remove_limit_cgroups(published.cgroups, names, wait=0):
        with suppress(CommandError):  # it fails at cgroups that the containers' root does not own
            below = ["-mindepth", "1", "-depth", "-type", "d", "-delete"]
            run(["find", *left, *below], first=JobNamespaces(layout).become_root)
        remove_limit_cgroups(published.cgroups, names)


def _account(published: PublishedJob) -> AccountInside | None:
    """Return the account of the job's user; None if the containers do not map the user's id."""
    if not published.uid:
        return None
    known = pwd.getpwuid(published.uid)
    try:
        group = grp.getgrgid(published.gid).gr_name
    except KeyError:
        group = published.user
    return AccountInside(
        published.user,
        published.uid,
        published.gid,
        group,
        known.pw_gecos,
        known.pw_dir,
        known.pw_shell,
    )


def has_lxcfs(table: Path = Path("/proc/self/mounts")) -> bool:
    """Whether lxcfs is mounted on this node; look in a table, as lxcfs itself may hang."""
    return any(line.split(" ")[1:2] == [str(LXCFS)] for line in table.read_text().splitlines())


def _timezone(link: Path = Path("/etc/localtime")) -> str:
    """Return the name of the node's time zone; empty if it has none."""
    try:
        return os.readlink(link).partition("/zoneinfo/")[2]
    except OSError:
        return ""


def _nameservers() -> tuple[str, ...]:
    """Return the name servers of the administrator's configuration; none if it is not valid."""
    try:
        return read_config().nameservers
    except ConfigError:
        return ()
