"""Prologue and epilogue: they run on the job's first node as ``oar``, for all nodes of the job.

OAR gives them the arguments job id, user, nodefile, and perhaps more. They reach other nodes as
``oar`` with the ssh command of oar.conf, and root through oardodo.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from oar_lxc.errors import ConfigError, JobEnvironmentError, OarLxcError, UsageError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.error_exit import exit_on_error
from oar_lxc.linux.node_log import say
from oar_lxc.linux.regular import read_regular
from oar_lxc.linux.run import Result, run
from oar_lxc.linux.shortage import shortage_of
from oar_lxc.model.config import PREPARE_BY, lenient_config
from oar_lxc.model.idspans import format_spans
from oar_lxc.model.job import read_nodefile
from oar_lxc.model.layout import JobLayout, check_job_id, check_node, check_user
from oar_lxc.model.placement import is_in_slice
from oar_lxc.model.published import PublishedJob
from oar_lxc.oar.paths import CPUSET, job_key
from oar_lxc.oar.ssh import FANOUT, command_on, this_node

OWN_CGROUPS = Path("/proc/self/cgroup")
PUBLISHER = 0  # the user id of root, which publishes job.json
KILLED = 128  # statuses from here on: a signal ended the command, or ssh itself failed


def main() -> None:
    """Run one hook and exit with its status; from the status OAR infers the nodes' state."""
    if len(sys.argv) < 5:
        say("usage: hook prologue|epilogue JOB USER NODEFILE")
        sys.exit(2)
    hook, job, user, nodefile = sys.argv[1:5]
    with exit_on_error(say, os.uname().nodename):
        try:
            sys.exit(run_hook(hook, check_job_id(job), check_user(user), Path(nodefile)))
        except OarLxcError as error:
            say(str(error))
            sys.exit(1)


def run_hook(hook: str, job_id: int, user: str, nodefile: Path) -> int:
    """Prepare or destroy a job on all its nodes at once; a failed prologue undoes its work.

    An epilogue destroys even if the configuration or the nodefile is wrong, and reports that.

    Returns:
        0, or 1 if a node is not as it should be.
    """
    config, wrong = lenient_config()
    cgroup = _oar_cgroup(job_id, user)
    common = ["--job", str(job_id), "--user", user, *(["--cgroup", cgroup] if cgroup else [])]
    if hook == "epilogue":
        if wrong:
            say(f"{wrong}; mend it: the defaults are taken")
        nodes, unsure = _nodes_to_clean(job_id, nodefile)
        status = _everywhere(nodes, ["destroy", "--layer", hook, *common], config.deadline)
        # After a status of 1, OAR would suspect all nodes of the job. If the stanza prepares, it
        # runs after this and reports each node. A wrong configuration does not tell if it does.
        follows = config.prepare == PREPARE_BY[0] and not wrong
        return 0 if follows else status or unsure
    if hook != "prologue":
        raise UsageError(f"hook {hook!r}; known: prologue, epilogue")
    if wrong:
        raise ConfigError(f"{wrong}; mend it: until then, this node gets no containers")
    if config.prepare != PREPARE_BY[1]:
        return 0
    nodes = list(read_nodefile(nodefile))
    key = job_key(job_id, user)  # at the same place on all nodes
    key_option = ["--job-key", str(key)] if key.exists() else []
    users = ["--users", format_spans(config.users).replace(" ", "")]
    prepare = ["prepare", *common, *users, *key_option, "--nodes", ",".join(nodes), "--node"]
    # OAR runs no epilogue after a failed prologue, so keep a part of the time to undo its work.
    status = _everywhere(nodes, prepare, config.deadline * 0.5, prepares=True)
    if status:
        _everywhere(nodes, ["destroy", "--layer", hook, *common], config.deadline * 0.5)
    return status


def _nodes_to_clean(job_id: int, nodefile: Path) -> tuple[list[str], int]:
    """Return the nodes of a job that has ended, and 1 if there may be more, else 0.

    They come from OAR's nodefile. If that is not usable, they come from the file that root
    published here. Without both, only this node is known.
    """
    try:
        return list(read_nodefile(nodefile)), 0
    except JobEnvironmentError as error:
        say(str(error))
    path = JobLayout(job_id).published
    try:
        content = read_regular(path, owners={PUBLISHER})
        published = PublishedJob.from_json(content.decode())
        return [check_node(node) for node in published.nodes] or [this_node()], 0
    except (OSError, ValueError, RecursionError, TypeError, UsageError) as error:
        say(f"{path}: {error}: only this node is cleaned by the epilogue")
        return [this_node()], 1


def _everywhere(
    nodes: Sequence[str], arguments: list[str], timeout: float, prepares: bool = False
) -> int:
    """Run ``oar-lxc-node`` on nodes.

    Args:
        nodes: names of the nodes.
        arguments: arguments of the command.
        timeout: seconds.
        prepares: whether the command prepares. Then the node's name is added as last argument, and
            a node is not at fault if a shortage of memory or processes stops the command.

    Returns:
        0, or 1 if a node is not as it should be.
    """
    end = Deadline.after(timeout)

    def once(node: str) -> Result:
        left = max(1.0, end.left())
        # The command runs as root, so this process cannot kill it. With a deadline it ends by
        # itself, and has time to report what is left.
        limit = ["--deadline", f"{left * 0.8:.3g}"]
        words = [arguments[0], *limit, *arguments[1:], *([node] if prepares else [])]
        return run(command_on(node, words), timeout=left, check=False)

    def on_node(node: str) -> bool:
        try:
            result = once(node)
            if not 0 <= result.status < KILLED:
                result = once(node)  # a second run continues the work
        except OarLxcError as error:
            say(f"node {node}: {error}")
            return prepares and bool(shortage_of(error))
        if result.status != 0:
            say(f"node {node}: {result.stderr.strip() or f'status {result.status}'}")
        return result.status == 0

    try:
        with ThreadPoolExecutor(min(FANOUT, len(nodes))) as pool:
            done = list(pool.map(on_node, nodes))
    except RuntimeError:  # this node has no room for more threads
        done = list(map(on_node, nodes))
    return 0 if all(done) else 1


def _oar_cgroup(job_id: int, user: str) -> str:
    """Return the job's cgroup in OAR's words; empty if the cpuset is off."""
    name = f"{user}_{job_id}"
    given = os.environ.get("OAR_CPUSET", "")
    here = OWN_CGROUPS.read_text()  # OAR starts hooks where the job is
    for path in (given, f"/oar/{name}"):
        if path.endswith(f"/{name}") and (
            Path(f"{CPUSET}{path}").is_dir() or is_in_slice(here, path, job_id)
        ):
            return path
    return ""


if __name__ == "__main__":
    main()
