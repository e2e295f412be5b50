"""Make a node's share of a plan on disk: configurations, and files that containers' root owns.

What must belong to the containers' root is unpacked from one tar stream inside the job's user
namespace, for all containers in one go.
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
from oar_lxc.container.launch import Launch, layers_of
from oar_lxc.container.layer import Account, Skeleton
from oar_lxc.container.limit_cgroups import make_walls, remove_walls
from oar_lxc.container.limits import Share
from oar_lxc.container.lxc_config import (
    LXCFS,
    NEIGHBOURS_FILE,
    ONLINE_FILE,
    UPPER,
    WORK,
    Means,
    neighbours_text,
    render,
)
from oar_lxc.errors import CommandError, ConfigError
from oar_lxc.image.provide import halt_signal
from oar_lxc.linux.concurrent import beside
from oar_lxc.linux.resolver import resolver_text
from oar_lxc.linux.run import run
from oar_lxc.model.config import read_config
from oar_lxc.model.description import CONFIG_FILE, DESCRIPTION_FILE, session_of
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.plan import PlannedContainer
from oar_lxc.model.published import PublishedJob

FIRST_BATCH = 4  # containers
LARGEST_BATCH = 64


def create_containers(
    launch: Launch, containers: Sequence[PlannedContainer]
) -> Iterator[list[str]]:
    """Make the directories of containers, and yield the names of those that can be started.

    The first few are there at once; while they start, more are made.

    Args:
        launch: what they have in common.
        containers: those of this node.

    Raises:
        SpecError: something that is to be mounted cannot be, or more memory is asked for than the
            job has; nothing was made.
        OSError: a directory cannot be made; the disk or the user's quota is full.
        CommandError: the same, for what containers' root owns.
    """
    published, directory = launch.published, launch.layout.containers
    account = _account(published)
    share = Share.of_node(published, launch.cores)
    check_memory(containers, job_memory(published, share))
    neighbours = neighbours_text([ip for ip, _ in launch.names.values()], len(containers))
    means = _means(launch, containers, share, account.home if account else "/", bool(neighbours))
    configs = {c.name: render(launch, c, means[c.name]) for c in containers}
    skeleton = Skeleton(
        names=launch.names,
        keys=launch.keys,
        host_keys=launch.host_keys,
        account=account,
        ids=published.ids,
        resolver=resolver_text(_nameservers()),
        variables=launch.variables,
        nodefile=launch.nodefile,
        timezone=_timezone(),
    )
    filled: set[str] = set()
    for batch in _batches(containers):
        for planned in batch:
            description = describe(planned, launch.session, skeleton.environment(planned))
            description["host_key"] = launch.host_keys[planned.name].public
            texts = {
                DESCRIPTION_FILE: json.dumps(description) + "\n",
                CONFIG_FILE: configs[planned.name],
                ONLINE_FILE: means[planned.name].cpus + "\n",
            }
            _make_directory(directory, planned.name, launch.session, texts)
            make_walls(published.cgroups, planned.name, means[planned.name].limits)
        launch.layers.mkdir(exist_ok=True)
        os.chmod(launch.layers, 0o770)  # noqa: S103  # and no directory below inherits its group
        if neighbours and not filled:
            told = launch.layers / NEIGHBOURS_FILE
            told.write_text(neighbours)
            told.chmod(0o644)  # whose directory lets in none but the user and containers' root
        archive = skeleton.archive(launch.layers.name, batch, launch.images, filled)
        unpack = ["tar", "-xp", "--numeric-owner", "-C", str(directory)]
        in_user_namespace(published, unpack, archive)
        filled |= {planned.group for planned in batch}
        yield [planned.name for planned in batch]


def _means(
    launch: Launch,
    containers: Sequence[PlannedContainer],
    share: Share,
    home: str,
    neighbours: bool,
) -> dict[str, Means]:
    """Return what each container is given of this node, by its name."""
    lxcfs = has_lxcfs()
    halts = {name: halt_signal(rootfs) for name, rootfs in launch.images.items()}
    limits = {planned.name: share.limits(planned) for planned in containers}
    return {
        planned.name: Means(
            limits=limits[planned.name],
            binds=binds_of(launch.published, planned, home, launch.rootfs(planned)),
            cpus=share.cpus_of(limits[planned.name]),
            lxcfs=lxcfs,
            halt=halts[planned.image],
            neighbours=neighbours,
        )
        for planned in containers
    }


def _batches(containers: Sequence[PlannedContainer]) -> Iterator[Sequence[PlannedContainer]]:
    """Yield a few, then more: one takes some four times as long to start as to make."""
    size, begin = FIRST_BATCH, 0
    while begin < len(containers):
        yield containers[begin : begin + size]
        begin += size
        size = min(4 * size, LARGEST_BATCH)


def _make_directory(containers: Path, name: str, session: str, texts: Mapping[str, str]) -> None:
    """Make a container's directory with its files: whole or not at all, as it says whose it is."""
    half = containers / f".{name}.{session}"
    try:
        half.mkdir()
        os.chmod(half, 0o770)  # noqa: S103  # containers' root enters by the group
        for file, text in texts.items():
            (half / file).write_text(text)
        half.rename(containers / name)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


def describe(
    planned: PlannedContainer, session: str, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return what is kept of a plan: :func:`oar_lxc.model.description.read_description`."""
    data = {**asdict(planned), "session": session, "environment": dict(environment)}
    for key in ("provision", "provision_timeout", "ssh_keys"):
        del data[key]
    return data


def remove_containers(layout: JobLayout, published: PublishedJob, names: Sequence[str]) -> None:
    """Remove the directories of stopped containers, what their root owns included.

    The layers of sessions that have no containers any more go with them.

    Raises:
        CommandError: something is left of them.
    """
    sessions = {session_of(layout.containers / name) for name in names}
    going = [layout.containers / name for name in names]
    used = {session_of(path) for path in layout.containers.iterdir() if path not in going}
    layers = [layout.containers / layers_of(session) for session in sessions - used - {""}]
    paths = [path / part for path in going for part in (UPPER, WORK)] + layers
    with beside(lambda: _remove_cgroups(published, names)):
        if paths:
            with suppress(CommandError):  # what it leaves, the next one tells of
                in_user_namespace(published, ["rm", "-rf", "--", *map(str, paths)])
            run(["rm", "-rf", "--", *map(str, going + layers)])


def remove_half_made(layout: JobLayout, published: PublishedJob, session: str) -> None:
    """Remove what a session had begun to make when it was cut off.

    Raises:
        CommandError: something is left of it.
    """
    ending = f".{session}"
    names = [n for n in os.listdir(layout.containers) if n[0] == "." and n.endswith(ending)]
    paths = [str(layout.containers / name) for name in names]
    if paths:
        with suppress(CommandError):  # what it leaves, the next one tells of
            in_user_namespace(published, ["rm", "-rf", "--", *paths])
        run(["rm", "-rf", "--", *paths])


def _remove_cgroups(published: PublishedJob, names: Sequence[str]) -> None:
    """Remove the cgroups of stopped containers; the job's end removes what is left."""
    if left := remove_walls(published.cgroups, names, wait=0):
        with suppress(CommandError):  # there may be more than is theirs
            below = ["-mindepth", "1", "-depth", "-type", "d", "-delete"]
            in_user_namespace(published, ["find", *left, *below])
        remove_walls(published.cgroups, names)


def in_user_namespace(
    published: PublishedJob, argv: Sequence[str], input: bytes | None = None
) -> None:
    """Run a program as the containers' root, in a user namespace with the job's ids."""
    run(in_user_namespace_argv(published, argv), input=input)


def in_user_namespace_argv(published: PublishedJob, argv: Sequence[str]) -> list[str]:
    """Return the command by which :func:`in_user_namespace` runs a program."""
    return ["lxc-usernsexec", *published.ids.arguments(), "--", *argv]


def _account(published: PublishedJob) -> Account | None:
    """Return the job's user, as containers are to know that user."""
    if not published.uid:
        return None
    known = pwd.getpwuid(published.uid)
    try:
        group = grp.getgrgid(published.gid).gr_name
    except KeyError:
        group = published.user
    return Account(
        published.user,
        published.uid,
        published.gid,
        group,
        known.pw_gecos,
        known.pw_dir,
        known.pw_shell,
    )


def has_lxcfs(table: Path = Path("/proc/self/mounts")) -> bool:
    """Whether lxcfs is mounted on this node; it is not asked, as it may not answer."""
    return any(line.split(" ")[1:2] == [str(LXCFS)] for line in table.read_text().splitlines())


def _timezone(link: Path = Path("/etc/localtime")) -> str:
    """Return the name of the node's time zone; empty where it has none."""
    try:
        return os.readlink(link).partition("/zoneinfo/")[2]
    except OSError:
        return ""


def _nameservers() -> tuple[str, ...]:
    """Return the name servers that the administrator names; none where the file is not usable."""
    try:
        return read_config().nameservers
    except ConfigError:
        return ()
