"""Combine the stanza with the site's own job resource manager, which follows it unchanged.

OAR pipes one Perl file to each node of a job. Each set-up makes the combined file again from the
site's file. The first line of the combined file has the path of the site's file.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from oar_lxc.model.config import read_config
from oar_lxc.model.idspans import format_spans
from oar_lxc.setup.oar_version import OarVersion, installed_version
from oar_lxc.setup.oarconf import OarConf
from oar_lxc.setup.shipped import share_path
from oar_lxc.setup.steps import NotYetError

COMBINED = Path("/etc/oar/job_resource_manager_oar_lxc.pl")
KEY = "JOB_RESOURCE_MANAGER_FILE"

# What oar.conf names in each version as it comes, oldest first.
_DEFAULTS = {
    (2, 5): Path("/etc/oar/job_resource_manager_cgroups.pl"),
    (2, 6): Path("/etc/oar/job_resource_manager.pl"),
    (3, 0): Path("/etc/oar/job_resource_manager_systemd.pl"),
}

_FIRST_LINE = "# Made by oar-lxc setup server, do not edit. The site's own file: "


def default_file(version: OarVersion) -> Path:
    """Return the path of the job resource manager that comes with OAR."""
    return _DEFAULTS[max(known for known in _DEFAULTS if known <= version)]


def site_file(conf: OarConf) -> Path:
    """Return the path of the site's own file, even if oar.conf names the combined one.

    Raises:
        NotYetError: it is OAR's, and OAR is not installed.
        SetupError: it is OAR's, of a version that set-up does not know.
    """
    configured = conf.get(KEY)
    if configured and configured != str(COMBINED):
        return Path(configured)
    remembered = _remembered() if configured else None
    if remembered is None:
        return default_file(installed_version())
    # OAR may have been upgraded since: what it came with then does not fit what it comes with now.
    with suppress(NotYetError):
        today = default_file(installed_version())
        defaults = list(_DEFAULTS.values())
        if remembered in defaults[: defaults.index(today)]:
            return today
    return remembered


def _remembered() -> Path | None:
    """Return the site's file that the combined file names."""
    try:
        with COMBINED.open(encoding="utf-8", errors="surrogateescape") as file:
            first = file.readline().rstrip("\n")
    except FileNotFoundError:
        return None
    return Path(first.removeprefix(_FIRST_LINE)) if first.startswith(_FIRST_LINE) else None


def combine(site: Path) -> str:
    """Return the text of the combined file.

    Raises:
        NotYetError: the site's file does not exist yet.
        ConfigError: the configuration of this machine is wrong.
    """
    try:
        text = site.read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        raise NotYetError(f"{site} comes with the package oar-server") from None
    stanza = share_path("hooks/job_resource_manager_stanza.pl").read_text("utf-8")
    # Each job brings the server's list to all nodes, so no node can give a user another's ids.
    users = format_spans(read_config().users).replace(" ", "")
    stanza = stanza.replace("my $users = '';", f"my $users = '{users}';")
    return f"{_FIRST_LINE}{site}\n{stanza.rstrip()}\n{text}"
