"""Whether OAR works: its configuration, its hooks, its server and database, its jobs and nodes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from oar_lxc.doctor.findings import AS_ROOT, Finding, Machine, problem, unknown, warning, well
from oar_lxc.errors import CommandError, ConfigError, UsageError
from oar_lxc.linux.run import run
from oar_lxc.model.config import read_config
from oar_lxc.model.layout import CONFIG, check_node
from oar_lxc.oar.paths import CONF
from oar_lxc.oar.ssh import NODE_COMMAND
from oar_lxc.setup import database
from oar_lxc.setup.server import HOOKS, PORT
from oar_lxc.setup.shipped import INSTALLED

PROGRAMS = (Path(NODE_COMMAND), *map(Path, HOOKS.values()), INSTALLED / "hooks/node_check")
LONG = 600  # seconds in a state that OAR leaves soon
PASSING = ("toLaunch", "Launching", "Finishing", "toError")


def configuration(machine: Machine) -> Iterator[Finding]:
    """Look whether our own configuration is right."""
    try:
        read_config()
    except ConfigError as error:
        yield problem(
            str(error),
            "This machine prepares no job: OAR suspects a node at the start of jobs of type lxc.",
            f"editor {CONFIG}",
        )
    else:
        yield well(f"{CONFIG} is right")


def programs(machine: Machine) -> Iterator[Finding]:
    """Look whether the programs are there that OAR and the units call."""
    for path in PROGRAMS:
        if os.access(path, os.X_OK):
            yield well(f"{path} can be run")
        else:
            yield problem(
                f"{path} cannot be run",
                "Jobs of type lxc fail, or are not destroyed at their end.",
                "apt-get install --reinstall oar-lxc",
            )


def hooks(machine: Machine) -> Iterator[Finding]:
    """Look whether OAR's server calls the hooks, also by way of a site's own."""
    if machine.conf is None:
        yield unknown(f"only root and oar can read {CONF}", AS_ROOT)
        return
    for key, ours in HOOKS.items():
        called = machine.conf.get(key) or ""
        yield judge_hook(key, called, _text(called), ours, machine.setup)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace") if path else ""
    except OSError:
        return ""


def judge_hook(key: str, called: str, text: str, ours: str, setup: str) -> Finding:
    """Return the finding for a hook.

    Args:
        key: its key in ``oar.conf``.
        called: the file that OAR calls.
        text: what this file has.
        ours: the hook that it should be, or call.
        setup: the command that sets the server up.
    """
    if called == ours:
        return well(f"{key} is {ours}")
    if ours in text:
        return well(f"{key} is {called}, which calls {ours}")
    line = f"""echo '{ours} "$@"' >>{called}""" if called else setup
    return problem(
        f"{key} is {called or 'not set'}, and does not call {ours}",
        "Jobs of type lxc are not prepared, or not destroyed at their end.",
        line,
    )


def server(machine: Machine) -> Iterator[Finding]:
    """Look whether OAR's server and its database answer a frontend."""
    if machine.conf is None:
        yield unknown(f"only root and oar can read {CONF}, which names the server", AS_ROOT)
    else:
        name = machine.conf.get("SERVER_HOSTNAME") or ""
        yield _answer(name, int(machine.conf.get("SERVER_PORT") or PORT))
    try:
        run(["oarnodes", "-l"], timeout=20)
    except CommandError as error:
        why = (error.stderr.strip().splitlines() or [f"status {error.status}"])[0]
        yield problem(
            f"OAR's database does not answer ({why})",
            "oarsub, oarstat and oarnodes fail here.",
            "oar-lxc setup server --network CIDR    # on the server, as before; then this one",
        )
    else:
        yield well("OAR's database answers")


def _answer(name: str, port: int) -> Finding:
    try:
        with socket.create_connection((name, port), timeout=5):
            return well(f"OAR's server {name} answers on port {port}")
    except OSError as error:
        return problem(
            f"OAR's server {name} does not answer on port {port} ({error.strerror or error})",
            "Jobs that are submitted here are not started.",
            f"systemctl restart oar-server    # on {name}",
        )


def nodes(machine: Machine) -> Iterator[Finding]:
    """Look which nodes OAR does not use."""
    rows = database.connect().rows(
        "SELECT network_address AS node, state, count(*) AS cores FROM resources "
        "WHERE type = 'default' AND network_address <> '' GROUP BY 1, 2 ORDER BY 1, 2"
    )
    yield from judge_nodes(rows, machine.setup)


def judge_nodes(rows: Iterable[Mapping[str, Any]], setup: str) -> Iterator[Finding]:
    """Yield the findings for nodes.

    Args:
        rows: each with ``node``, ``state`` and ``cores``.
        setup: the command that sets the server up.
    """
    rows = list(rows)
    if not rows:
        yield problem(
            "OAR has no resources",
            "All jobs wait for ever.",
            f"{setup} --node NAME=CORES",
        )
    for row in rows:
        try:
            check_node(str(row["node"]))
        except UsageError as error:
            yield problem(
                str(error), "Nobody can reach it, and it is not looked at.", "oarnodes -l"
            )
            continue
        said = f"{row['cores']} cores of node {row['node']} are {row['state']}"
        mend = f"oarnodesetting -h {row['node']} -s Alive"
        if row["state"] == "Alive":
            yield well(said)
        elif row["state"] == "Suspected":
            meaning = "OAR gives them no jobs: a job failed there, or OAR did not reach the node."
            after = "# after `oar-lxc doctor --everywhere` finds nothing else"
            yield problem(said, meaning, f"{mend}    {after}")
        else:
            yield warning(said, "OAR gives them no jobs.", mend)


def jobs(machine: Machine) -> Iterator[Finding]:
    """Look for jobs that are long in a state that OAR leaves soon, or run past their walltime."""
    states = ", ".join(f"'{state}'" for state in PASSING)
    rows = database.connect().rows(
        "SELECT j.job_id AS job, j.job_user AS user_name, j.state, "
        "extract(epoch FROM now())::integer - max(l.date_start) AS seconds "
        "FROM jobs j JOIN job_state_logs l ON l.job_id = j.job_id "
        f"WHERE j.state IN ({states}) GROUP BY 1, 2, 3 ORDER BY 1"
    )
    yield from judge_jobs(rows)
    rows = database.connect().rows(
        "SELECT j.job_id AS job, "
        "extract(epoch FROM now())::integer - j.start_time - m.moldable_walltime AS seconds "
        "FROM jobs j JOIN moldable_job_descriptions m ON m.moldable_id = j.assigned_moldable_job "
        "WHERE j.state = 'Running' ORDER BY 1"
    )
    yield from judge_walltimes(rows)


def judge_walltimes(rows: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield the findings for running jobs, each with the ``seconds`` since its walltime."""
    over = [row for row in rows if row["seconds"] > LONG]
    for row in over:
        minutes = row["seconds"] / 60
        yield problem(
            f"job {row['job']} is Running, {minutes:.0f} minutes after its walltime",
            "Its first node was reset or lost, and OAR was not told of the job's end.",
            f"oardel {row['job']}    # and put its nodes back once it is in Error",
        )
    if not over:
        yield well("no job runs past its walltime")


def judge_jobs(rows: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield the findings for jobs.

    Args:
        rows: each with ``job``, ``user_name``, ``state`` and the ``seconds`` in it.
    """
    late = [row for row in rows if row["seconds"] > LONG]
    for row in late:
        yield problem(
            f"job {row['job']} is {row['state']} for {row['seconds'] / 60:.0f} minutes",
            "OAR's clean-up loops on one of its nodes, or waits for one that does not answer.",
            f"oar-lxc-node destroy --job {row['job']} --user {row['user_name']}"
            "    # on its nodes; kill the perl that loops there",
        )
    if not late:
        yield well("no job is held up at its start or its end")
