"""``oar-lxc list|show|logs``: look at the containers of a job, inside it and from a frontend."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import Any

import click

from oar_lxc.cli.shared import reach
from oar_lxc.cli.shared.reach import complete_container, complete_job
from oar_lxc.cli.shared.table import print_table
from oar_lxc.client.lookup import ask_nodes
from oar_lxc.container.runtime import RUNNING
from oar_lxc.errors import ContainerError, printable
from oar_lxc.model.layout import check_job_id
from oar_lxc.remote.agents import Remote, raise_first


@click.command("list")
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list of objects.")
def list_(job: str | None, as_json: bool) -> None:
    """List the containers of a job: of JOB, or of the job this is run in.

    One is not READY while it is waited for or its provision script runs.

    \b
    Examples:
      oar-lxc list             inside a job
      oar-lxc list 42          on a frontend
      oar-lxc list 42 --json
    """
    remote = reach.remote_of(None if job is None else check_job_id(job))
    containers, errors = ask_nodes(remote)
    if as_json:
        click.echo(json.dumps([asdict(c) for c in containers], indent=1))
    elif containers:
        print_table(
            ("CONTAINER", "NODE", "STATE", "READY", "ADDRESS", "PID", "CPUS"),
            [
                (
                    c.name,
                    c.node,
                    c.state,
                    ("yes" if c.ready else "no") if c.state == RUNNING else "-",
                    c.address,
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
    """Show all that is known of CONTAINER: state, image, limits, what it uses of them.

    \b
    Examples:
      oar-lxc show 42/vm1
      oar-lxc show vm1 --json
    """
    facts = reach.at_door(container, _facts, any_state=True)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    for key, value in describe(facts):
        if value:
            click.echo(f"{key + ':':<14} {value}")


def _facts(remote: Remote, node: str, name: str) -> dict[str, Any]:
    """Return what a node knows of a container."""
    shown: list[dict[str, Any]] = []

    def take(node: str, event: dict[str, Any]) -> None:
        shown.append({key: value for key, value in event.items() if key != "event"})

    raise_first(remote.call("show", {"containers": [name]}, take, [node]))
    if not shown:
        raise ContainerError(name, node, "it is gone")
    return {"name": shown[0].pop("container"), "job": remote.job_id, **shown[0]}


def describe(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of a container, in words for people."""
    unready = facts["state"] == RUNNING and not facts["ready"]
    lines = [
        ("container", f"{facts['job']}/{facts['name']}"),
        ("state", facts["state"] + (", not ready yet" if unready else "")),
        ("node", facts["node"]),
        ("address", facts["address"]),
        ("group", facts["group"]),
        ("image", facts["image"]),
    ]
    if facts["pid"]:
        lines.append(("init", f"process {facts['pid']} of the node"))
    if "cpus" in facts:
        own = f", {facts['cores']} reserved for it" if facts["cores"] else ""
        used = f", {facts['cpu_seconds']:g} s used" if "cpu_seconds" in facts else ""
        lines.append(("CPUs", facts["cpus"] + own + used))
    if "memory" in facts:
        lines.append(("memory", size(facts["memory"]) + _of(facts.get("memory_limit"), size)))
    if "oom_kills" in facts:
        lines.append(("out of memory", f"{facts['oom_kills']} times a process was killed"))
    if "processes" in facts:
        lines.append(
            ("processes", f"{facts['processes']}{_of(facts.get('processes_limit'), str)}")
        )
    if "started" in facts:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["started"]))
        ready = f", ready after {facts['ready_seconds']:.2f} s" if "ready_seconds" in facts else ""
        lines.append(("started", at + ready))
    if "listens" in facts:
        lines.append(("listens at", ", ".join(map(str, facts["listens"])) or "no TCP port"))
    for port in facts["ports"]:
        lines.append(("port", f"{port['node']} of the node leads to {port['container']}"))
    return lines


def _of(limit: int | None, write: Any) -> str:
    return f" of {write(limit)}" if limit else ", no limit of its own"


def size(number: int) -> str:
    """Return a number of bytes as people read it, in units of 1024."""
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
        sys.exit(reach.through(container, "log", count, *(["follow"] if follow else [])))
    options = ["--follow"] if follow else []
    options += ["--no-tail"] if follow and lines is None else []
    options += [] if lines is None else ["--lines", str(lines)]
    # Without a terminal for it: a pager would read what is typed, and Ctrl-C is ours.
    script = (
        "command -v journalctl >/dev/null || "
        "{ echo 'oar-lxc: this image has no journal (no journalctl): see --lxc, or its own logs "
        'below /var/log\' >&2; exit 1; }; exec journalctl --no-pager --quiet "$@"'
    )
    sys.exit(reach.through(container, "attach", "sh", "-c", script, "sh", *options))
