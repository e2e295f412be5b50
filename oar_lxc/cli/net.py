"""``oar-lxc net``: see the networks of a running job, change its links, play a scenario."""

from __future__ import annotations

import json
from pathlib import Path

import click

from oar_lxc.cli.plan import link_row, member_row, print_members
from oar_lxc.cli.shared.meter import Meter
from oar_lxc.cli.shared.table import print_table
from oar_lxc.cli.shared.targets import complete_container, complete_job, remote_of_job
from oar_lxc.client.networks import NetworkState, find_networks, set_link
from oar_lxc.client.play import play
from oar_lxc.errors import UsageError
from oar_lxc.model.links import ANY, FROM
from oar_lxc.model.scenario import Step, read_scenario
from oar_lxc.model.shaping import effective


class _Net(click.Group):
    """A group whose first word may be a job, which is shown then."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a subcommand; a word that is none belongs to ``show``."""
        if args and args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return "show", self.commands["show"], args


@click.group(
    cls=_Net,
    invoke_without_command=True,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    subcommand_metavar="[JOB] | set … | play …",
)
@click.pass_context
def net(context: click.Context) -> None:
    """Show the networks, members and links of a JOB, or change them while it runs.

    \b
    Examples:
      oar-lxc net              inside a job
      oar-lxc net 42           on a frontend
      oar-lxc net 42 --json
      oar-lxc net set 42/p1 --network left --delay 100ms --loss 1%
      oar-lxc net play 42 scenario.toml
    """
    if context.invoked_subcommand is None:
        context.invoke(show)


@net.command()
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object.")
def show(job: str | None, as_json: bool) -> None:
    """Show the networks, members and links of JOB; inside a job, of that job.

    \b
    Examples:
      oar-lxc net show 42
      oar-lxc net 42           the same
    """
    with Meter("asking the nodes", files=False):
        remote = remote_of_job(job)
        state = find_networks(remote)
    if as_json:
        click.echo(json.dumps(_facts(state), indent=1))
        return
    plan = state.plan
    if not plan.networks and not plan.links:
        click.echo(f"job {remote.job_id} has no networks but its main one, and no links", err=True)
        return
    print_members(plan, lambda name: "RUNNING" if name in state.running else "STOPPED")
    if plan.links:
        click.echo()
        counts = effective(plan.links, plan.containers)
        rows = [(*link_row(link), str(n)) for link, n in zip(plan.links, counts, strict=True)]
        titles = ("LINK", "NETWORK", "FROM", "TO", "BACK", "DOES", "COUNTS FOR")
        print_table(titles, rows, right=("COUNTS FOR",))


def _facts(state: NetworkState) -> dict[str, object]:
    plan = state.plan
    members = [
        {**member_row(container, interface), "running": container.name in state.running}
        for container in plan.containers
        for interface in container.all_interfaces
    ]
    counts = effective(plan.links, plan.containers)
    return {
        "networks": plan.to_data()["networks"],
        "members": members,
        "links": [
            {**link.to_data(), "counts_for": n} for link, n in zip(plan.links, counts, strict=True)
        ],
    }


@net.command("set")
@click.argument("target", shell_complete=complete_container)
@click.option("--to", help="The other end: a group, a container or *; else all its traffic.")
@click.option("--network", help="By default the first network that both are in.")
@click.option("--rate", help="Most bits a second, such as 10Mbit.")
@click.option("--delay", help="How much longer each packet takes one way, such as 40ms.")
@click.option("--jitter", help="By how much the delay varies, up and down.")
@click.option("--loss", help="How many packets are lost, such as 0.5%.")
@click.option("--duplicate", help="How many packets come twice.")
@click.option("--corrupt", help="In how many packets one bit is wrong.")
@click.option("--reorder", help="How many packets overtake others.")
@click.option("--one-way", is_flag=True, help="Leave the way back as it is.")
def set_(target: str, to: str | None, network: str | None, one_way: bool, **keys: object) -> None:
    """Set a link of JOB/NAME, which is a container or a group, or of all with JOB/.

    It counts from now on instead of earlier links for the same pairs or interfaces, as a whole:
    what no option names is as without a link. Containers do not notice the change.

    \b
    Examples:
      oar-lxc net set 42/p1 --network left --delay 100ms --loss 1%
      oar-lxc net set 42/p --to router --rate 10Mbit
      oar-lxc net set p --to router            as without a link
    """
    job, slash, name = target.rpartition("/")
    if "/" in job or not (name or slash):
        raise UsageError(
            f"{target!r} names nothing: write JOB/CONTAINER, JOB/GROUP or JOB/ for all"
        )
    with Meter("setting links", files=False):
        remote = remote_of_job(job if slash else None)
        link = set_link(remote, name or ANY, to, network, {**keys, "both": not one_way})
    ends = f"{link.to_data()[FROM]}" + (f" to {link.to}" if link.to else "")
    click.echo(f"{link.network}: {ends}: {link.shape.words()}")


@net.command("play")
@click.argument("job", shell_complete=complete_job)
@click.argument("file", type=click.Path(path_type=Path))
def play_(job: str, file: Path) -> None:
    """Change links, cables and containers of JOB at the times that FILE says.

    All of the file is checked before the first change. Ctrl-C ends it; what was changed stays.

    \b
    Examples:
      oar-lxc net play 42 scenario.toml
    """
    steps = read_scenario(file)
    length = steps[-1].time / 1e6

    def tell(step: Step, seconds: float) -> None:
        meter.answer(f"{seconds:8.2f} s  {step.words()}")

    with Meter(f"playing {file.name}, {length:g} s") as meter:
        play(remote_of_job(job), file, steps, tell)
