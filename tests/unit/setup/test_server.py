"""The server's oar.conf, job resource manager and bundle."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from oar_lxc.errors import UsageError
from oar_lxc.model.config import Config
from oar_lxc.model.idspans import parse_spans
from oar_lxc.setup import bundle, database, join, requirements, resources, server, stanza
from oar_lxc.setup.oarconf import OarConf
from oar_lxc.setup.steps import NotYetError, SetupError, StepOutcome, execute
from tests.unit.setup.conftest import Installer

SITE = """\
DB_TYPE="Pg"
DB_HOSTNAME="127.0.0.1"
DB_BASE_PASSWD=""
DB_BASE_PASSWD_RO=""
SERVER_HOSTNAME="localhost"
OARSUB_FORCE_JOB_KEY="no"
#PROLOGUE_EXEC_FILE="/path/to/prog"
JOB_RESOURCE_MANAGER_FILE="/etc/oar/job_resource_manager_cgroups.pl"
CPUSET_PATH="/oar"
"""

BUNDLE = bundle.Bundle(
    server="oar",
    database={"DB_HOSTNAME": "oar", "DB_BASE_PASSWD": "secret"},
    cpuset_path="/oar",
    prepare="stanza",
    oar_private="P",
    oar_public="ssh-rsa AAAA oar",
    host_private="H",
    host_public="ssh-rsa BBBB nodes",
)


@pytest.fixture(autouse=True)
def combined(tmp_path: Path, install: Installer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the combined file of a machine with OAR 2.5 goes."""
    install("2.5.9-1+deb12u1")
    path = tmp_path / "combined.pl"
    monkeypatch.setattr(stanza, "COMBINED", path)
    return path


def configured(text: str = SITE, **options: object) -> tuple[OarConf, list[str]]:
    notes: list[str] = []
    chosen = server.Options(**options)  # type: ignore[arg-type] # the tests name real options
    return server._configured(OarConf(text), chosen, {}, notes), notes


def test_passwords_are_made_once_and_kept() -> None:
    first, _ = configured(hostname="oar")
    passwords = first.get("DB_BASE_PASSWD"), first.get("DB_BASE_PASSWD_RO")
    assert all(password and len(password) >= 32 for password in passwords)
    assert len(set(passwords)) == 2
    second, _ = configured(first.text, hostname="oar")
    assert second.text == first.text


def test_what_is_shown_has_the_passwords_that_are_written() -> None:
    made: dict[str, str] = {}
    conf, options = OarConf(SITE), server.Options()
    assert server._configured(conf, options, made, []) == server._configured(
        conf, options, made, []
    )


def test_a_host_name_that_others_can_use_replaces_localhost_alone() -> None:
    assert configured()[0].get("SERVER_HOSTNAME") not in ("localhost", "", None)
    site = SITE.replace('"localhost"', '"oar.example.org"')
    assert configured(site)[0].get("SERVER_HOSTNAME") == "oar.example.org"
    assert configured(site, hostname="oar")[0].get("SERVER_HOSTNAME") == "oar"


def test_a_site_s_own_prologue_stays_and_the_line_to_add_is_told() -> None:
    conf, notes = configured(SITE + 'PROLOGUE_EXEC_FILE="/site/prologue"\n')
    assert conf.get("PROLOGUE_EXEC_FILE") == "/site/prologue"
    assert conf.get("EPILOGUE_EXEC_FILE") == "/usr/share/oar-lxc/hooks/epilogue"
    assert len(notes) == 1
    assert '/usr/share/oar-lxc/hooks/prologue "$@"' in notes[0]


def test_cpuset_off_and_on_again_is_the_same_configuration() -> None:
    on, _ = configured(hostname="oar")
    off, _ = configured(on.text, hostname="oar", cpuset=False)
    assert off.get("CPUSET_PATH") is None
    assert off.get("OARSUB_FORCE_JOB_KEY") == "yes"
    assert configured(off.text, hostname="oar")[0].text == on.text


def test_stanza_off_gives_the_site_its_own_file_back() -> None:
    on, _ = configured(hostname="oar")
    assert on.get(stanza.KEY) == str(stanza.COMBINED)
    off, _ = configured(on.text, hostname="oar", stanza=False)
    assert off.get(stanza.KEY) == "/etc/oar/job_resource_manager_cgroups.pl"


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("2.5.10-1", "job_resource_manager_cgroups.pl"),
        ("2.6.1-1+deb13u1", "job_resource_manager.pl"),
        ("3.0.2-1", "job_resource_manager_systemd.pl"),
    ],
)
def test_where_oar_conf_names_no_resource_manager_it_is_oars(
    combined: Path, install: Installer, version: str, name: str
) -> None:
    install(version)
    for text in ("", f'{stanza.KEY}="{combined}"\n'):
        assert stanza.site_file(OarConf(text)) == Path("/etc/oar") / name


@pytest.mark.parametrize(
    ("version", "site", "file"),
    [
        ("2.6.1-1+deb13u1", "job_resource_manager_cgroups.pl", "job_resource_manager.pl"),
        ("3.0.2-1", "job_resource_manager_cgroups.pl", "job_resource_manager_systemd.pl"),
        ("3.0.2-1", "job_resource_manager.pl", "job_resource_manager_systemd.pl"),
        ("2.5.9-1", "job_resource_manager.pl", "job_resource_manager.pl"),
        ("2.6.1-1", "job_resource_manager_site.pl", "job_resource_manager_site.pl"),
    ],
)
def test_after_an_upgrade_of_oar_its_new_resource_manager_counts(
    combined: Path, install: Installer, version: str, site: str, file: str
) -> None:
    install(version)
    combined.write_text(f"{stanza._FIRST_LINE}/etc/oar/{site}\n1;\n")
    conf = OarConf(f'{stanza.KEY}="{combined}"\n')
    assert stanza.site_file(conf) == Path("/etc/oar") / file


def test_without_its_cpuset_oar_3_is_left_as_it_is(
    tmp_path: Path, install: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "SYSTEMD", tmp_path)  # which the tests' machine may not have
    install("3.0.2-1")
    plan = server.make_plan(server.Options(cpuset=False))
    outcomes = []
    with pytest.raises(SetupError, match="OAR 3 does not run without CPUSET_PATH"):
        execute(plan, lambda result: outcomes.append(result.outcome))
    assert StepOutcome.CHANGED not in outcomes


def test_a_frontend_and_a_node_of_oar_3_do_not_join_without_it(
    tmp_path: Path, install: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("3.0.2-1")
    conf = tmp_path / "oar.conf"
    conf.write_text(SITE)
    monkeypatch.setattr(join, "CONF", conf)
    with pytest.raises(SetupError, match="OAR 3 does not run without CPUSET_PATH"):
        join.oar_conf(replace(BUNDLE, cpuset_path=""), {}).pending()
    assert "SERVER_HOSTNAME" in (join.oar_conf(BUNDLE, {}).pending() or "")


@pytest.mark.parametrize(
    ("version", "is_node", "cpuset", "oarstat", "wanted"),
    [
        ("2.6.1-1+deb13u1", True, "/oar", "/none/oarstat", join.JOB_CPUSET),
        ("2.6.1-1+deb13u1", True, "/oar", "/bin/true", "/bin/true"),
        ("2.6.1-1+deb13u1", True, "", "/none/oarstat", "/none/oarstat"),
        ("2.6.1-1+deb13u1", False, "/oar", "/none/oarstat", "/none/oarstat"),
        ("2.5.9-1+deb12u1", True, "/oar", "/none/oarstat", "/none/oarstat"),
        ("3.0.2-1", True, "/oar", "/none/oarstat", join.JOB_CPUSET),
    ],
)
def test_oarsh_on_a_node_finds_its_job_without_oarstat(
    tmp_path: Path,
    install: Installer,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    is_node: bool,
    cpuset: str,
    oarstat: str,
    wanted: str,
) -> None:
    install(version)
    path = tmp_path / "oar.conf"
    path.write_text(f'{SITE}\n{join.OARSTAT_OF_OARSH}="{oarstat}"\n')
    monkeypatch.setattr(join, "CONF", path)
    monkeypatch.setattr("oar_lxc.setup.files.backup_of", lambda path: tmp_path / "none")
    step = join.oar_conf(replace(BUNDLE, cpuset_path=cpuset), {}, is_node=is_node)
    assert step.apply is not None
    step.apply()
    assert step.pending() is None
    assert OarConf(path.read_text()).get(join.OARSTAT_OF_OARSH) == wanted


def test_any_other_key_may_be_set() -> None:
    assert configured(settings={"LOG_LEVEL": "3"})[0].get("LOG_LEVEL") == "3"


def test_the_combined_file_ends_with_the_site_s_own_and_remembers_where_that_is(
    tmp_path: Path, combined: Path
) -> None:
    site = tmp_path / "site.pl"
    site.write_text("use strict;\n# the site's\n__END__\n")
    combined.write_text(stanza.combine(site))
    assert combined.read_text().endswith(site.read_text())
    assert len(combined.read_text()) > len(site.read_text()) + 200
    conf = OarConf(f'{stanza.KEY}="{combined}"\n')
    assert stanza.site_file(conf) == site
    assert stanza.combine(stanza.site_file(conf)) == combined.read_text()


def test_the_combined_file_tells_all_nodes_the_same_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site.pl"
    site.write_text("1;\n")
    users = parse_spans(["1000-1999", "20017"])
    monkeypatch.setattr(stanza, "read_config", lambda: Config(users=users))
    assert "\n    my $users = '1000-1999,20017';\n" in stanza.combine(site)


def test_a_site_that_configured_another_file_is_followed() -> None:
    conf = OarConf(f'{stanza.KEY}="/site/other.pl"\n')
    assert stanza.site_file(conf) == Path("/site/other.pl")


def test_a_missing_resource_manager_comes_with_oar(tmp_path: Path) -> None:
    with pytest.raises(NotYetError, match="oar-server"):
        stanza.combine(tmp_path / "none.pl")


def test_a_bundle_reads_back_and_is_the_same_every_time(tmp_path: Path) -> None:
    path = tmp_path / "bundle.tar"
    path.write_bytes(BUNDLE.to_bytes())
    assert bundle.Bundle.read(path) == BUNDLE
    assert BUNDLE.to_bytes() == path.read_bytes()


def test_a_missing_bundle_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="from the OAR server"):
        bundle.Bundle.read(tmp_path / "none")


@pytest.mark.parametrize("junk", [b"", b"junk", os.urandom(2000), b"\0" * 10240])
def test_another_file_is_no_bundle(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "bundle.tar"
    path.write_bytes(junk)
    with pytest.raises(SetupError, match="is no bundle"):
        bundle.Bundle.read(path)


def test_a_database_on_the_server_has_the_server_s_name_elsewhere() -> None:
    local = database.DatabaseSettings.of(OarConf(SITE))
    assert local.for_machine("oar")["DB_HOSTNAME"] == "oar"
    remote = database.DatabaseSettings.of(OarConf('DB_HOSTNAME="db.example.org"\n'))
    assert remote.for_machine("oar")["DB_HOSTNAME"] == "db.example.org"


def test_nodes_are_declared_as_name_and_cores() -> None:
    assert resources.Node.parse("node1=16") == resources.Node("node1", 16)
    for bad in ("node1", "node1=", "node1=0", "node1=x", "no de=1", "=4", "-n=1"):
        with pytest.raises(UsageError):
            resources.Node.parse(bad)


def test_oars_pings_heed_the_checks_of_nodes_that_have_any() -> None:
    conf, notes = configured(SITE + 'PINGCHECKER_SENTINELLE_SCRIPT_COMMAND="/usr/lib/oar/x"\n')
    ping = conf.get(server.PING)
    assert ping is not None
    assert "oarnodecheckquery" in ping
    assert '"' not in ping  # OAR's own reader of the file ends there
    assert notes == []
    assert configured(conf.text)[0].text == conf.text


def test_the_ping_of_an_earlier_version_finds_the_check_of_newer_nodes() -> None:
    conf, notes = configured(SITE + f'{server.PING}="{server.FORMER_PING}"\n')
    assert "PATH=/usr/sbin:" in str(conf.get(server.PING))
    assert notes == []
    assert configured(conf.text)[0].text == conf.text


@pytest.mark.parametrize("key", [server.PING, "PINGCHECKER_FPING_COMMAND"])
def test_a_site_s_own_way_to_ping_stays_and_the_note_says_what_is_missing(key: str) -> None:
    conf, notes = configured(f'{SITE}{key}="/site/ping"\n')
    assert conf.get(key) == "/site/ping"
    assert conf.get(server.PING) == ("/site/ping" if key == server.PING else None)
    assert len(notes) == 1
    assert "oarnodecheckquery" in notes[0]


def test_a_site_that_runs_the_checks_is_told_nothing() -> None:
    site = f'{server.PING}="broadcast exec [ oarnodecheckquery ]"\n'
    assert configured(SITE + site)[1] == []
