"""The roles frontend and node: machines that join a cluster with the server's bundle."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from oar_lxc.image.building import build
from oar_lxc.image.store import DIRECTORY as IMAGE_STORE
from oar_lxc.image.store import Store
from oar_lxc.linux.regular import read_regular
from oar_lxc.linux.removal import remove_tree
from oar_lxc.linux.run import run
from oar_lxc.model.config import LONGEST, PREPARE_BY, parse_config, read_config
from oar_lxc.model.image_name import ImageName
from oar_lxc.model.layout import CONFIG, STATE, STORE
from oar_lxc.root.grants import USERNET
from oar_lxc.root.oar_files import CPUSET
from oar_lxc.setup import (
    files,
    ids,
    keys,
    lxcfs,
    network,
    oarconf,
    packages,
    requirements,
    services,
    units,
)
from oar_lxc.setup.bundle import PATH as BUNDLE
from oar_lxc.setup.bundle import Bundle
from oar_lxc.setup.server import CPUSET_PATH, cpuset
from oar_lxc.setup.steps import Plan, SetupError, Step

PORT = 6667
OAR_LOCK = Path("/var/lib/oar/job_manager_lock_file")  # for init and clean of all jobs
SSHD_CONFIG = Path("/etc/oar/sshd_config")
DIRECTORIES = (
    (STATE, 0o755),
    (STATE / "records", 0o700),
    (STATE / "jobs", 0o711),
    (STATE / STORE, 0o700),
)


_PREPARE = re.compile(r"""(prepare["']?\s*=\s*)("[^"]*"|'[^']*')""")


@dataclass(frozen=True)
class Options:
    """The administrator's choices for a frontend or a node.

    Attributes:
        bundle: the server's bundle.
        settings: more keys of ``oar.conf``.
        prepare: the hook that prepares a node; if empty, the bundle's choice.
        images: images to build on a node if they are missing.
    """

    bundle: Path = BUNDLE
    settings: Mapping[str, str] = field(default_factory=dict)
    prepare: str = ""
    images: Sequence[str] = ()


def frontend_plan(options: Options) -> Plan:
    """Return the plan for a frontend, from which users submit jobs."""
    bundle = Bundle.read(options.bundle)
    return Plan(
        "frontend",
        [
            requirements.is_debian(),
            packages.installed(packages.FRONTEND),
            _oar_conf(bundle, options, bundle.database),
            *_keys(bundle),
        ],
    )


def node_plan(options: Options) -> Plan:
    """Return the plan for a node."""
    bundle = Bundle.read(options.bundle)
    prepare = options.prepare or bundle.prepare
    return Plan(
        "node",
        [
            requirements.is_debian(),
            *([requirements.cgroups_are_usable(), _no_directory()] if bundle.cpuset_path else []),
            requirements.storage_is_real(STATE),
            packages.installed(packages.NODE),
            _oar_conf(bundle, options, {}),
            *_keys(bundle),
            # OAR would make it readable for all users, and a user who can read it can lock it.
            files.own_file("nobody but OAR holds its lock", OAR_LOCK, "", 0o600, "oar", "oar"),
            files.own_file(
                "OAR's sshd has the cluster's host key", keys.HOST_KEY, bundle.host_private, 0o600
            ),
            files.own_file(
                "OAR's sshd has the public host key",
                keys.HOST_KEY.with_name(keys.HOST_KEY.name + ".pub"),
                bundle.host_public,
            ),
            services.running(
                "oar-node",
                reads=lambda: [SSHD_CONFIG, keys.HOST_KEY],
                answers=lambda: _presents(bundle.host_public),
            ),
            _config(prepare),
            *(
                files.directory(f"{path} is there", path, mode)
                for path, mode in (*DIRECTORIES, (IMAGE_STORE, 0o755))
            ),
            _usernet_exists(),
            *network.steps(),
            *lxcfs.steps(),
            *units.steps(),
            *(_image(name) for name in options.images),
        ],
        [*network.notes(), *ids.notes()],
    )


def _oar_conf(bundle: Bundle, options: Options, database: Mapping[str, str]) -> Step:
    def configure(text: str) -> str:
        conf = oarconf.OarConf(text).update(database).set("SERVER_HOSTNAME", bundle.server)
        conf = cpuset(conf, bundle.cpuset_path and CPUSET_PATH)
        if bundle.cpuset_path:
            conf = conf.set("CPUSET_PATH", bundle.cpuset_path)
        return conf.update(options.settings).text

    return files.edited_file(
        "oar.conf says where the server is", oarconf.PATH, configure, "oar-common"
    )


def _keys(bundle: Bundle) -> list[Step]:
    return [
        *keys.oar_account_has(bundle.oar_private, bundle.oar_public),
        keys.oar_lets_itself_in(lambda: bundle.oar_public),
        *keys.oar_knows_the_nodes(lambda: bundle.host_public),
    ]


def _config(prepare: str) -> Step:
    """Make the step that sets the hook that prepares; the administrator's other settings stay."""
    if prepare not in PREPARE_BY:
        raise SetupError(f"nodes are prepared by {' or '.join(PREPARE_BY)}, not by {prepare!r}")
    title = f"nodes are prepared by the {prepare}"
    return files.own_file(title, CONFIG, lambda: _config_text(prepare))


def _config_text(prepare: str) -> str:
    try:
        content = read_regular(CONFIG, follow=True, most=LONGEST)
    except FileNotFoundError:
        content = b"# See the administrator's guide; every key has a default.\n"
    except OSError as error:
        raise SetupError(f"{CONFIG}: {error.strerror}: mend or remove it") from error
    parse_config(content, CONFIG)  # the administrator has to mend a wrong file
    return with_prepare(content.decode().replace("\r\n", "\n"), prepare)


def with_prepare(text: str, prepare: str) -> str:
    """Return a configuration with another ``hooks.prepare``; other values and comments stay.

    TOML has several forms of tables, and the file may use any. So this tries each place where the
    value may stand, and parses the result. It takes the first result in which only this value
    differs.

    Args:
        text: a valid configuration, with newlines alone at the ends of lines.
        prepare: the value.

    Raises:
        SetupError: no place is right; the message says what to write by hand.
    """
    import tomllib

    mark = "\ufeff" if text.startswith("\ufeff") else ""
    text = text.removeprefix(mark)
    wanted = tomllib.loads(text)
    hooks = wanted.setdefault("hooks", {})
    if hooks.get("prepare") == prepare:
        return mark + text
    hooks["prepare"] = prepare
    for new in _with_line(text, f'prepare = "{prepare}"'):
        with suppress(tomllib.TOMLDecodeError):
            if tomllib.loads(new) == wanted:
                return mark + new
    raise SetupError(
        f'{CONFIG}: cannot be changed safely: write prepare = "{prepare}" into its table hooks '
        "by hand, and run set-up again"
    )


def _with_line(text: str, line: str) -> Iterator[str]:
    """Yield a text for each place where a line of the table hooks may stand."""
    lines = text.split("\n")
    if lines[-1]:
        lines.append("")  # the last line ends with a newline
    value = line.partition(" = ")[2]
    for number, old in enumerate(lines):
        for new in (
            [_PREPARE.sub(rf"\g<1>{value}", old, count=1)],
            [old, line],  # below the table's header
            [f"hooks.{line}", old],  # before other dotted keys
            [re.sub(r"(=\s*\{)", rf"\g<1> {line},", old, count=1)],  # into an inline table
            [re.sub(r"(=\s*\{)\s*\}", rf"\g<1> {line} }}", old, count=1)],
        ):
            if "hooks" in old or "prepare" in old:
                yield "\n".join([*lines[:number], *new, *lines[number + 1 :]])
    yield "\n".join([*lines[:-1], "[hooks]", line, ""])


def _no_directory() -> Step:
    """Make the step that removes a directory, left from a time without cpuset, for OAR's link."""

    def pending() -> str | None:
        in_the_way = not CPUSET.is_symlink() and CPUSET.is_dir() and not CPUSET.is_mount()
        return f"{CPUSET}: remove the directory" if in_the_way else None

    return Step(f"OAR can make {CPUSET}", pending, lambda: remove_tree(CPUSET))


def _usernet_exists() -> Step:
    """Make the step about the file that lists the users who may attach containers to bridges."""

    def pending() -> str | None:
        return None if USERNET.exists() else f"{USERNET}: make it, empty"

    def apply() -> None:
        USERNET.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(USERNET, b"", 0o644)

    return Step(f"{USERNET} is there", pending, apply)


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
        with socket.create_connection(("127.0.0.1", PORT), timeout=2):
            pass
    except OSError:
        return False
    scan = run(["ssh-keyscan", "-T", "5", "-t", "rsa", "-p", str(PORT), "127.0.0.1"], check=False)
    return host_public.split()[1] in scan.stdout
