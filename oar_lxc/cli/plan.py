"""``oar-lxc plan``: show which containers a spec file makes, before a job is submitted."""

from __future__ import annotations

import json
from pathlib import Path

import click

from oar_lxc.cli.shared.table import print_table
from oar_lxc.client.lookup import find_job
from oar_lxc.errors import SpecError, UsageError
from oar_lxc.model.job import Job
from oar_lxc.model.layout import check_job_id
from oar_lxc.model.plan import Plan, make_plan
from oar_lxc.model.specfile import read_spec


@click.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--job", "job_id", metavar="JOB", help="Lay it out over the nodes of this job.")
@click.option("--nodes", type=click.IntRange(1), metavar="N", help="Lay it out over N nodes …")
@click.option("--cores", type=click.IntRange(1), metavar="N", help="… with N cores each.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list of objects.")
def plan(
    spec: Path, job_id: str | None, nodes: int | None, cores: int | None, as_json: bool
) -> None:
    """Show which containers SPEC makes, and where. Nothing is started.

    Inside a job, without an option, the plan is for the nodes of that job.

    \b
    Examples:
      oar-lxc plan vms.toml --nodes 2 --cores 4
      oar-lxc plan vms.toml --job 42
      oar-lxc plan vms.toml --nodes 2 --cores 4 --json
    """
    read = read_spec(spec)
    job = _job(job_id, nodes, cores)
    try:
        made = make_plan(read, job)
    except SpecError as error:
        raise SpecError(f"{spec}, {error}") from None
    if as_json:
        click.echo(json.dumps(made.to_data()["containers"], indent=1))
        return
    _print(made)
    click.echo(f"ready when: {read.wait}, within {read.timeout:g} s", err=True)


def _job(job_id: str | None, nodes: int | None, cores: int | None) -> Job:
    """Return the job that the options name, or an invented one of --nodes and --cores."""
    if nodes is None and cores is None:
        return find_job(None if job_id is None else check_job_id(job_id))
    if job_id is not None:
        raise UsageError("--job says which nodes and cores: leave out --nodes and --cores")
    if nodes is None or cores is None:
        raise UsageError("--nodes and --cores go together, such as --nodes 2 --cores 4")
    return Job(1, "", {f"node{number}": cores for number in range(1, nodes + 1)})


def _print(made: Plan) -> None:
    titles = ("CONTAINER", "NODE", "GROUP", "IMAGE", "CORES", "MEMORY", "PORTS")
    rows = [
        (
            c.name,
            c.node,
            c.group,
            c.image,
            str(c.cores or "shared"),
            f"{c.memory / (1 << 20):g}M" if c.memory else "shared",
            " ".join(f"{port.node}:{port.container}" for port in c.ports) or "-",
        )
        for c in made.containers
    ]
    print_table(titles, rows)
