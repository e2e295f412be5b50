"""Read a spec file: TOML with the keys of :class:`~oar_lxc.model.spec.Spec` and a table per group.

::

    wait = "ssh"

    [[group]]
    name = "web"
    image = "debian-12"
    per_node = 2
    memory = "512M"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from oar_lxc.errors import SpecError
from oar_lxc.model.arguments import shown
from oar_lxc.model.hints import refuse_unknown
from oar_lxc.model.links import LINK_KEYS, Link
from oar_lxc.model.names import MAIN
from oar_lxc.model.networks import Main, Network
from oar_lxc.model.spec import Group, Spec
from oar_lxc.model.toml import parse_toml

GROUP, NETWORK, LINK = "group", "network", "link"
TOP_KEYS = ("wait", "timeout", GROUP, NETWORK, LINK, MAIN)
GROUP_KEYS = tuple(f.name for f in fields(Group))
NETWORK_KEYS = tuple(f.name for f in fields(Network))
MAIN_KEYS = tuple(f.name for f in fields(Main))
T = TypeVar("T")
LONGEST = 1 << 20  # bytes of a spec file, a script or a key


def read_spec(path: Path) -> Spec:
    """Read a spec file, and the scripts and keys whose paths it has, relative to its directory.

    Raises:
        SpecError: it cannot be read, is not TOML, or has an unknown key or a value that is not
            allowed; the sentence names the file, the group, key and value, and what is allowed.
    """
    try:
        data = parse_toml(read_text(path))
    except ValueError as error:
        raise SpecError(f"{path}: {error}") from error
    refuse_unknown(str(path), data, TOP_KEYS)
    tables = data.pop(GROUP, None)
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SpecError(f"{path}: there is no group: write a table [[{GROUP}]] for each")
    groups = tuple(_group(path, table, number) for number, table in enumerate(tables, 1))
    networks = _tables(path, data.pop(NETWORK, []), NETWORK, NETWORK_KEYS, lambda t: Network(**t))
    links = _tables(path, data.pop(LINK, []), LINK, LINK_KEYS, Link.from_table)
    main = _tables(path, _listed(data.pop(MAIN, {})), MAIN, MAIN_KEYS, lambda t: Main(**t))
    try:
        return Spec(groups, networks=networks, links=links, main=main[0], **data)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def _listed(value: object) -> object:
    """Return the table [main] as if it were one of several; anything else as it is."""
    return [value] if isinstance(value, dict) else value


def _tables(
    path: Path,
    tables: object,
    kind: str,
    known: tuple[str, ...],
    make: Callable[[dict[str, Any]], T],
) -> tuple[T, ...]:
    """Make a value of each table of a kind.

    Raises:
        SpecError: they are no tables, or one is wrong; the sentence has its name or number.
    """
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        written = f"[{MAIN}]" if kind == MAIN else f"[[{kind}]] for each"
        raise SpecError(f"{path}: {kind} is {shown(tables)}; write a table {written}")
    if kind == MAIN and len(tables) != 1:
        raise SpecError(f"{path}: there are several tables {MAIN}: write one, [{MAIN}]")
    made = []
    for number, table in enumerate(tables, 1):
        called = table.get("name")
        word = called if isinstance(called, str) and called else number
        where = f"{path}, {kind}" if kind == MAIN else f"{path}, {kind} {word}"
        refuse_unknown(where, table, known)
        try:
            made.append(make(table))
        except SpecError as error:
            raise SpecError(f"{where}: {error}") from None
    return tuple(made)


def _group(path: Path, table: dict[str, Any], number: int) -> Group:
    called = table.get("name")
    where = f"{path}, group {called if isinstance(called, str) and called else number}"
    refuse_unknown(where, table, GROUP_KEYS)
    try:
        if isinstance(name := table.get("provision"), str):
            table["provision"] = _text("provision", path.parent, name)
        if isinstance(table.get("ssh_keys"), list):
            table["ssh_keys"] = [_key(path.parent, key) for key in table["ssh_keys"]]
        return Group(**table)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def _key(directory: Path, key: object) -> object:
    """Return a public key; read it from its file if a path is given."""
    if isinstance(key, str) and key.endswith(".pub") and " " not in key:
        return _text("ssh_keys", directory, key).strip()
    return key


def _text(key: str, directory: Path, name: str) -> str:
    """Return the text of a file that a key names."""
    try:
        path = directory / Path(name).expanduser()
        return read_text(path).decode("utf-8-sig")  # editors of Windows write a byte order mark
    except UnicodeDecodeError:
        raise SpecError(f"{key} has {shown(name)}, and {path} is no text in UTF-8") from None
    except (SpecError, RuntimeError, ValueError) as error:
        raise SpecError(f"{key} has {shown(name)}, and {error}") from None


def read_text(path: Path) -> bytes:
    """Return the bytes of a file that a user wrote.

    Raises:
        SpecError: it cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > LONGEST:
        raise SpecError(f"{path} is larger than {LONGEST >> 20} MiB")
    return content
