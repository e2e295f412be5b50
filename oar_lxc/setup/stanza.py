"""Combine the stanza with the site's own job resource manager, which follows it unchanged.

OAR pipes one Perl file to each node of a job. Each set-up makes the combined file again from the
site's file. The first line of the combined file has the path of the site's file.
"""

from __future__ import annotations

from pathlib import Path

from oar_lxc.model.config import read_config
from oar_lxc.model.idspans import format_spans
from oar_lxc.setup.oarconf import OarConf
from oar_lxc.setup.shipped import share_path
from oar_lxc.setup.steps import NotYetError

COMBINED = Path("/etc/oar/job_resource_manager_oar_lxc.pl")
KEY = "JOB_RESOURCE_MANAGER_FILE"
DEFAULT = "/etc/oar/job_resource_manager_cgroups.pl"

_FIRST_LINE = "# Made by oar-lxc setup server, do not edit. The site's own file: "


def site_file(conf: OarConf, combined: Path = COMBINED) -> Path:
    """Return the path of the site's own file, even if oar.conf names the combined one."""
    configured = conf.get(KEY) or DEFAULT
    if configured != str(combined):
        return Path(configured)
    try:
        with combined.open(encoding="utf-8", errors="surrogateescape") as file:
            first = file.readline().rstrip("\n")
    except FileNotFoundError:
        return Path(DEFAULT)
    return (
        Path(first.removeprefix(_FIRST_LINE)) if first.startswith(_FIRST_LINE) else Path(DEFAULT)
    )


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
