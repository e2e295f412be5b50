"""``oar-lxc exec|shell|console|ssh``: run a command or a shell in a container of a job."""

from __future__ import annotations

import json
import os
import shlex
import sys
from functools import partial

import click

from oar_lxc.cli.shared.attach import attach_command, on_node_of, on_terminal, run_attach
from oar_lxc.cli.shared.streams import in_memory, run_here, running_attach
from oar_lxc.cli.shared.targets import complete_container
from oar_lxc.client.ssh_options import ssh_options
from oar_lxc.errors import UsageError
from oar_lxc.linux.logger import get_logger
from oar_lxc.remote.agents import Remote

_log = get_logger()


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("container", shell_complete=complete_container)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(container: str, command: tuple[str, ...]) -> None:
    """Run COMMAND as root in CONTAINER; the exit status is that of COMMAND.

    CONTAINER is JOB/NAME, or NAME inside a job. The words of COMMAND and the standard streams are
    passed on unchanged. If standard input and output are a terminal, COMMAND has a terminal, too.
    Otherwise, a signal that ends this command is passed on to COMMAND.

    \b
    Examples:
      oar-lxc exec vm1 -- hostname
      oar-lxc exec 42/vm1 -- sh -c 'nproc; free -h'
      tar c data | oar-lxc exec 42/vm1 -- tar x -C /root
    """
    sys.exit(run_attach(container, "attach", *command, terminal=on_terminal()))


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
    sys.exit(run_attach(container, "attach", terminal=on_terminal()))


@click.command()
@click.argument("container", shell_complete=complete_container)
def console(container: str) -> None:
    """Open the console of CONTAINER, like its own screen and keyboard, with root logged in.

    Leave it with Ctrl-a q. Programs on the console go on, and are still there when you open it
    again, from any machine.

    \b
    Examples:
      oar-lxc console vm1
      oar-lxc console 42/vm1
    """
    if not on_terminal():
        raise UsageError("a console needs a terminal: run it from one, or use `oar-lxc exec`")
    sys.exit(run_attach(container, "console", terminal=True))


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("container", shell_complete=complete_container)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(container: str, command: tuple[str, ...]) -> None:
    """Open ssh to CONTAINER as root, with the job's key.

    The host key must be the one that the job gave to this container. With COMMAND, run it instead
    of a shell. As always with ssh, its words are joined by blanks, and the shell in the container
    splits them again; `oar-lxc exec` passes words on unchanged. For ssh's own options, scp, rsync
    and others, see `oar-lxc ssh-config`.

    \b
    Examples:
      oar-lxc ssh 42/vm1
      oar-lxc ssh 42/vm1 uptime
      oar-lxc ssh 42/vm1 "grep 'two words' /etc/motd"
    """
    sys.exit(on_node_of(container, partial(_ssh, command)))


def _ssh(command: tuple[str, ...], remote: Remote, node: str, name: str) -> int:
    """Run ssh through a running attach program, which first sends the keys."""
    attach = attach_command(remote, node, "ssh", name, marked=True)
    with running_attach(attach.argv, attach.token) as streams:
        keys = json.loads(streams.line())
        # The files are in memory, so that none is left, however this process ends.
        key = in_memory("id_ed25519", keys["client"])
        known_hosts = in_memory("known_hosts", f"{name} {keys['host_key']}\n")
        # The attach program runs already: cat connects ssh to it without delay.
        proxy = f"/bin/cat <{streams.out} & exec /bin/cat >{streams.into}"
        argv = ["ssh", "-F", "/dev/null"]
        for option, value in ssh_options(key, known_hosts, name, proxy).items():
            argv += ["-o", f"{option}={value}"]
        argv += [name, *command]
        _log.info("running ssh", command=shlex.join(argv))
        # ssh runs a proxy command by the shell in SHELL, which may not know this syntax.
        return run_here(argv, {**os.environ, "SHELL": "/bin/sh"})
