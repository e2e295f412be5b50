"""``oar-lxc timeline``: show how long each phase of a job's containers took."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import click

from oar_lxc.cli.shared.table import print_table
from oar_lxc.cli.shared.targets import complete_job, remote_of_job
from oar_lxc.model.events import Phase
from oar_lxc.model.requests import Timeline
from oar_lxc.remote.agents import Remote


@click.command()
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list of objects.")
@click.option("--steps", is_flag=True, help="Also what each step of the preparation took.")
def timeline(job: str | None, as_json: bool, steps: bool) -> None:
    """Show how many seconds each phase took on each node of JOB; inside a job, of that job.

    \b
    prepare     root's work before the job script starts
    image       unpacking a user's own images; public ones are there already
    create      making directories, configurations and limits of containers
    start       from the first start to the last RUNNING; overlaps with create
    boot        until the containers with a provision script have booted
    provision   running those scripts
    ready       from then until all are ready, as `wait` asks, such as ssh
    destroy     killing and removing containers

    \b
    Examples:
      oar-lxc timeline            inside a job
      oar-lxc timeline 42         on a frontend
      oar-lxc timeline 42 --json
    """
    remote = remote_of_job(job)
    phases = find_phases(remote)
    if as_json:
        click.echo(json.dumps([_facts(node, phase) for node, phase in phases], indent=1))
        return
    rows = []
    for node, phase in phases:
        begin = time.strftime("%H:%M:%S", time.localtime(phase.begin))
        count = str(phase.containers or "-")
        rows.append((node, phase.phase, begin, f"{phase.seconds:.3f}", count))
        for step, took in phase.steps.items() if steps else ():
            rows.append(("", f"  {step}", "", f"{took:.3f}", ""))
    titles = ("NODE", "PHASE", "BEGIN", "SECONDS", "CONTAINERS")
    print_table(titles, rows, right=("SECONDS", "CONTAINERS"))


def _facts(node: str, phase: Phase) -> dict[str, object]:
    """Return the facts of a phase for JSON; leave out its steps if it has none."""
    facts = {"node": node, **asdict(phase)}
    return facts if phase.steps else {k: v for k, v in facts.items() if k != "steps"}


def find_phases(remote: Remote) -> list[tuple[str, Phase]]:
    """Return the phases by node and time; see :func:`oar_lxc.agent.timeline.read_timeline`.

    Raises:
        NodeError: a node did not answer.
    """
    order = {node: number for number, node in enumerate(remote.nodes)}
    found = remote.collect(Timeline(), Phase)
    return sorted(found, key=lambda one: (order.get(one[0], 0), one[1].begin))
