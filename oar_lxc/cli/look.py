"""``oar-lxc list|show|logs``: look at the containers of a job, from inside it or a frontend."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import click

from oar_lxc.cli.shared.attach import on_node_of, run_attach
from oar_lxc.cli.shared.meter import Meter
from oar_lxc.cli.shared.table import print_table
from oar_lxc.cli.shared.targets import complete_container, complete_job, remote_of_job
from oar_lxc.client.lookup import ask_nodes
from oar_lxc.errors import ContainerError, printable
from oar_lxc.model.events import OfContainer, Shown
from oar_lxc.model.requests import Show
from oar_lxc.model.states import RUNNING
from oar_lxc.remote.agents import Remote, raise_first


@click.command("list")
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list of objects.")
def list_(job: str | None, as_json: bool) -> None:
    """List the containers of JOB; inside a job, by default of that job.

    A container is not READY while the job waits for it or its provision script runs.

    \b
    Examples:
      oar-lxc list             inside a job
      oar-lxc list 42          on a frontend
      oar-lxc list 42 --json
    """
    with Meter("asking the nodes", files=False):  # one that is down keeps us waiting
        remote = remote_of_job(job)
        containers, errors = ask_nodes(remote)
    if as_json:
        click.echo(json.dumps([_facts(c) for c in containers], indent=1))
    elif containers:
        print_table(
            ("CONTAINER", "NODE", "STATE", "READY", "ADDRESS", "PID", "CPUS"),
            [
                (
                    c.name,
                    c.node,
                    c.state,
                    ("yes" if c.ready else "no") if c.state == RUNNING else "-",
                    c.address or "-",
                    str(c.pid or "-"),
                    c.cpus or "-",
                )
                for c in containers
            ],
        )
    elif not errors:
        click.echo(f"job {remote.job_id} has no containers", err=True)
    for error in errors[:-1]:
        click.echo(f"oar-lxc: {printable(str(error))}", err=True)
    raise_first(errors[-1:])


@click.command()
@click.argument("container", shell_complete=complete_container)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object.")
def show(container: str, as_json: bool) -> None:
    """Show all that is known of CONTAINER: its state, image, limits, and what it uses of them.

    \b
    Examples:
      oar-lxc show 42/vm1
      oar-lxc show vm1 --json
    """
    job_id, shown = on_node_of(container, _shown, any_state=True)
    if as_json:
        facts = _facts(shown)
        told = {"name": facts.pop("name"), "job": job_id, **facts}
        click.echo(json.dumps(told, indent=1))
        return
    for key, value in fact_lines(job_id, shown):
        if value:
            click.echo(f"{key + ':':<14} {value}")


def _shown(remote: Remote, node: str, name: str) -> tuple[int, Shown]:
    """Return the job's id, and what the node knows of a container."""
    for _, shown in remote.collect(Show((name,)), Shown, [node]):
        return remote.job_id, shown
    raise ContainerError(name, node, "it is gone")


def _facts(told: OfContainer) -> dict[str, object]:
    """Return the facts of a container, for JSON."""
    facts = {key: value for key, value in asdict(told).items() if value is not None}
    return {"name": facts.pop("container"), **facts}


def fact_lines(job_id: int, shown: Shown) -> list[tuple[str, str]]:
    """Return the facts of a container as lines for people: key and text."""
    unready = shown.state == RUNNING and not shown.ready
    lines = [
        ("container", f"{job_id}/{shown.name}"),
        ("state", shown.state + (", not ready yet" if unready else "")),
        ("node", shown.node),
        ("address", shown.address or "none in the main network; see oar-lxc net"),
        ("group", shown.group),
        ("image", shown.image),
    ]
    if shown.pid:
        lines.append(("init", f"process {shown.pid} of the node"))
    if shown.cpus is not None:
        own = f", {shown.cores} reserved for it" if shown.cores else ""
        used = "" if shown.cpu_seconds is None else f", {shown.cpu_seconds:g} s used"
        lines.append(("CPUs", shown.cpus + own + used))
    if shown.memory is not None:
        lines.append(("memory", size(shown.memory) + _of(shown.memory_limit, size)))
    if shown.oom_kills is not None:
        lines.append(("out of memory", f"{shown.oom_kills} times a process was killed"))
    if shown.processes is not None:
        lines.append(("processes", f"{shown.processes}{_of(shown.processes_limit, str)}"))
    if shown.started is not None:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(shown.started))
        if shown.ready_seconds is not None:
            at += f", ready after {shown.ready_seconds:.2f} s"
        lines.append(("started", at))
    if shown.listens is not None:
        lines.append(("listens at", ", ".join(map(str, shown.listens)) or "no TCP port"))
    for port in shown.ports:
        lines.append(("port", f"{port.node} of the node leads to {port.container}"))
    return lines


def _of(limit: int | None, write: Callable[[int], str]) -> str:
    return f" of {write(limit)}" if limit else ", no limit of its own"


def size(number: int) -> str:
    """Return a number of bytes as text for people, in units of powers of 1024."""
    value, units = float(number), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


@click.command()
@click.argument("container", shell_complete=complete_container)
@click.option("-f", "--follow", is_flag=True, help="Print what comes, until Ctrl-C.")
@click.option(
    "-n", "--lines", type=click.IntRange(0), help="So many lines at the end; all by default."
)
@click.option("--lxc", is_flag=True, help="LXC's log of it on the node, also when it is stopped.")
def logs(container: str, follow: bool, lines: int | None, lxc: bool) -> None:
    """Print the journal of CONTAINER.

    \b
    Examples:
      oar-lxc logs 42/vm1
      oar-lxc logs -f -n 20 vm1
      oar-lxc logs --lxc 42/vm1     why it did not start
    """
    if lxc:
        count = "+1" if lines is None else str(lines)
        sys.exit(run_attach(container, "log", count, *(["follow"] if follow else [])))
    options = ["--follow"] if follow else []
    options += ["--no-tail"] if follow and lines is None else []
    options += [] if lines is None else ["--lines", str(lines)]
    # The command gets no terminal: a pager would take the user's keys, and Ctrl-C must end us.
    script = (
        "command -v journalctl >/dev/null || "
        "{ echo 'oar-lxc: this image has no journal (no journalctl): see --lxc, or its own logs "
        'below /var/log\' >&2; exit 1; }; exec journalctl --no-pager --quiet "$@"'
    )
    sys.exit(run_attach(container, "attach", "sh", "-c", script, "sh", *options))
