"""``oar-lxc inventory``: print an Ansible inventory of a job's containers."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence

import click

from oar_lxc.cli.shared.meter import Meter
from oar_lxc.cli.shared.targets import complete_job, remote_of_job
from oar_lxc.cli.sshconfig import write_files
from oar_lxc.client.sshfiles import SshFiles, host_name
from oar_lxc.model.events import Container, Shown
from oar_lxc.model.requests import Show
from oar_lxc.remote.agents import Remote

RESERVED = {"all", "ungrouped", "localhost"}


@click.command()
@click.argument("job", required=False, shell_complete=complete_job)
def inventory(job: str | None) -> None:
    """Print an Ansible inventory of the containers of JOB, by the groups of its spec.

    Like `oar-lxc ssh-config`, this command writes the files for ssh, through which Ansible reaches
    the containers. Hosts are called CONTAINER.JOB.

    \b
    Examples:
      oar-lxc inventory 42 > job.yml
      ansible -i job.yml all -m ping
      ansible-playbook -i job.yml -l web site.yml
    """
    with Meter("asking the nodes"):
        remote = remote_of_job(job)
        files, containers = write_files(remote)
        groups = find_groups(remote, containers)
    click.echo(inventory_text(remote.job_id, files, containers, groups), nl=False)


def find_groups(remote: Remote, containers: Sequence[Container]) -> dict[str, str]:
    """Return the group of each container, by its name."""
    names = tuple(container.name for container in containers)
    return {shown.name: shown.group for _, shown in remote.collect(Show(names), Shown)}


def inventory_text(
    job_id: int,
    files: SshFiles,
    containers: Sequence[Container],
    groups: Mapping[str, str],
) -> str:
    """Return the text of the inventory, in YAML.

    Every scalar is written as JSON, which is also valid YAML.
    """
    by_group: dict[str, list[Container]] = {}
    for container in containers:
        by_group.setdefault(group_name(groups.get(container.name, "")), []).append(container)
    common = f"-F {shlex.quote(str(files.config))}"
    lines = [
        f"# Containers of OAR job {job_id}",
        "all:",
        "  vars:",
        '    ansible_user: "root"',
        f"    ansible_ssh_common_args: {json.dumps(common)}",
        "  children:" if by_group else "  children: {}",
    ]
    for group, members in by_group.items():
        lines += [f"    {group}:", "      hosts:"]
        for container in members:
            lines += [
                f"        {host_name(container.name, job_id)}:",
                f"          oar_lxc_node: {json.dumps(container.node)}",
                f"          oar_lxc_address: {json.dumps(container.address)}",
            ]
    return "\n".join(lines) + "\n"


def group_name(group: str) -> str:
    """Return a name for a group that Ansible accepts: letters, digits, ``_``; not reserved."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", group)
    if not name or name in RESERVED or not name[0].isalpha():
        return f"group_{name}"
    return name
