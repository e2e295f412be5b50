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

from dataclasses import fields
from pathlib import Path
from typing import Any

from oar_lxc.errors import SpecError
from oar_lxc.model.arguments import shown
from oar_lxc.model.hints import refuse_unknown
from oar_lxc.model.spec import Group, Spec
from oar_lxc.model.toml import parse_toml

GROUP = "group"
TOP_KEYS = (*(f.name for f in fields(Spec) if f.name != "groups"), GROUP)
GROUP_KEYS = tuple(f.name for f in fields(Group))
LONGEST = 1 << 20  # bytes of a spec file, a script or a key


def read_spec(path: Path) -> Spec:
    """Read a spec file, and the scripts and keys whose paths it has, relative to its directory.

    Raises:
        SpecError: it cannot be read, is not TOML, or has an unknown key or a value that is not
            allowed; the sentence names the file, the group, key and value, and what is allowed.
    """
    try:
        data = parse_toml(_read(path))
    except ValueError as error:
        raise SpecError(f"{path}: {error}") from error
    refuse_unknown(str(path), data, TOP_KEYS)
    tables = data.pop(GROUP, None)
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SpecError(f"{path}: there is no group: write a table [[{GROUP}]] for each")
    groups = tuple(_group(path, table, number) for number, table in enumerate(tables, 1))
    try:
        return Spec(groups, **data)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


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
        return _read(path).decode("utf-8-sig")  # editors of Windows write a byte order mark
    except UnicodeDecodeError:
        raise SpecError(f"{key} has {shown(name)}, and {path} is no text in UTF-8") from None
    except (SpecError, RuntimeError, ValueError) as error:
        raise SpecError(f"{key} has {shown(name)}, and {error}") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > LONGEST:
        raise SpecError(f"{path} is larger than {LONGEST >> 20} MiB")
    return content
