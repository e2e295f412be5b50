"""``oar-lxc ssh-config``: let ssh, and programs that use it, reach the containers of a job."""

from __future__ import annotations

import shlex

import click

from oar_lxc.cli.shared.attach import oarsh_attach_command
from oar_lxc.cli.shared.meter import Meter
from oar_lxc.cli.shared.targets import complete_job, remote_of_job
from oar_lxc.client.lookup import find_keys, has_ended, list_containers
from oar_lxc.client.sshfiles import (
    INCLUDE,
    SshFiles,
    host_name,
    include,
    is_included,
    known_jobs,
    ssh_home,
)
from oar_lxc.errors import OarLxcError, UsageError
from oar_lxc.model.events import Container
from oar_lxc.model.layout import check_job_id
from oar_lxc.remote.agents import Remote


@click.command("ssh-config")
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--install", is_flag=True, help="Put the Include line into ~/.ssh/config.")
@click.option("--remove", is_flag=True, help="Remove the files of JOB, or of all jobs.")
def ssh_config(job: str | None, install: bool, remove: bool) -> None:
    """Let ssh, scp, rsync, Ansible … reach the containers of JOB as CONTAINER.JOB.

    Writes the directory ~/.ssh/oar-lxc/JOB with the job's key, and with an entry and the host key
    of each container. Removes the files of jobs that have ended.

    \b
    Examples:
      oar-lxc ssh-config 42 --install
      ssh vm1.42
      scp data.csv vm1.42:
      rsync -a src/ vm2.42:src/
      ssh -L 8080:localhost:80 vm1.42
      clush -w vm[1-4].42 uptime
      oar-lxc ssh-config 42 --remove
    """
    home = ssh_home()
    if remove:
        if install:
            raise UsageError("--install or --remove, not both")
        removed = False
        for number in known_jobs(home) if job is None else [check_job_id(job)]:
            if SshFiles(number, home).remove():
                click.echo(f"removed {SshFiles(number, home).directory}")
                removed = True
        if not removed:
            click.echo(f"no files of {f'job {job}' if job else 'jobs'} in {home / 'oar-lxc'}")
        return
    with Meter("asking the nodes"):
        remote = remote_of_job(job)
        files, containers = write_files(remote)
    for container in containers:
        click.echo(host_name(container.name, remote.job_id))
    if install:
        include(home)
    elif not is_included(home):
        click.echo(
            f"to call them so, put this line at the top of {home / 'config'}, or let --install "
            f"do it:\n  {INCLUDE}\nor name the file: ssh -F {files.config} …",
            err=True,
        )


def write_files(remote: Remote) -> tuple[SshFiles, list[Container]]:
    """Write the files of a job, and remove those of jobs that have ended.

    Raises:
        UsageError: the job has launched no containers yet.
        OarLxcError: a node does not answer, or the files cannot be written.
    """
    prune(remote.job_id)
    containers = list_containers(remote)
    keys = find_keys(remote)
    files = SshFiles(remote.job_id, ssh_home())

    def proxy(container: Container) -> str:
        # The command must work on every machine that has the user's home.
        return shlex.join(oarsh_attach_command(remote, container.node, "connect", container.name))

    files.write(containers, keys, proxy)
    return files, containers


def prune(but: int) -> None:
    """Remove the files of jobs that have ended, except of job ``but``, if OAR can be asked."""
    home = ssh_home()
    for job_id in known_jobs(home):
        try:
            if job_id != but and has_ended(job_id):
                SshFiles(job_id, home).remove()
        except OarLxcError:
            return  # no oarstat here, or no answer: a later run removes the files
