"""``oar-lxc reap``: destroy what dead jobs left, on this node or on all."""

from __future__ import annotations

import json
import os
import pwd
import sys
from dataclasses import asdict

import click

from oar_lxc.cli.shared.meter import Meter
from oar_lxc.errors import UsageError
from oar_lxc.model.reaped import FAILED
from oar_lxc.oar.sweep import sweep
from oar_lxc.root import main as node_main
from oar_lxc.root.record import GRACE

OAR = "oar"


@click.command()
@click.option("--dry-run", is_flag=True, help="Tell what and why; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=GRACE,
    show_default=True,
    metavar="SECONDS",
    help="What OAR and its hooks get at a job's start and end.",
)
@click.option("--everywhere", is_flag=True, help="On all nodes; for the OAR server.")
def reap(dry_run: bool, as_json: bool, grace: float, everywhere: bool) -> None:
    """Destroy what is left of jobs that are provably dead.

    Run it on a node as root. A job is dead if OAR has removed its cgroup, if a hook was told of
    its end, or if it was prepared before the last boot. With --everywhere, run it on the OAR
    server as root or oar: it acts on all nodes, and takes OAR's word that a job has ended as a
    proof, too. The output names each job with the proof that it is dead. A job without a proof is
    left alone, and the output says what is missing.

    \b
    Examples:
      oar-lxc reap --dry-run               on a node
      oar-lxc reap --everywhere            on the OAR server
      oar-lxc reap --everywhere --json
    """
    if not everywhere:
        if os.geteuid() != 0:
            raise UsageError("oar-lxc reap must be run as root")
        options = ["--dry-run"] * dry_run + ["--json"] * as_json + [f"--grace={grace:g}"]
        node_main.main(["reap", *options])
    _become_oar()
    with Meter("asking the nodes", files=False):
        done = sweep(grace, dry_run=dry_run)
    if as_json:
        jobs = [{"node": node, **asdict(job)} for node in done.jobs for job in done.jobs[node]]
        click.echo(json.dumps({"jobs": jobs, "unreachable": done.unreachable}, indent=1))
    else:
        for node, found in done.jobs.items():
            for job in found:
                click.echo(f"{node}: {job}")
        for node, why in done.unreachable.items():
            click.echo(f"oar-lxc: node {node} does not answer: {why}", err=True)
    sys.exit(any(job.action == FAILED for found in done.jobs.values() for job in found))


def _become_oar() -> None:
    """Become user oar, whose ssh key gives access to the nodes."""
    try:
        account = pwd.getpwnam(OAR)
    except KeyError:
        raise UsageError(
            "there is no user oar here: run this on the OAR server, or leave out --everywhere"
        ) from None
    if os.geteuid() == 0:
        os.initgroups(OAR, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    if os.geteuid() != account.pw_uid:
        raise UsageError("oar-lxc reap --everywhere must be run as root or oar")
    os.environ.update(HOME=account.pw_dir, USER=OAR, LOGNAME=OAR)
    os.chdir(account.pw_dir)
