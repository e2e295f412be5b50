"""The role server: OAR's daemons, its database, and the bundle for the other machines."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oar_lxc.oar import paths
from oar_lxc.oar.paths import CONF
from oar_lxc.setup import (
    admission,
    database,
    files,
    keys,
    oar_version,
    oarconf,
    packages,
    requirements,
    resources,
    services,
    units,
)
from oar_lxc.setup import stanza as jrm
from oar_lxc.setup.bundle import BUNDLE, Bundle
from oar_lxc.setup.steps import NotYetError, SetupPlan, Step

CPUSET_PATH = "/oar"
PORT = 6666
PING = "PINGCHECKER_TAKTUK_ARG_COMMAND"
# Where the check's query is, by OAR's version: user oar has only some of that in its path.
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/oar"
# OAR's ping of a node also fails if the node's checks fail.
_PING = "broadcast exec timeout 20 kill 9 [ 'test ! -d {logs} || {query}' ]"
PING_AND_CHECK = _PING.format(logs=paths.CHECK_LOGS, query=f"env PATH={_PATH} oarnodecheckquery")
FORMER_PING = _PING.format(logs=paths.CHECK_LOGS, query="oarnodecheckquery")
# Keys that select how OAR pings, without the key that Debian's oar.conf sets.
OTHER_PINGS = [f"PINGCHECKER_{kind}_COMMAND" for kind in ("FPING", "NMAP", "GENERIC")]
SHARED_HOST_KEY = keys.ETC / "oar_ssh_host_rsa_key"
HOOKS = {
    "PROLOGUE_EXEC_FILE": "/usr/share/oar-lxc/hooks/prologue",
    "EPILOGUE_EXEC_FILE": "/usr/share/oar-lxc/hooks/epilogue",
}


@dataclass(frozen=True)
class Options:
    """The administrator's choices for the server.

    Attributes:
        nodes: nodes whose cores become resources.
        networks: networks of the cluster's machines, which may reach the database.
        hostname: the name by which nodes reach the server; if empty, the configured name, or else
            this machine's.
        cpuset: whether OAR confines jobs to their CPUs.
        stanza: whether the job resource manager has the stanza.
        settings: more keys of ``oar.conf``.
        bundle: the path of the bundle to write.
    """

    nodes: Sequence[resources.Node] = ()
    networks: Sequence[database.Network] = ()
    hostname: str = ""
    cpuset: bool = True
    stanza: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)
    bundle: Path = BUNDLE

    @property
    def prepare(self) -> str:
        """The hook that prepares nodes."""
        return "stanza" if self.stanza else "prologue"


def make_plan(options: Options) -> SetupPlan:
    """Return the plan for an OAR server."""
    plan = SetupPlan("server", [])
    keep_passwords: dict[str, str] = {}

    def configure(text: str) -> str:
        if not options.cpuset:
            oar_version.require_optional_cpuset()
        return _configured(oarconf.OarConf(text), options, keep_passwords, plan.notes).text

    plan.steps = [
        requirements.is_debian(),
        *([] if options.cpuset else [_cpuset_is_optional()]),
        packages.installed(packages.SERVER),
        # Before oar.conf names the combined file, as it then no longer names the site's own file.
        *_job_resource_manager(options),
        files.edited_file("oar.conf says what OAR needs", CONF, configure, "oar-common"),
        *database.reachable(options.networks),
        services.running("postgresql", reads=_postgres_files, reader=database.cluster_unit),
        database.created(),
        resources.properties_exist(),
        *([resources.resources_exist(options.nodes)] if options.nodes else []),
        *admission.server_steps(),
        *_keys(),
        _bundle(options),
        services.running("oar-server", reads=lambda: [CONF], answers=_answers),
        *units.server_steps(),
    ]
    return plan


def _cpuset_is_optional() -> Step:
    return Step("OAR runs without its cpuset", oar_version.require_optional_cpuset)


def _configured(
    conf: oarconf.OarConf, options: Options, passwords: dict[str, str], notes: list[str]
) -> oarconf.OarConf:
    """Return the ``oar.conf`` of the server; all other keys stay as they are."""
    # Passwords are made only once, so that the text shown is the text written.
    for key, password in database.DatabaseSettings.of(conf).with_passwords().items():
        passwords.setdefault(key, password)
        conf = conf.set(key, passwords[key])
    conf = conf.set("SERVER_HOSTNAME", _hostname(conf, options))
    conf = conf.restore("TAKTUK_CMD", "/usr/bin/taktuk -t 30 -s")
    notes.clear()
    conf = _with_node_check(conf, notes)
    for key, ours in HOOKS.items():
        site = conf.get(key)
        if site in (None, "", ours):
            conf = conf.set(key, ours)
        else:
            notes.append(f'{key} is {site}, and stays. Add this line to it:\n    {ours} "$@"')
    site_jrm = jrm.site_file(conf)
    conf = conf.set(jrm.KEY, str(jrm.COMBINED if options.stanza else site_jrm))
    return cpuset(conf, CPUSET_PATH if options.cpuset else "").update(options.settings)


def _with_node_check(conf: oarconf.OarConf, notes: list[str]) -> oarconf.OarConf:
    """Let OAR's ping of a node fail if the node's checks fail; keep a site's own ping command."""
    site = next((key for key in (PING, *OTHER_PINGS) if conf.get(key)), None)
    if site is None or conf.get(site) == FORMER_PING:
        return conf.set(PING, PING_AND_CHECK)
    if site != PING or "oarnodecheckquery" not in str(conf.get(PING)):
        notes.append(
            f"{site} is {conf.get(site)}, and stays. For OAR to heed the checks of nodes, its "
            "pings have to run oarnodecheckquery there"
        )
    return conf


def cpuset(conf: oarconf.OarConf, path: str) -> oarconf.OarConf:
    """Turn OAR's cpuset on or off; all machines of a cluster must agree.

    Args:
        conf: the machine's ``oar.conf``.
        path: ``CPUSET_PATH`` to set if none is set; empty turns the cpuset off.
    """
    if not path:
        return conf.unset("CPUSET_PATH").set("OARSUB_FORCE_JOB_KEY", "yes")
    if conf.get("CPUSET_PATH") is not None:
        return conf
    # The cpuset was off: restore the setting of job keys from before.
    before = oarconf.read(files.backup_of(CONF)).get("OARSUB_FORCE_JOB_KEY") or "no"
    return conf.restore("CPUSET_PATH", path).set("OARSUB_FORCE_JOB_KEY", before)


def _hostname(conf: oarconf.OarConf, options: Options) -> str:
    current = conf.get("SERVER_HOSTNAME")
    if options.hostname:
        return options.hostname
    return socket.gethostname() if current in (None, "", *database.LOCAL) else str(current)


def _postgres_files() -> list[Path]:
    main = database.cluster_directory()
    return [main / "conf.d/oar-lxc.conf", main / "pg_hba.conf"]


def _job_resource_manager(options: Options) -> list[Step]:
    if not options.stanza:
        return []

    def text() -> str:
        return jrm.combine(jrm.site_file(oarconf.read()))

    return [files.own_file("the job resource manager has the stanza", jrm.COMBINED, text)]


def _keys() -> list[Step]:
    def oar_public() -> str:
        return keys.read_public(paths.SSH_DIRECTORY / "id_rsa")

    def host_public() -> str:
        return keys.read_public(SHARED_HOST_KEY)

    return [
        keys.key_pair_exists(
            "user oar has a key", paths.SSH_DIRECTORY / "id_rsa", "oar", "oar", "oar"
        ),
        keys.key_pair_exists(
            "the nodes have one host key for port 6667",
            SHARED_HOST_KEY,
            "root",
            "root",
            "oar-nodes",
        ),
        keys.oar_lets_itself_in(oar_public),
        *keys.oar_knows_the_nodes(host_public),
    ]


def _bundle(options: Options) -> Step:
    def pending() -> str | None:
        wanted = _make_bundle(options).to_bytes()
        try:
            same = options.bundle.read_bytes() == wanted
        except FileNotFoundError:
            same = False
        if same and options.bundle.stat().st_mode & 0o077 == 0:
            return None
        return f"{options.bundle}: write it (secrets: root alone may read it)"

    def apply() -> None:
        options.bundle.parent.mkdir(parents=True, exist_ok=True)
        files.write_through(options.bundle, _make_bundle(options).to_bytes(), 0o600)

    return Step(f"{options.bundle} has what the other machines need", pending, apply)


def _make_bundle(options: Options) -> Bundle:
    conf = oarconf.read()
    settings = database.current()
    server = conf.get("SERVER_HOSTNAME") or ""
    try:
        oar_private = (paths.SSH_DIRECTORY / "id_rsa").read_text()
        host_private = SHARED_HOST_KEY.read_text()
    except FileNotFoundError as error:
        raise NotYetError(f"{error.filename} is not made yet") from None
    return Bundle(
        server=server,
        database=settings.for_machine(server),
        cpuset_path=conf.get("CPUSET_PATH") or "",
        prepare=options.prepare,
        oar_private=oar_private,
        oar_public=keys.read_public(paths.SSH_DIRECTORY / "id_rsa"),
        host_private=host_private,
        host_public=keys.read_public(SHARED_HOST_KEY),
    )


def _answers() -> bool:
    port = int(oarconf.read().get("SERVER_PORT") or PORT)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False
