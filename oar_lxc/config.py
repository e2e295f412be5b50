"""The administrator's configuration of a node: ``/etc/oar-lxc/oar-lxc.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from oar_lxc.errors import ConfigError
from oar_lxc.layout import CONFIG

PREPARE_BY = ("stanza", "prologue")
MAX_DEADLINE = 3600


@dataclass(frozen=True)
class Config:
    """What an administrator may set.

    Attributes:
        prepare: ``[hooks] prepare``: who prepares nodes and destroys on them: the ``stanza`` in
            front of OAR's job resource manager (every node, jobs of type lxc only), or the
            ``prologue`` and epilogue on the head node (every job, as they do not see types).
        deadline: ``[hooks] deadline``: seconds that a hook may take; OAR kills hooks at 60 by
            default (PROLOGUE_EPILOGUE_TIMEOUT), and a hook must have reported before that.
    """

    prepare: str = "stanza"
    deadline: float = 45.0


def read_config(path: Path = CONFIG) -> Config:
    """Read the configuration; a missing file means the defaults.

    Raises:
        ConfigError: not TOML, an unknown key, or a value that is not allowed.
    """
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return Config()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    hooks = data.pop("hooks", {})
    _refuse_unknown(path, data, ("hooks",), "")
    if not isinstance(hooks, dict):
        raise ConfigError(f"{path}: hooks is a table, written [hooks]")
    _refuse_unknown(path, hooks, ("prepare", "deadline"), "hooks.")
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
    return Config(prepare, float(deadline))


def _refuse_unknown(
    path: Path, table: dict[str, object], known: tuple[str, ...], prefix: str
) -> None:
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; known: {', '.join(known)}"
            raise ConfigError(f"{path}: unknown key {prefix}{key}{hint}")
