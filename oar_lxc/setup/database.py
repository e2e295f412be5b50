"""Steps about OAR's PostgreSQL database: create it, and let the cluster's machines reach it."""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from oar_lxc.linux.run import Result, run
from oar_lxc.oar.paths import CONF
from oar_lxc.setup import files, oarconf
from oar_lxc.setup.oar_version import installed_version
from oar_lxc.setup.steps import NotYetError, SetupError, Step, all_of

ETC = Path("/etc/postgresql")
RULES = "admission_rules"  # its table; OAR 3 may have them in files
LOCAL = ("127.0.0.1", "localhost", "::1", "")

Network = IPv4Network | IPv6Network

_BEGIN = "# oar-lxc: machines of the OAR cluster"
_END = "# oar-lxc: end"


@dataclass(frozen=True)
class DatabaseSettings:
    """The settings of OAR's database in ``oar.conf``.

    Attributes:
        host: its machine; see :data:`LOCAL`.
        port: its port.
        name: its name.
        user: the database user that may write.
        password: that user's password; empty before the set-up.
        ro_user: the database user that may only read.
        ro_password: that user's password.
    """

    host: str
    port: str
    name: str
    user: str
    password: str
    ro_user: str
    ro_password: str

    @classmethod
    def of(cls, conf: oarconf.OarConf) -> DatabaseSettings:
        """Read the settings, with OAR's defaults for missing keys."""

        def get(key: str, default: str = "") -> str:
            return conf.get(key) or default

        return cls(
            host=get("DB_HOSTNAME", "localhost"),
            port=get("DB_PORT", "5432"),
            name=get("DB_BASE_NAME", "oar"),
            user=get("DB_BASE_LOGIN", "oar"),
            password=get("DB_BASE_PASSWD"),
            ro_user=get("DB_BASE_LOGIN_RO", "oar_ro"),
            ro_password=get("DB_BASE_PASSWD_RO"),
        )

    def with_passwords(self) -> dict[str, str]:
        """Return new passwords for the keys of ``oar.conf`` that have none."""
        return {
            key: secrets.token_hex(16)
            for key, password in (
                ("DB_BASE_PASSWD", self.password),
                ("DB_BASE_PASSWD_RO", self.ro_password),
            )
            if not password
        }

    def for_machine(self, server: str) -> dict[str, str]:
        """Return the ``oar.conf`` keys for another machine of the cluster.

        Args:
            server: name of the OAR server; the database's host if the database is local to it.
        """
        return {
            "DB_TYPE": "Pg",
            "DB_HOSTNAME": server if self.host in LOCAL else self.host,
            "DB_PORT": self.port,
            "DB_BASE_NAME": self.name,
            "DB_BASE_LOGIN": self.user,
            "DB_BASE_PASSWD": self.password,
            "DB_BASE_LOGIN_RO": self.ro_user,
            "DB_BASE_PASSWD_RO": self.ro_password,
        }


def current() -> DatabaseSettings:
    """Read the settings of this machine.

    Raises:
        SetupError: OAR uses MySQL here.
    """
    conf = oarconf.read()
    if conf.get("DB_TYPE") not in ("Pg", None):
        raise SetupError(
            f"{CONF} has DB_TYPE={conf.get('DB_TYPE')}: only PostgreSQL (Pg) can be set up"
        )
    return DatabaseSettings.of(conf)


class Database:
    """OAR's database, used through psql as OAR's database user."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self.settings = settings

    def execute(self, sql: str, *, check: bool = True, **variables: str) -> Result:
        """Run SQL; psql replaces ``:'name'`` by the quoted variable.

        Raises:
            CommandError: psql or the statement failed.
        """
        argv = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        for name, value in variables.items():
            argv += ["-v", f"{name}={value}"]
        s = self.settings
        env = os.environ | {
            "PGHOST": s.host or "localhost",
            "PGPORT": s.port,
            "PGDATABASE": s.name,
            "PGUSER": s.user,
            "PGPASSWORD": s.password,
            "PGCONNECT_TIMEOUT": "10",
        }
        return run(argv, input=sql, env=env, check=check)

    def rows(self, sql: str, **variables: str) -> list[dict[str, Any]]:
        """Return the rows of a query, each as a dictionary.

        Raises:
            NotYetError: there is no database yet.
            CommandError: the query failed.
        """
        if not self.settings.password or not CONF.exists():
            raise NotYetError("the database is not there yet")
        if self.execute("SELECT 1", check=False).status != 0:
            raise NotYetError("the database cannot be reached yet")
        query = f"SELECT json_agg(q) FROM ({sql}) q"
        text = self.execute(query, check=True, **variables).stdout.strip()
        rows: list[dict[str, Any]] = json.loads(text) if text else []
        return rows


def connect() -> Database:
    """Return OAR's database, with the settings of this machine.

    Raises:
        SetupError: OAR uses MySQL here.
    """
    return Database(current())


def reachable(networks: Sequence[Network]) -> list[Step]:
    """Make the steps after which PostgreSQL accepts the cluster's machines.

    Args:
        networks: the networks of the machines; without any, PostgreSQL stays as it is.
    """
    if not networks:
        return []
    hosts = "\n".join(f"host all all {network} scram-sha-256" for network in networks)
    block = f"{_BEGIN}\n{hosts}\n{_END}\n"

    def with_block(text: str) -> str:
        rest = re.sub(rf"\n?{_BEGIN}\n.*?{_END}\n", "", text, flags=re.DOTALL)
        return f"{rest.rstrip()}\n\n{block}"

    listen = _in_cluster(
        "PostgreSQL listens on all addresses",
        lambda main, title: files.own_file(
            title, main / "conf.d/oar-lxc.conf", "listen_addresses = '*'\n"
        ),
    )
    let_in = _in_cluster(
        f"PostgreSQL lets {', '.join(map(str, networks))} in, with a password",
        lambda main, title: files.edited_file(
            title, main / "pg_hba.conf", with_block, "postgresql"
        ),
    )
    return [listen, let_in]


def _in_cluster(title: str, make: Callable[[Path, str], Step]) -> Step:
    """Make a step about a file in PostgreSQL's directory, which is known once it is installed."""
    return all_of(title, lambda: [make(cluster_directory(), title)])


def cluster_directory() -> Path:
    """Return the directory with the configuration of Debian's PostgreSQL cluster.

    Raises:
        NotYetError: PostgreSQL is not installed.
    """
    found = sorted(ETC.glob("*/main/postgresql.conf"))
    if not found:
        raise NotYetError("PostgreSQL is not installed yet")
    return found[-1].parent


def cluster_unit() -> str:
    """Return the unit of Debian's PostgreSQL cluster, which the unit ``postgresql`` only wraps."""
    return f"postgresql@{cluster_directory().parent.name}-main"


def created() -> Step:
    """Make the step after which OAR's database exists and is complete.

    An interrupted creation or reset leaves an incomplete database. The step does not repair it; it
    says what is missing and what to type.
    """

    def pending() -> str | None:
        settings = current()
        if not settings.password:
            raise NotYetError("the passwords in oar.conf are not written yet")
        check = _check(settings)
        if check.status == 0 and not (half := _what_is_missing(settings)):
            return None
        if settings.host not in LOCAL:
            raise SetupError(
                f"the database on {settings.host} cannot be used: {_first_line(check)}. Only a "
                "database on this machine is created; create that one with oar-database --create"
            )
        if _as_postgres("SELECT 1", check=False) is None:
            raise NotYetError("PostgreSQL does not run yet")
        half = _what_is_missing(settings)
        if half == "database":
            return f"create database {settings.name} and users {_users(settings)}"
        if half:
            raise SetupError(
                f"database {settings.name} is half there ({half}): a creation or a reset was "
                "interrupted. What it may hold of jobs and resources cannot be used by OAR. "
                "Remove it with\n    oar-database --drop --db-is-local -y\nand set up again; "
                f"to keep a copy: runuser -u postgres -- pg_dump {settings.name} > oar.sql"
            )
        raise SetupError(
            f"the database does not let OAR in: {_first_line(check)}. If the passwords in "
            f"{CONF} were changed, tell PostgreSQL: runuser -u postgres -- psql -c "
            f"\"ALTER ROLE {settings.user} PASSWORD '…'\" (and {settings.ro_user} likewise)"
        )

    def apply() -> None:
        settings = current()
        # Roles of an earlier, dropped database have other passwords.
        for user in (settings.user, settings.ro_user):
            _as_postgres(f'DROP ROLE IF EXISTS "{user}"')
        # oar-database ends with status 0 even after an error; `pending` checks the result.
        run(["oar-database", "--create", "--db-is-local"], timeout=120)

    return Step("OAR's database exists and is whole", pending, apply)


def _check(settings: DatabaseSettings) -> Result:
    """Return what a check of the database says: OAR 2 has one; that of OAR 3.0 always fails."""
    if not installed_version().has_python_rules:
        return run(["oar-database", "--check"], check=False)
    reader = replace(settings, user=settings.ro_user, password=settings.ro_password)
    for one in (settings, reader):
        look = Database(one).execute("SELECT version FROM schema", check=False)
        if look.status != 0:
            break
    return look


def _what_is_missing(settings: DatabaseSettings) -> str:
    exists = _as_postgres(
        f"SELECT count(*) FROM pg_database WHERE datname = '{settings.name}'", check=False
    )
    if exists == "0":
        return "database"
    for table in ("schema", "queues", RULES):
        rows = _as_postgres(f"SELECT count(*) FROM {table}", settings.name, check=False)
        if rows is None:
            return f"no table {table}"
        if rows == "0" and not (table == RULES and installed_version().has_python_rules):
            return f"table {table} is empty"
    return ""


def _as_postgres(sql: str, database: str = "postgres", check: bool = True) -> str | None:
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        return None
    argv = ["runuser", "-u", "postgres", "--", "psql", "-X", "-q", "-A", "-t", "-d", database]
    result = run([*argv, "-v", "ON_ERROR_STOP=1"], input=sql, check=check, cwd="/")
    return result.stdout.strip() if result.status == 0 else None


def _users(settings: DatabaseSettings) -> str:
    return f"{settings.user} and {settings.ro_user}"


def _first_line(result: Result) -> str:
    text = (result.stderr + result.stdout).strip()
    return text.splitlines()[0] if text else f"oar-database --check ended with {result.status}"
