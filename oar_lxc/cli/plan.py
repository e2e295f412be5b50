"""``oar-lxc plan``: show which containers a spec file makes, before a job is submitted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click

from oar_lxc.cli.shared.table import print_table
from oar_lxc.client.lookup import find_job
from oar_lxc.errors import SpecError, UsageError
from oar_lxc.model.interfaces import Interface
from oar_lxc.model.job import Job
from oar_lxc.model.layout import check_job_id
from oar_lxc.model.links import Link
from oar_lxc.model.plan import Plan, PlannedContainer, make_plan
from oar_lxc.model.specfile import read_spec


@click.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--job", "job_id", metavar="JOB", help="Lay it out over the nodes of this job.")
@click.option("--nodes", type=click.IntRange(1), metavar="N", help="Lay it out over N nodes …")
@click.option("--cores", type=click.IntRange(1), metavar="N", help="… with N cores each.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object.")
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
        click.echo(json.dumps(_facts(made), indent=1))
        return
    _print(made)
    _print_networks(made)
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


def _facts(made: Plan) -> dict[str, object]:
    """Return containers, networks and links, with the keys of the file, for JSON."""
    data = made.to_data()
    links = [link.to_data() for link in made.links]
    return {"containers": data["containers"], "networks": data["networks"], "links": links}


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


def _print_networks(made: Plan) -> None:
    """Print tables of networks, members and links, if there are any."""
    if made.networks:
        click.echo()
        print_members(made)
    if made.links:
        click.echo()
        titles = ("LINK", "NETWORK", "FROM", "TO", "BACK", "DOES")
        print_table(titles, map(link_row, made.links))


def print_members(made: Plan, state: Callable[[str], str] | None = None) -> None:
    """Print a table of the networks of a plan, and one of their members.

    Args:
        made: the plan.
        state: returns the state of a container, for a job that runs.
    """
    members = [(c, i) for c in made.containers for i in c.interfaces]
    count = Counter(interface.network for _, interface in members)
    networks = [
        (n.name, n.subnet, n.ipv6 or "-", str(count[n.name]), _nodes(made, n.name))
        for n in made.networks
    ]
    print_table(("NETWORK", "SUBNET", "IPV6", "MEMBERS", "NODES"), networks, right=("MEMBERS",))
    if members:
        click.echo()
        rows = [
            (*(str(v) for v in member_row(c, i).values()), *((state(c.name),) if state else ()))
            for c, i in members
        ]
        titles = ("MEMBER", "NODE", "INTERFACE", "NETWORK", "ADDRESS", "LEAVES BY")
        print_table((*titles, *(("STATE",) if state else ())), rows)


def member_row(container: PlannedContainer, interface: Interface) -> dict[str, str]:
    """Return what is told of a member of a network, by its key."""
    return {
        "container": container.name,
        "node": container.node,
        "interface": interface.device,
        "network": interface.network,
        "address": " ".join(interface.ips),
        "gateway": "eth0" if container.main else container.gateway or "-",
    }


def _nodes(made: Plan, network: str) -> str:
    """Return the names of the nodes with members of a network."""
    return " ".join(dict.fromkeys(c.node for c in made.containers if c.interface(network))) or "-"


def link_row(link: Link) -> tuple[str, ...]:
    """Return what is told of a link."""
    return (
        "all traffic" if link.to is None else "each pair",
        link.network,
        link.from_,
        link.to or "-",
        "the same" if link.both else "as it is",
        link.shape.words(),
    )
