"""The routes by which ``oar-lxc image push`` reaches nodes."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oar_lxc.client.lookup import find_remote
from oar_lxc.errors import UsageError
from oar_lxc.image.push import Route
from oar_lxc.model.layout import check_job_id, check_node
from oar_lxc.oar.commands import has_oarnodes, node_words
from oar_lxc.oar.ssh import ssh
from oar_lxc.remote.agents import oarsh_environ

COMMAND = ("/usr/bin/oar-lxc", "image", "receive")
OAR = "oar"


def route_to_nodes(text: str) -> Route:
    """Return the route by which user oar reaches nodes of the cluster.

    Args:
        text: names of nodes, separated by commas; empty: all nodes that OAR has.

    Raises:
        UsageError: this is not the OAR server, or the caller is not root.
    """
    try:
        pwd.getpwnam(OAR)
        known = has_oarnodes()
    except KeyError:
        known = False
    if not known or os.geteuid() != 0:
        raise UsageError(
            "public images are pushed by root on the OAR server; your own to a job's nodes, with "
            "--job JOB"
        )
    words = text.split(",") if text else node_words()
    nodes = [check_node(word) for word in dict.fromkeys(filter(None, words))]
    if not nodes:
        raise UsageError("there are no nodes to push to")
    home = pwd.getpwnam(OAR).pw_dir
    before = ["runuser", "-u", OAR, "--", "env", "-C", home, f"HOME={home}"]
    return Route(nodes, ssh(), ["oardodo", *COMMAND], before)


def route_to_job(job: str) -> Route:
    """Return the route by which a job's user reaches the job's nodes.

    Raises:
        OarLxcError: there is no such job.
    """
    job_id = check_job_id(job)
    remote = find_remote(job_id)
    nodes = [check_node(node) for node in remote.nodes]
    options = ("--job", str(job_id))
    return Route(nodes, ["oarsh"], [*COMMAND, *options], environ=oarsh_environ(job_id))


@contextmanager
def scratch_for(route: Route) -> Iterator[Path]:
    """Make a directory for the data to send, which the sending user can read."""
    with tempfile.TemporaryDirectory(prefix="oar-lxc-push-", dir="/var/tmp") as name:
        if route.before:
            shutil.chown(name, OAR)
        yield Path(name)
