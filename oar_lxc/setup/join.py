"""Steps with which a frontend or a node joins the server's cluster, by the server's bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping

from oar_lxc.oar.paths import CONF
from oar_lxc.setup import files, keys, oarconf
from oar_lxc.setup.bundle import Bundle
from oar_lxc.setup.oar_version import installed_version, require_optional_cpuset
from oar_lxc.setup.server import CPUSET_PATH, cpuset
from oar_lxc.setup.steps import Step

OARSTAT_OF_OARSH = "OARSH_OARSTAT_CMD"
# In its place on a node, which has no oarstat.
JOB_CPUSET = "/usr/share/oar-lxc/hooks/job_cpuset"


def oar_conf(bundle: Bundle, settings: Mapping[str, str], *, is_node: bool = False) -> Step:
    """Make the step after which ``oar.conf`` names the server.

    Args:
        bundle: the server's bundle.
        settings: more keys; they may override the bundle's.
        is_node: whether the machine is a node.
    """

    def configure(text: str) -> str:
        if not bundle.cpuset_path:
            require_optional_cpuset()
        conf = oarconf.OarConf(text).set("SERVER_HOSTNAME", bundle.server)
        conf = cpuset(conf, bundle.cpuset_path and CPUSET_PATH)
        if bundle.cpuset_path:
            conf = conf.set("CPUSET_PATH", bundle.cpuset_path)
            if is_node and installed_version().needs_cgroups_v2:
                conf = _with_job_cpuset(conf)
        return conf.update(settings).text

    return files.edited_file("oar.conf says where the server is", CONF, configure, "oar-common")


def _with_job_cpuset(conf: oarconf.OarConf) -> oarconf.OarConf:
    """Let oarsh find its job where the kernel has no ``/proc/self/cpuset``; keep a site's way."""
    if os.access(conf.get(OARSTAT_OF_OARSH) or "", os.X_OK):
        return conf
    return conf.set(OARSTAT_OF_OARSH, JOB_CPUSET)


def oar_keys(bundle: Bundle) -> list[Step]:
    """Make the steps after which user oar has the cluster's keys."""
    return [
        *keys.oar_account_has(bundle.oar_private, bundle.oar_public),
        keys.oar_lets_itself_in(lambda: bundle.oar_public),
        *keys.oar_knows_the_nodes(lambda: bundle.host_public),
    ]
