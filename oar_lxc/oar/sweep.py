"""The server's sweep: tell the nodes which jobs have ended, so that they destroy their containers.

OAR's clean and the hooks tell a node of a job's end, but not while its sshd or the server is down.
Nodes cannot reach the OAR server. So the server asks each node for its jobs, asks OAR which of
them have ended, and tells the nodes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TypeVar

from oar_lxc.errors import CommandError, OarLxcError, UsageError
from oar_lxc.linux.logger import get_logger
from oar_lxc.linux.run import run
from oar_lxc.model.layout import check_node
from oar_lxc.model.reaped import LEFT_ALONE, Reaped
from oar_lxc.oar.commands import ended_jobs, has_oarnodes, node_words
from oar_lxc.oar.ssh import FANOUT, command_on

LOOK_TIMEOUT = 60.0
DESTROY_TIMEOUT = 600.0

T = TypeVar("T")

_log = get_logger()


@dataclass
class Sweep:
    """The result of a sweep over the cluster.

    Attributes:
        jobs: what was done about each job, by node.
        unreachable: for each node that did not answer, the reason.
    """

    jobs: dict[str, list[Reaped]] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)


def sweep(grace: float, *, dry_run: bool = False) -> Sweep:
    """Reap on all nodes of the cluster, with OAR's list of ended jobs; run it as user ``oar``.

    Args:
        grace: seconds that OAR and its hooks get at a job's start and end.
        dry_run: change nothing.

    Raises:
        OarLxcError: OAR does not answer; then nothing is destroyed.
    """
    result = Sweep()
    look = ["reap", "--dry-run", "--json", f"--grace={grace:g}"]
    found = _everywhere(dict.fromkeys(_nodes(result), look), LOOK_TIMEOUT, result)
    unsure = {job.job_id for jobs in found.values() for job in jobs if job.action == LEFT_ALONE}
    ended = ended_jobs(unsure)
    _log.info("asked OAR", jobs=sorted(unsure), ended=sorted(unsure & set(ended)))
    option = ["--dry-run"] if dry_run else []
    orders = {}
    for node, jobs in found.items():
        mine = ",".join(str(job.job_id) for job in jobs if job.job_id in ended)
        if mine or not all(job.action == LEFT_ALONE for job in jobs):
            orders[node] = ["reap", *option, "--json", f"--grace={grace:g}", f"--ended={mine}"]
    result.jobs = found | _everywhere(orders, DESTROY_TIMEOUT, result)
    return result


def _nodes(result: Sweep) -> list[str]:
    """Return the names of the cluster's nodes; report an invalid name, and go on."""
    if not has_oarnodes():
        raise OarLxcError(
            "oarnodes is not installed here: run this on the OAR server, or leave out --everywhere"
        )
    nodes = []
    for word in node_words():
        try:
            nodes.append(check_node(word))
        except UsageError as error:
            result.unreachable[word] = str(error)
    return nodes


def _everywhere(
    orders: Mapping[str, Sequence[str]], timeout: float, result: Sweep
) -> dict[str, list[Reaped]]:
    def on_node(node: str) -> list[Reaped] | str:
        try:
            done = run(command_on(node, orders[node], here=False), timeout=timeout, check=False)
            if done.status not in (0, 1):
                raise CommandError(done.argv, done.status, done.stderr)
            return [Reaped(**one) for one in json.loads(done.stdout or "[]")]
        except CommandError as error:
            return error.stderr.strip() or str(error)
        except (OarLxcError, ValueError, TypeError) as error:
            return str(error)

    answers = dict(zip(orders, _in_parallel(on_node, orders), strict=True))
    for node, answer in answers.items():
        if isinstance(answer, str):
            result.unreachable[node] = answer
            _log.info("no answer", node=node, error=answer)
            continue
        for job in answer:
            facts = asdict(job)
            _log.info("reap", node=node, job=facts.pop("job_id"), **facts)
    return {node: answer for node, answer in answers.items() if not isinstance(answer, str)}


def _in_parallel(act: Callable[[str], T], nodes: Iterable[str]) -> list[T]:
    with ThreadPoolExecutor(FANOUT) as pool:
        return list(pool.map(act, nodes))
