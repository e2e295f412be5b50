"""``oar-lxc``: the command line of users and administrators."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import MutableMapping
from importlib import import_module
from typing import Any

import click

from oar_lxc import __version__
from oar_lxc.errors import OutputError, printable
from oar_lxc.linux.error_exit import DEBUG, INTERRUPTED, exit_on_error
from oar_lxc.model.hints import nearest

Facts = MutableMapping[str, Any]
NEWLINE = "\n"
# Command name → (module, attribute, one line of help). A module is imported when its command runs.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "plan": ("oar_lxc.cli.plan", "plan", "Show what a spec file would make, and where."),
    "list": ("oar_lxc.cli.look", "list_", "List the containers of a job."),
    "show": ("oar_lxc.cli.look", "show", "Show all that is known of a container."),
    "net": ("oar_lxc.cli.net", "net", "Show a job's networks, and change their links."),
    "timeline": ("oar_lxc.cli.timeline", "timeline", "Tell where the time of a job went."),
    "exec": ("oar_lxc.cli.exec", "exec_", "Run a command in a container."),
    "shell": ("oar_lxc.cli.exec", "shell", "Open a shell in a container."),
    "console": ("oar_lxc.cli.exec", "console", "Open the console of a container."),
    "ssh": ("oar_lxc.cli.exec", "ssh", "Open ssh to a container with the job's key."),
    "cp": ("oar_lxc.cli.copy", "cp", "Copy files into and out of containers."),
    "logs": ("oar_lxc.cli.look", "logs", "Print the journal of a container, or LXC's log."),
    "start": ("oar_lxc.cli.control", "start", "Start containers that were stopped."),
    "stop": ("oar_lxc.cli.control", "stop", "Stop containers, and keep their files."),
    "restart": ("oar_lxc.cli.control", "restart", "Stop containers and start them again."),
    "freeze": ("oar_lxc.cli.control", "freeze", "Stop all processes where they are."),
    "unfreeze": ("oar_lxc.cli.control", "unfreeze", "Let frozen containers run on."),
    "ssh-config": ("oar_lxc.cli.sshconfig", "ssh_config", "Let ssh, scp, rsync … reach a job."),
    "inventory": ("oar_lxc.cli.inventory", "inventory", "Print an Ansible inventory of a job."),
    "reap": ("oar_lxc.cli.reap", "reap", "Destroy what dead jobs left, on this node or on all."),
    "image": ("oar_lxc.cli.images", "image", "List, import, build and verify images."),
    "doctor": ("oar_lxc.cli.doctor", "doctor", "Tell what is wrong on a machine, or on all."),
    "setup": ("oar_lxc.cli.setup", "setup", "Configure a machine as server, frontend or node."),
    "sandbox": ("oar_lxc.cli.sandbox", "sandbox", "A real OAR cluster on this machine."),
}


class LazyGroup(click.Group):
    """A group that imports a command only when it runs, and lists commands without imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order of :data:`COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None if there is no command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{attribute} is not a command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; for an unknown one, fail with a hint at a similar name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = nearest(args[0], COMMANDS)
            hint = f"; did you mean {near}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without imports."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, _, help_) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="oar-lxc")
@click.option("-v", "--verbose", is_flag=True, help="Log what is done, on standard error.")
@click.option("--log-json", is_flag=True, help="Log it as JSON, one object per line.")
def cli(verbose: bool, log_json: bool) -> None:
    """LXC system containers inside OAR jobs.

    \b
    Examples:
      oarsub -S ./jobscripts/lxc_job.py   start containers in a job
      oar-lxc list 42                     see the containers of job 42
      oar-lxc exec 42/vm1 -- hostname     run a command in one
      oar-lxc ssh 42/vm1                  open ssh to one
    """
    if verbose:
        os.environ[DEBUG] = "1"  # for this process and its children
    if verbose or log_json:
        log_to_stderr(log_json)


def log_to_stderr(as_json: bool = False) -> None:
    """Log to standard error what the package does; this loads structlog.

    Args:
        as_json: write lines of JSON, with the keys of the node's log; else lines for people.
    """
    import structlog  # takes 0.1 s, and most calls do not need it

    begin = time.monotonic()

    def with_seconds(logger: object, method: str, facts: Facts) -> Facts:
        facts["after"] = f"{time.monotonic() - begin:.2f} s"
        return facts

    def in_order(logger: object, method: str, facts: Facts) -> Facts:
        first = {key: facts[key] for key in ("timestamp", "level", "event")}
        return {**first, **facts}

    processors: list[structlog.typing.Processor] = [structlog.processors.add_log_level]
    if as_json:
        stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        processors += [stamp, in_order, structlog.processors.JSONRenderer(default=str)]
    else:
        stamp = structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False)
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        processors += [stamp, with_seconds, renderer]
    structlog.configure(processors, logger_factory=structlog.PrintLoggerFactory(sys.stderr))


def main() -> None:
    """Run the command line; turn an error of the package into one message and an exit status."""
    with exit_on_error(_tell):
        _open_closed_streams()
        if os.environ.get("_OAR_LXC_COMPLETE", "").startswith("tcsh"):
            from oar_lxc.setup.completion import know_tcsh

            know_tcsh()
        try:
            status = cli.main(prog_name="oar-lxc", standalone_mode=False)
        except click.Abort:
            sys.exit(INTERRUPTED)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        finally:
            _flush()
        sys.exit(status if isinstance(status, int) else 0)


def _open_closed_streams() -> None:
    """Put /dev/null in the place of each standard stream that is closed.

    Else the next file that is opened would take its number; and Python has None for it, which has
    no methods.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", closefd=False))


def _flush() -> None:
    """Write what standard output still holds; Python would only complain when it exits.

    Raises:
        OutputError: it cannot be written, as on a full disk.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise OutputError(error) from error


def _tell(text: str) -> None:
    click.echo(f"oar-lxc: {printable(text, keep=NEWLINE)}", err=True)


if __name__ == "__main__":
    main()
