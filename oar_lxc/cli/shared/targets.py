"""Find the jobs and containers that a command line names, and complete their names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

import click
from click.shell_completion import CompletionItem

from oar_lxc.client import lookup
from oar_lxc.client.lookup import find_container, list_containers, parse_target
from oar_lxc.errors import ContainerError, OarLxcError, UsageError
from oar_lxc.model.events import Container
from oar_lxc.model.layout import check_job_id
from oar_lxc.model.states import RUNNING, not_running
from oar_lxc.oar.commands import running_jobs
from oar_lxc.remote.agents import Remote

COMPLETION_TIMEOUT = 5.0  # seconds; the user waits at a prompt


def complete_container(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Complete ``JOB/CONTAINER``: first the job, then the container."""
    with suppress(OarLxcError, OSError):
        job, slash, _ = begun.rpartition("/")
        inside = bool(os.environ.get("OAR_JOB_ID"))
        if not slash and not inside:
            return [
                CompletionItem(f"{job_id}/")
                for job_id in running_jobs(COMPLETION_TIMEOUT)
                if job_id.startswith(begun)
            ]
        remote = lookup.find_remote(check_job_id(job) if slash else None)
        names = (f"{job}{slash}{container.name}" for container in list_containers(remote))
        return [CompletionItem(name) for name in names if name.startswith(begun)]
    return []


def complete_job(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Complete the number of a running job of the caller's."""
    with suppress(OarLxcError, OSError):
        return [
            CompletionItem(job_id)
            for job_id in running_jobs(COMPLETION_TIMEOUT)
            if job_id.startswith(begun)
        ]
    return []


def remote_of_job(job: str | None) -> Remote:
    """Return the ``Remote`` of the job that a command line names; None: the job around us.

    Raises:
        UsageError: the text is not a job's number.
        JobError: the caller has no such running job.
    """
    return lookup.find_remote(None if job is None else check_job_id(job))


def find_running(target: str) -> tuple[Remote, Container]:
    """Return a running container, and its job's ``Remote``.

    Args:
        target: ``JOB/CONTAINER``, or ``CONTAINER`` inside a job.

    Raises:
        UsageError: the target has neither form.
        JobError: the caller has no such running job.
        ContainerError: there is no such container, or it does not run; the message says what to
            do.
    """
    remote, found = find_target(target)
    if found.state != RUNNING:
        raise ContainerError(found.name, found.node, not_running(found.state))
    return remote, found


def find_target(target: str) -> tuple[Remote, Container]:
    """Return a container in any state, and its job's ``Remote``; see :func:`find_running`."""
    job_id, name = parse_target(target)
    remote = lookup.find_remote(job_id)
    return remote, find_container(remote, name)


def find_several(targets: Sequence[str]) -> tuple[Remote, list[Container]]:
    """Return several containers of one job, sorted, and the job's ``Remote``.

    Args:
        targets: ``JOB/CONTAINER`` or ``CONTAINER`` each, or ``JOB/`` for all of a job.

    Raises:
        UsageError: a target has none of these forms, or they are of several jobs.
        ContainerError: the job has no such container.
    """
    wanted: set[str] | None = set()
    jobs = set()
    for target in targets:
        job, slash, name = target.rpartition("/")
        if slash and not name:
            jobs.add(str(check_job_id(job)))
            wanted = None
            continue
        job_id, name = parse_target(target)
        jobs.add("" if job_id is None else str(job_id))
        if wanted is not None:
            wanted.add(name)
    if len(jobs) > 1:
        raise UsageError(f"containers of one job at a time, not of {', '.join(sorted(jobs))}")
    job = jobs.pop()
    remote = lookup.find_remote(int(job) if job else None)
    containers = list_containers(remote)
    known = {container.name for container in containers}
    for name in sorted((wanted or set()) - known):
        has = ", ".join(container.name for container in containers) or "none"
        raise ContainerError(name, "", f"job {remote.job_id} has no such container; it has: {has}")
    return remote, [c for c in containers if wanted is None or c.name in wanted]
