"""The administrator's configuration of a node: ``/etc/oar-lxc/oar-lxc.toml``."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from pathlib import Path, PurePath

from oar_lxc.errors import ConfigError
from oar_lxc.linux.regular import read_regular
from oar_lxc.model import idspans
from oar_lxc.model.addresses import POOL, PREFIX
from oar_lxc.model.hints import hint
from oar_lxc.model.layout import CONFIG, IMAGES, STATE
from oar_lxc.model.toml import parse_toml

PREPARE_BY = ("stanza", "prologue")
MAX_DEADLINE = 3600
LONGEST = 1 << 20  # bytes of the file at most
HOME = "/home"
NO_TREES = ("proc", "sys", "dev", "run", "etc", "boot")
TABLES = {
    "hooks": ("prepare", "deadline"),
    "network": ("pool", "nameservers"),
    "mounts": ("trees",),
    "images": ("store",),
    "ids": ("users",),
}


@dataclass(frozen=True)
class Config:
    """The settings of an administrator.

    Attributes:
        prepare: ``[hooks] prepare``: the hook that prepares and destroys. ``stanza`` runs in
            front of OAR's job resource manager, on every node and for jobs of type lxc only.
            ``prologue``, with the epilogue, runs on the head node and for every job, as it does
            not see types.
        deadline: ``[hooks] deadline``: seconds that a hook may take. OAR kills a hook after 60 by
            default (PROLOGUE_EPILOGUE_TIMEOUT), and the hook must report before that.
        pool: ``[network] pool``: the network that holds the jobs' subnets; the same on all nodes.
        nameservers: ``[network] nameservers``: addresses of the containers' name servers; by
            default those of the node that are not on its loopback.
        trees: ``[mounts] trees``: directories, such as those of homes and scratch space. A
            container may mount parts of them writable, with the user's rights.
        store: ``[images] store``: the directory of the public images. Nodes can share one on a
            shared file system.
        users: ``[ids] users``: the user ids that may have containers, as spans; see
            :mod:`oar_lxc.model.idspans`.
    """

    prepare: str = "stanza"
    deadline: float = 45.0
    pool: IPv4Network = POOL
    trees: tuple[str, ...] = (HOME,)
    store: Path = STATE / IMAGES
    users: tuple[idspans.Span, ...] = idspans.DEFAULT
    nameservers: tuple[str, ...] = ()


def read_config(path: Path = CONFIG) -> Config:
    """Read the configuration; a missing file means the defaults.

    Args:
        path: a file that root or the caller owns, or a link to one.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has an unknown key or a value that is not
            allowed.
    """
    try:
        content = read_regular(path, follow=True, owners={0, os.geteuid()}, most=LONGEST)
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return parse_config(content, path)


def lenient_config(path: Path = CONFIG) -> tuple[Config, str]:
    """Read the configuration for a destroy, which must go on even if the file is wrong.

    Returns:
        The configuration and an empty text; if the file is wrong, the defaults and the error.
    """
    try:
        return read_config(path), ""
    except ConfigError as error:
        return Config(), str(error)


def parse_config(content: bytes, path: Path = CONFIG) -> Config:
    """Return the configuration that a file's content sets.

    Args:
        content: UTF-8, with or without a byte order mark.
        path: the file, for errors.

    Raises:
        ConfigError: see :func:`read_config`.
    """
    try:
        data = parse_toml(content)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    _refuse_unknown(path, data, TABLES, "")
    for table in data:
        if not isinstance(data[table], dict):
            raise ConfigError(f"{path}: {table} is a table, written [{table}]")
        _refuse_unknown(path, data[table], TABLES[table], f"{table}.")
    hooks = data.get("hooks", {})
    prepare = hooks.get("prepare", Config.prepare)
    if prepare not in PREPARE_BY:
        raise ConfigError(
            f"{path}: hooks.prepare is {prepare!r}; allowed are {', '.join(PREPARE_BY)}"
        )
    deadline = hooks.get("deadline", Config.deadline)
    number = isinstance(deadline, int | float) and not isinstance(deadline, bool)
    if not number or not 1 <= deadline <= MAX_DEADLINE:
        raise ConfigError(
            f"{path}: hooks.deadline is {deadline!r}; it is a number of seconds from 1 to "
            f"{MAX_DEADLINE}"
        )
    pool = data.get("network", {}).get("pool", str(POOL))
    trees = _trees(path, data.get("mounts", {}).get("trees", [HOME]))
    store = data.get("images", {}).get("store", str(Config.store))
    users = idspans.DEFAULT
    if "users" in data.get("ids", {}):
        users = _users(path, data["ids"]["users"])
    servers = _nameservers(path, data.get("network", {}).get("nameservers", []))
    return Config(
        prepare,
        float(deadline),
        _pool(path, pool),
        trees,
        _store(path, store),
        users,
        servers,
    )


def _pool(path: Path, text: object) -> IPv4Network:
    try:
        pool = IPv4Network(text) if isinstance(text, str) else None
    except ValueError:
        pool = None
    if pool is None or pool.prefixlen > PREFIX:
        raise ConfigError(
            f"{path}: network.pool is {text!r}; it is an IPv4 network such as {POOL}, with a "
            f"prefix length of {PREFIX} at most"
        )
    return pool


def _nameservers(path: Path, found: object) -> tuple[str, ...]:
    try:
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise ValueError  # a number would be taken for an address
        return tuple(str(ip_address(one)) for one in found)
    except ValueError:
        raise ConfigError(
            f"{path}: network.nameservers is {found!r}; it is a list of addresses such as "
            '["192.0.2.53"]'
        ) from None


def _trees(path: Path, found: object) -> tuple[str, ...]:
    """Check trees only by their names, as a system call on a dead mount may block."""
    if not isinstance(found, list):
        raise ConfigError(f'{path}: mounts.trees is {found!r}; it is a list such as ["{HOME}"]')
    for tree in found:
        if not isinstance(tree, str) or not _is_tree(tree):
            raise ConfigError(
                f"{path}: mounts.trees has {tree!r}; it is a list of directories such as "
                f'["{HOME}"], absolute and not of the system itself'
            )
    return tuple(dict.fromkeys(found))


def _is_tree(tree: str) -> bool:
    parts = PurePath(tree).parts
    plain = tree == os.path.normpath(tree) and parts[:1] == ("/",)
    # A tree above the state directory would show other jobs' mounts.
    ours = STATE.is_relative_to(tree) or PurePath(tree).is_relative_to(STATE)
    return plain and not ours and parts[1] not in NO_TREES


def _store(path: Path, text: object) -> Path:
    if isinstance(text, str) and "\0" not in text:
        store = Path(text)
        if store.is_absolute() and ".." not in store.parts and store != Path("/"):
            return store
    raise ConfigError(f"{path}: images.store is {text!r}; it is the absolute path of a directory")


def _users(path: Path, found: object) -> tuple[idspans.Span, ...]:
    try:
        if not isinstance(found, list):
            raise ValueError("no list")
        return idspans.parse_spans(found)
    except ValueError as error:
        raise ConfigError(
            f"{path}: ids.users is {found!r}: {error}; it is a list of user ids such as "
            '["1000-1999", "20017"]'
        ) from None


def _refuse_unknown(path: Path, table: Iterable[str], known: Collection[str], prefix: str) -> None:
    for key in table:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {prefix}{key}; {hint(key, known, prefix)}")
