"""``oar-lxc timeline``: where the time of a job's containers went."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import click

from oar_lxc.cli.shared import reach
from oar_lxc.cli.shared.reach import complete_job
from oar_lxc.cli.shared.table import print_table
from oar_lxc.model.layout import check_job_id
from oar_lxc.model.wire import Phase, Timeline
from oar_lxc.remote.agents import Remote


@click.command()
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list of objects.")
@click.option("--steps", is_flag=True, help="Also what each step of the preparation took.")
def timeline(job: str | None, as_json: bool, steps: bool) -> None:
    """Tell how many seconds each phase took on each node of a job: of JOB, or of this job.

    \b
    prepare     root's work before the job script starts
    image       unpacking a user's own images; public ones are there already
    create      directories, configurations and limits of containers
    start       from the first start to the last RUNNING, while more are created
    boot        until those with a provision script had booted
    provision   running those scripts
    ready       from there until all are what `wait` asks for, such as ssh
    destroy     killing and removing them

    \b
    Examples:
      oar-lxc timeline            inside a job
      oar-lxc timeline 42         on a frontend
      oar-lxc timeline 42 --json
    """
    remote = reach.remote_of(None if job is None else check_job_id(job))
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
    """Return what is told of a phase in JSON; the steps where it has any."""
    facts = {"node": node, **asdict(phase)}
    return facts if phase.steps else {k: v for k, v in facts.items() if k != "steps"}


def find_phases(remote: Remote) -> list[tuple[str, Phase]]:
    """Return what each phase took, node by node; see :func:`oar_lxc.agent.timeline.read_timeline`.

    Raises:
        NodeError: a node did not answer.
    """
    order = {node: number for number, node in enumerate(remote.nodes)}
    found = remote.collect(Timeline(), Phase)
    return sorted(found, key=lambda one: (order.get(one[0], 0), one[1].begin))
