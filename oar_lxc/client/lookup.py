"""Find a job and its containers, from inside the job or from a frontend."""

from __future__ import annotations

import os
import pwd
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from oar_lxc.client.node_cache import recall, remember
from oar_lxc.errors import (
    CommandError,
    CommandTimeoutError,
    ContainerError,
    JobEnvironmentError,
    JobError,
    NodeError,
    UsageError,
)
from oar_lxc.model.events import Container, Event, Keys
from oar_lxc.model.job import Job, parse_resources
from oar_lxc.model.layout import CONFIG_FILE, JobLayout, by_number, check_job_id
from oar_lxc.model.published import read_published
from oar_lxc.model.requests import List, TellKeys
from oar_lxc.oar.commands import ENDED, ENDING, NoOarstatError, job_facts, job_resources
from oar_lxc.remote.agents import Remote, raise_first


def parse_target(text: str) -> tuple[int | None, str]:
    """Split ``JOB/CONTAINER`` or ``CONTAINER``.

    Returns:
        The job's id, or None for the job of the environment; and the container's name.

    Raises:
        UsageError: the text has neither form.
    """
    job, slash, name = text.rpartition("/")
    if job.isdecimal() and not name:
        raise UsageError(
            f"{text!r} names no container but all of a job, which only start, stop, restart, "
            f"freeze and unfreeze take: write {text}CONTAINER"
        )
    if "/" in job or not re.fullmatch(r"[a-z][a-z0-9-]{0,62}", name):
        raise UsageError(
            f"{text!r} names no container: write JOB/CONTAINER, or CONTAINER in a job, whose name "
            "is of small letters, digits and '-'"
        )
    return (check_job_id(job) if slash else None), name


def has_container(job_id: int, name: str) -> bool:
    """Whether a job of the calling user has a container of this name on this node."""
    try:
        return (JobLayout(job_id).containers / name / CONFIG_FILE).exists()
    except PermissionError:  # the job is another user's: the lookup will report it
        return False


def find_remote(job_id: int | None, environ: Mapping[str, str] | None = None) -> Remote:
    """Return a job's ``Remote``, through which its nodes can be reached.

    Args:
        job_id: the job; None: the job of the environment.
        environ: environment variables; by default those of this process.

    Raises:
        JobEnvironmentError: no job is named, and this process does not run in one.
        JobError: OAR knows no such running job of this user.
    """
    environ = os.environ if environ is None else environ
    inside = environ.get("OAR_JOB_ID") or environ.get("OAR_JOBID")
    if job_id is None and not inside:
        raise JobEnvironmentError(
            "this is not an OAR job: name the job, as in 42/vm1 or `oar-lxc list 42`"
        )
    if inside and (job_id is None or str(job_id) == inside) and environ.get("OAR_NODEFILE"):
        job = Job.from_environ(environ)
        layout = JobLayout(job.id)
        local = ""
        if layout.published.exists():
            local = read_published(layout.published, job.id, os.uname().nodename).node
        return Remote(job.id, job.nodes, local)
    if job_id is None:
        job_id = check_job_id(inside or "")
    return Remote(job_id, _nodes_by_oarstat(job_id))


def find_job(job_id: int | None, environ: Mapping[str, str] | None = None) -> Job:
    """Return a job with its nodes and cores, from the environment or else from OAR.

    Raises:
        JobEnvironmentError: no job is named, and this process does not run in one.
        JobError: OAR knows no such running job of this user.
    """
    environ = os.environ if environ is None else environ
    inside = environ.get("OAR_JOB_ID") or environ.get("OAR_JOBID")
    if inside and str(job_id or inside) == inside and environ.get("OAR_NODEFILE"):
        return Job.from_environ(environ)
    if job_id is None:
        raise JobEnvironmentError(
            "this is not an OAR job: name one with --job JOB, or suppose one with --nodes and "
            "--cores"
        )
    _facts_of_running(job_id)
    return Job(job_id, pwd.getpwuid(os.getuid()).pw_name, dict(_cores_by_oarstat(job_id)))


def has_ended(job_id: int) -> bool:
    """Whether a job has ended, or is not the calling user's.

    Raises:
        NoOarstatError: there is no oarstat here.
        CommandError: oarstat did not answer.
    """
    facts = job_facts(job_id)
    user = pwd.getpwuid(os.getuid()).pw_name
    return facts.get("owner") != user or facts.get("state") in ENDED


def why_over(job_id: int) -> str:
    """Return why a job has no containers by now; empty if it runs, or OAR cannot be asked."""
    try:
        _facts_of_running(job_id)
    except (CommandError, CommandTimeoutError, NoOarstatError):
        return ""
    except JobError as error:
        return str(error)
    return ""


def _nodes_by_oarstat(job_id: int) -> list[str]:
    names = _facts_of_running(job_id).get("assigned_hostnames")
    if names is None:  # OAR 3 tells them with the resources alone
        return list(_cores_by_oarstat(job_id))
    return [name for name in names.split("+") if name]


def _facts_of_running(job_id: int) -> dict[str, str]:
    """Return what OAR tells of a job; raise an error unless it is this user's and runs."""
    facts = job_facts(job_id)
    user = pwd.getpwuid(os.getuid()).pw_name
    if not facts:
        raise JobError(f"OAR knows no job {job_id}")
    if facts.get("owner", user) != user:
        raise JobError(f"job {job_id} belongs to {facts['owner']}, not to {user}")
    state = facts.get("state", "unknown")
    if state in ENDED:
        raise JobError(f"job {job_id} has ended ({state}), and its containers with it")
    if state in ENDING:
        raise JobError(f"job {job_id} is ending ({state}), and its containers with it")
    if state != "Running":
        raise JobError(f"job {job_id} is {state}: it has containers only while it is Running")
    return facts


def _cores_by_oarstat(job_id: int) -> Counter[str]:
    """Return how many cores of each node a job has; only a running job has any."""
    resources = parse_resources(job_resources(job_id), f"oarstat -p -j {job_id}")
    return Counter(r["network_address"] for r in resources if r.get("network_address"))


def list_containers(remote: Remote) -> list[Container]:
    """Return the containers of a job, sorted by name, with numbers in numeric order.

    Raises:
        NodeError: a node did not answer; an error must not look like "no containers".
        JobError: no node answered, because the job has ended meanwhile.
    """
    found, errors = ask_nodes(remote)
    raise_first(errors)
    return found


def ask_nodes(remote: Remote, wanted: str = "") -> tuple[list[Container], list[NodeError]]:
    """Ask a job's nodes for its containers, sorted by name; return errors of nodes, too.

    Args:
        remote: the job's nodes.
        wanted: the container to look for. Once it is found, other nodes, which may be dead or
            slow, are not waited for.

    Raises:
        JobError: no node answered, because the job has ended meanwhile.
    """
    found: list[Container] = []
    errors: list[NodeError] = []

    def take(node: str, event: Event) -> None:
        if isinstance(event, Container):
            found.append(event)
            if event.name == wanted:
                raise _FoundError

    with suppress(_FoundError):
        errors = remote.call(List(), take)
    if errors and not found and not remote.local and (why := why_over(remote.job_id)):
        raise JobError(why)
    nodes = {container.name: container.node for container in found}
    if nodes:
        remember(remote.job_id, recall(remote.job_id) | nodes if wanted or errors else nodes)
    return sorted(found, key=lambda c: by_number(c.name)), errors


class _FoundError(Exception):
    """The wanted container is found."""


def find_container(remote: Remote, name: str) -> Container:
    """Return one container of a job by its name, even if other nodes do not answer.

    Raises:
        ContainerError: the job has no such container; the message names those that it has.
        NodeError: a node that may have it did not answer.
    """
    containers, errors = ask_nodes(remote, name)
    for container in containers:
        if container.name == name:
            return container
    raise_first(errors)
    known = ", ".join(c.name for c in containers) or "none"
    raise ContainerError(name, "", f"job {remote.job_id} has no such container; it has: {known}")


def find_keys(remote: Remote) -> dict[str, str]:
    """Return the job's ssh key: ``client``, a private key.

    Raises:
        JobError: no node has the key; the job has not launched containers yet.
    """
    for _, keys in remote.collect(TellKeys(), Keys):
        return {"client": keys.client}
    raise JobError(f"job {remote.job_id} has no ssh key: it has not launched containers yet")
