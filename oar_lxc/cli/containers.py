"""``oar-lxc list|exec|shell|ssh``: containers of a job, inside it and from a frontend."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import click

from oar_lxc.errors import ContainerError
from oar_lxc.execute import NOT_EXECUTED
from oar_lxc.layout import check_job_id
from oar_lxc.lookup import (
    FoundContainer,
    find_container,
    find_keys,
    find_remote,
    list_containers,
    parse_target,
)
from oar_lxc.remote import Remote, oarsh_environ


@click.command("list")
@click.argument("job", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list of objects.")
def list_(job: str | None, as_json: bool) -> None:
    """List the containers of a job: of JOB, or of the job this is run in.

    \b
    Examples:
      oar-lxc list             inside a job
      oar-lxc list 42          on a frontend
      oar-lxc list 42 --json
    """
    remote = find_remote(None if job is None else check_job_id(job))
    containers = list_containers(remote)
    if as_json:
        click.echo(json.dumps([asdict(c) for c in containers], indent=1))
        return
    if not containers:
        click.echo(f"job {remote.job_id} has no containers", err=True)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("CONTAINER", "NODE", "STATE", "ADDRESS", "PID", "CPUS"):
        table.add_column(title, no_wrap=True)
    for c in containers:
        table.add_row(c.name, c.node, c.state, c.address, str(c.pid or "-"), c.cpus or "-")
    Console(soft_wrap=True, highlight=False).print(table)


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("container")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(container: str, command: tuple[str, ...]) -> None:
    """Run COMMAND as root in CONTAINER; its exit status is the command's.

    CONTAINER is JOB/NAME, or NAME inside a job. Standard streams are passed through.

    \b
    Examples:
      oar-lxc exec vm1 -- hostname
      oar-lxc exec 42/vm1 -- sh -c 'nproc; free -h'
      tar c data | oar-lxc exec 42/vm1 -- tar x -C /root
    """
    remote, found = _find(container)
    # With a terminal on both ends, Ctrl-C reaches the command.
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    argv = _doorway(remote, found.node, "attach", found.name, *command, terminal=terminal)
    status = subprocess.call(argv)
    if status in NOT_EXECUTED:
        click.echo(f"oar-lxc: {command[0]}: {NOT_EXECUTED[status]} in {found.name}", err=True)
    sys.exit(status if status >= 0 else 128 - status)


@click.command()
@click.argument("container")
def shell(container: str) -> None:
    """Open a root shell in CONTAINER (JOB/NAME, or NAME inside a job).

    \b
    Examples:
      oar-lxc shell vm1
      oar-lxc shell 42/vm1
    """
    remote, found = _find(container)
    argv = _doorway(remote, found.node, "attach", found.name, terminal=sys.stdin.isatty())
    os.execvp(argv[0], argv)  # noqa: S606  # this process becomes the shell's


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("container")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(container: str, command: tuple[str, ...]) -> None:
    """Open ssh to CONTAINER as root, with the key that was made for the job.

    The host key is checked against the one that the job gave to its containers. COMMAND is run
    instead of a shell where given, as with ssh.

    \b
    Examples:
      oar-lxc ssh 42/vm1
      oar-lxc ssh 42/vm1 uptime
    """
    remote, found = _find(container)
    keys = find_keys(remote)
    proxy = _doorway(remote, found.node, "connect", found.name)
    with tempfile.TemporaryDirectory(prefix="oar-lxc-") as directory:
        key = Path(directory) / "key"
        key.touch(mode=0o600)
        key.write_text(keys["client"])
        known = Path(directory) / "known_hosts"
        kind, public = keys["host_public"].split()[:2]
        known.write_text(f"{found.name} {kind} {public}\n")
        options = {
            "ProxyCommand": shlex.join(proxy).replace("%", "%%"),
            "IdentityFile": str(key),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(known),
            "HostKeyAlias": found.name,
            "StrictHostKeyChecking": "yes",
        }
        argv = ["ssh", "-F", "/dev/null"]
        for name, value in options.items():
            argv += ["-o", f"{name}={value}"]
        status = subprocess.call([*argv, f"root@{found.name}", *command])
    sys.exit(status if status >= 0 else 128 - status)


def _find(container: str) -> tuple[Remote, FoundContainer]:
    job_id, name = parse_target(container)
    remote = find_remote(job_id)
    found = find_container(remote, name)
    if found.state != "RUNNING":
        raise ContainerError(name, found.node, f"it is {found.state}, not RUNNING")
    return remote, found


def _doorway(
    remote: Remote, node: str, action: str, *arguments: str, terminal: bool = False
) -> list[str]:
    """Return the command that opens a container's door on its node."""
    argv = [sys.executable, "-m", "oar_lxc.doorway", str(remote.job_id), action, *arguments]
    if node == remote.local:
        return argv
    option = ["-t"] if terminal else []
    variables = [f"{key}={value}" for key, value in oarsh_environ(remote.job_id).items()]
    return ["env", *variables, "oarsh", *option, node, shlex.join(argv)]
