"""``oar-lxc exec|shell|console|ssh``: get into a container of a job."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from oar_lxc.cli.reach import (
    become,
    complete_container,
    doorway,
    find_running,
    forwarded,
    on_terminal,
    pass_through,
)
from oar_lxc.errors import UsageError
from oar_lxc.lookup import find_keys


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("container", shell_complete=complete_container)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(container: str, command: tuple[str, ...]) -> None:
    """Run COMMAND as root in CONTAINER; its exit status is the command's.

    CONTAINER is JOB/NAME, or NAME inside a job. Standard streams are passed through as they are.
    With a terminal at both ends the command has one too; otherwise a signal that ends this
    command is passed on to it.

    \b
    Examples:
      oar-lxc exec vm1 -- hostname
      oar-lxc exec 42/vm1 -- sh -c 'nproc; free -h'
      tar c data | oar-lxc exec 42/vm1 -- tar x -C /root
    """
    remote, found = find_running(container)
    terminal = on_terminal()
    argv = doorway(remote, found.node, "attach", found.name, *command, terminal=terminal)
    if terminal:
        become(argv)
    sys.exit(pass_through(remote, found, argv))


@click.command()
@click.argument("container", shell_complete=complete_container)
def shell(container: str) -> None:
    """Open a root shell in CONTAINER (JOB/NAME, or NAME inside a job).

    \b
    Examples:
      oar-lxc shell vm1
      oar-lxc shell 42/vm1
      echo 'nproc; free -h' | oar-lxc shell 42/vm1
    """
    remote, found = find_running(container)
    terminal = on_terminal()
    argv = doorway(remote, found.node, "attach", found.name, terminal=terminal)
    if terminal:
        become(argv)
    sys.exit(pass_through(remote, found, argv))


@click.command()
@click.argument("container", shell_complete=complete_container)
def console(container: str) -> None:
    """Open the console of CONTAINER, as on its own screen and keyboard, with root logged in.

    Leave it with Ctrl-a q: what runs there runs on, and is there when the console is opened
    again, from anywhere.

    \b
    Examples:
      oar-lxc console vm1
      oar-lxc console 42/vm1
    """
    if not on_terminal():
        raise UsageError("a console needs a terminal: run it from one, or use `oar-lxc exec`")
    remote, found = find_running(container)
    become(doorway(remote, found.node, "console", found.name, terminal=True))


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("container", shell_complete=complete_container)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(container: str, command: tuple[str, ...]) -> None:
    """Open ssh to CONTAINER as root, with the key that was made for the job.

    The host key is checked against the one that the job gave to its containers. COMMAND is run
    instead of a shell where given, as with ssh. For ssh's own options, scp, rsync and others see
    `oar-lxc ssh-config`.

    \b
    Examples:
      oar-lxc ssh 42/vm1
      oar-lxc ssh 42/vm1 uptime
    """
    remote, found = find_running(container)
    keys = find_keys(remote)
    proxy = doorway(remote, found.node, "connect", found.name)
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
        # A signal ends ssh, not us: the key must not stay behind.
        argv += [f"root@{found.name}", *command]
        with subprocess.Popen(argv) as process, forwarded(process):
            status = process.wait()
    sys.exit(status if status >= 0 else 128 - status)
