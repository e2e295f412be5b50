"""Hooks that die, or do not end in time."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from oar_lxc.root import destroy, prepare
from tests.e2e.cluster import ENDED
from tests.matrix.faultpoint import HERE as HOOKS_DIRECTORY
from tests.matrix.kills import end
from tests.matrix.registry import ALL_SETUPS, DEFAULT_SETUPS, Fault, fault, register
from tests.matrix.row import SCRIPT, UP, Row
from tests.matrix.world import MatrixJob, World

NODE_COMMAND = "/usr/sbin/oar-lxc-node"
FAULTPOINT = Path(__file__).parent / "faultpoint.py"
SHORT_TIMEOUT = 5  # seconds


def steps(module: ModuleType) -> list[str]:
    """Return the names of the steps of a hook, as its source has them."""
    text = inspect.getsource(module)
    # One that is taken in two places is one row.
    return list(dict.fromkeys(re.findall(r"step\((?:log, )?\"(\w+)\"", text)))


# The one table: which steps each hook has.
STEPS = {"prepare": steps(prepare), "destroy": steps(destroy)}


def wrap(row: Row, node: str, command: str, step: str, act: str = "kill", layer: str = "") -> None:
    """Put the fault point in the place of a node's command until the row is over.

    Args:
        row: the row.
        node: where.
        command: ``prepare`` or ``destroy``.
        step: after which step it happens; empty for at once.
        act: ``kill``, ``sleep``, or one of :data:`tests.matrix.faultpoint.NAMESPACES`.
        layer: only where this one calls.
    """
    plan = {
        "command": command,
        "step": step,
        "act": act,
        "seconds": 600 if act == "sleep" else 0,
        "user": row.user,
        "not_jobs": [str(job) for job in row.bystanders],
        **({"layer": layer} if layer else {}),
    }
    world = row.world
    world.unwrap(node)
    row.stack.callback(_unwrap, row, node)
    machine = world.sandbox.machine(node)
    machine.run(["mkdir", "-m", "755", str(HOOKS_DIRECTORY)])
    text = "#!/usr/bin/python3 -IS\n" + FAULTPOINT.read_text()
    machine.write(f"{HOOKS_DIRECTORY}/oar-lxc-node", text.encode(), 0o755)
    machine.write(f"{HOOKS_DIRECTORY}/plan.json", json.dumps(plan).encode())
    machine.run(["mount", "--bind", f"{HOOKS_DIRECTORY}/oar-lxc-node", NODE_COMMAND])


def _unwrap(row: Row, node: str) -> None:
    """Take the fault point away, and who still sleeps in it."""
    pid = row.world.on(node, "cat", f"{HOOKS_DIRECTORY}/fired", check=False).stdout
    for process in row.world.processes(node):
        if str(process.pid) == pid and NODE_COMMAND in process.command:
            end(row, process)
    row.world.unwrap(node)


def fired(world: World, node: str) -> bool:
    """Whether it happened."""
    path = f"{HOOKS_DIRECTORY}/fired"
    return world.on(node, "test", "-s", path, check=False).status == 0


def resubmitted(row: Row, job: MatrixJob) -> None:
    """Watch and delete the job that OAR submits in place of one that did not start."""
    for number in row.world.resubmitted(job.id):
        again = MatrixJob(row.world, number, job.user)
        row.watch(again)
        row.note("OAR submitted the job again")
        again.delete()


def _prepare_killed(step: str) -> Callable[[Row], None]:
    def act(row: Row) -> None:
        node = row.world.nodes[-1]
        wrap(row, node, "prepare", step)
        job = row.submit(SCRIPT)
        row.wait(f"prepare is killed on {node}", lambda: fired(row.world, node), 90)
        row.end()
        row.wait(
            "the job ends, or its containers are up",
            lambda: job.state in ENDED or UP in job.output(),
            90,
        )
        row.learn(job)
        if job.state in ENDED:
            resubmitted(row, job)
        else:
            row.note("prepare was run again, and the job went on")
            row.delete(job)
        row.wait("the job ends", lambda: not row.unended(), row.fault.patience)

    return act


def _destroy_killed(step: str) -> Callable[[Row], None]:
    def act(row: Row) -> None:
        job = row.run()
        node = row.other(job)
        wrap(row, node, "destroy", step)
        row.delete(job)
        row.wait("the job ends", lambda: job.state in ENDED, row.fault.patience)
        row.require(fired(row.world, node), f"destroy was not killed on {node}")

    return act


for _command, _make in (("prepare", _prepare_killed), ("destroy", _destroy_killed)):
    for _step in STEPS[_command]:
        register(
            Fault(
                f"{_command}-killed-{_step}",
                f"SIGKILL to the {_command} hook after its step {_step}",
                _make(_step),
                # OAR makes keys of jobs where its cpuset is off.
                setups=("no-cpuset",) if _step == "keys" else DEFAULT_SETUPS,
                short=_step == "mounts",
            )
        )


@fault(
    "epilogue-timeout",
    "the epilogue does not end before OAR's timeout",
    setups=ALL_SETUPS,
    suspects="its epilogue failed",
)
def epilogue_timeout(row: Row) -> None:
    """OAR kills the epilogue; what it started as root goes on sleeping."""
    row.stack.enter_context(row.world.configured(PROLOGUE_EPILOGUE_TIMEOUT=SHORT_TIMEOUT))
    job = row.run()
    head = row.head(job)
    wrap(row, head, "destroy", "", "sleep", "epilogue")
    row.delete(job)
    row.wait("the job ends", lambda: job.state in ENDED, row.fault.patience)
    row.require(fired(row.world, head), "the epilogue did not come to the node's command")
    row.require("EPILOGUE_ERROR" in job.events, f"OAR's events of the job: {job.events}")
    if row.world.setup == "hooks":
        row.note("only the reaper is left to clean")
        reap(row)


def reap(row: Row) -> None:
    """Let the reapers clean as their timers do, without waiting for those."""
    world = row.world
    world.everywhere(lambda node: world.on(node, "oar-lxc-node", "reap", "--grace", "0"))
    everywhere = ("oar-lxc", "reap", "--everywhere", "--grace", "0")
    world.on("server", *everywhere)
