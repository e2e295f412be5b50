"""Processes of the chain that are killed: the script, agents, monitors, inits, OAR's own."""

from __future__ import annotations

import signal

from tests.e2e.cluster import ENDED
from tests.matrix.registry import fault
from tests.matrix.row import SCRIPT, Row
from tests.matrix.world import IMPATIENT, MatrixJob, Process

EXTERMINATE_PATIENCE = 180  # OAR looks at that every 30 s
DECIDED = (*ENDED, "Finishing", "toError", "toTerminate")
FROM_EXTERMINATE = "from OAR's EXTERMINATE on"
# A debugger of few words: holds a process until it dies itself. It runs on the node.
DEBUGGER = """\
import ctypes, os, sys, time
pid, libc = int(sys.argv[1]), ctypes.CDLL(None, use_errno=True)
seize, interrupt = 0x4206, 0x4207  # linux/ptrace.h
if libc.ptrace(seize, pid, None, None) or libc.ptrace(interrupt, pid, None, None):
    sys.exit(os.strerror(ctypes.get_errno()))
os.waitpid(pid, 0)
print("held", flush=True)
os.dup2(os.open("/dev/null", os.O_RDWR), 1)
os.waitpid(pid, 0)
"""


@fault("kill-script", "SIGKILL to the job's script", short=True, soak=True)
def kill_script(row: Row) -> None:
    """The script has no time to destroy anything; the job ends as its script did."""
    job = row.run()
    script = row.process(row.head(job), job, "lxc_job.py")
    kill(row, script)
    row.end()
    row.wait("the job ends", lambda: job.state in ENDED)
    row.require(job.exit_code == signal.SIGKILL, f"the script's exit code is {job.exit_code}")


@fault("kill-agent", "SIGKILL to the agent of another node while it launches", soak=True)
def kill_agent(row: Row) -> None:
    """The launch fails as a whole and is undone on the node that is well."""
    job = row.submit(f"{SCRIPT} --per-node 6")
    node = row.world.nodes[-1]
    agent = row.process(node, job, f"oar_lxc.agent.main {job.id} launch")
    row.require(node != row.head(job), f"{node} is the first node")
    kill(row, agent)
    row.end()
    row.learn(job)
    row.wait("the job ends", lambda: job.state in ENDED)
    row.require(node in job.output("stderr"), "the job's errors do not name the node")


@fault("kill-monitor", "SIGKILL to a container's monitor, then oardel", soak=True)
def kill_monitor(row: Row) -> None:
    """The kernel kills the container with it; the job goes on and is deleted."""
    job = row.run()
    node = row.other(job)
    inits = row.inits(job, node)
    row.require(inits, f"{node} has no container")
    kill(row, row.process(node, job, "[lxc monitor]"))
    for init in inits:
        row.dies(init)
    row.require(job.state == "Running", f"the job is {job.state}")
    row.delete(job)
    row.wait("the job ends", lambda: job.state in ENDED, row.fault.patience)


@fault("kill-init", "SIGKILL to a container's init, then oardel", soak=True)
def kill_init(row: Row) -> None:
    """The container stops by itself; the job goes on and is deleted."""
    job = row.run()
    node = row.other(job)
    monitor = row.process(node, job, "[lxc monitor]")
    for init in row.inits(job, node):
        kill(row, init)
    row.dies(monitor)
    row.require(job.state == "Running", f"the job is {job.state}")
    row.delete(job)
    row.wait("the job ends", lambda: job.state in ENDED, row.fault.patience)


@fault("kill-oarexec", "SIGKILL to oarexec, then oardel", patience=EXTERMINATE_PATIENCE)
def kill_oarexec(row: Row) -> None:
    """Nobody runs the epilogue; OAR exterminates the job when its patience is over."""
    row.stack.enter_context(row.world.configured(**IMPATIENT))
    job = row.run()
    oarexec = row.process(row.head(job), job, "OAREXEC")
    kill(row, oarexec)
    row.require(job.state == "Running", f"the job is {job.state}")
    row.delete(job)
    exterminated(row, job)


@fault("stop-oarexec", "oarexec is stopped, then oardel")
def stop_oarexec(row: Row) -> None:
    """OAR lets it go on before it signals it."""
    job = row.run()
    oarexec = row.process(row.head(job), job, "OAREXEC")
    row.world.signal(oarexec, signal.SIGSTOP)
    row.require(state(row, oarexec) == "T", "oarexec is not stopped")
    row.delete(job)
    row.wait("the job ends", lambda: job.state in ENDED, row.fault.patience)


@fault("deaf-oarexec", "oarexec hears no signal, then oardel", patience=EXTERMINATE_PATIENCE)
def deaf_oarexec(row: Row) -> None:
    """A debugger holds it, which SIGCONT does not end: OAR exterminates the job."""
    row.stack.enter_context(row.world.configured(**IMPATIENT))
    job = row.run()
    oarexec = row.process(row.head(job), job, "OAREXEC")
    debugger = hold(row, oarexec)
    row.stack.callback(end, row, debugger)
    row.require(state(row, oarexec) == "t", "oarexec is not held")
    row.delete(job)
    exterminated(row, job)


def end(row: Row, process: Process) -> None:
    """Kill a process of the test's own, where it still lives."""
    if row.world.lives(process):
        kill(row, process)


def state(row: Row, process: Process) -> str:
    """Return the kernel's letter for what a process does now."""
    found = [x for x in row.world.processes(process.node) if x.identity == process.identity]
    return found[0].state if found else ""


def hold(row: Row, process: Process) -> Process:
    """Have a debugger hold a process; return the debugger, with which it would go on."""
    pid = str(process.pid)
    script = (
        'fifo=$(mktemp -u) && mkfifo "$fifo" && '
        '{ setsid python3 -I -c "$1" "$2" </dev/null >"$fifo" 2>&1 & } && '
        'echo $! && head -n 1 "$fifo" && rm "$fifo"'
    )
    said = row.world.on(process.node, "sh", "-ec", script, "sh", DEBUGGER, pid).stdout.split()
    row.require(said[1:] == ["held"], f"the debugger says {said}")
    everything = row.world.processes(process.node)
    return next(x for x in everything if x.pid == int(said[0]))


def kill(row: Row, process: Process) -> None:
    """Kill a process and look that it is dead."""
    row.world.signal(process, signal.SIGKILL)
    row.dies(process)


def exterminated(row: Row, job: MatrixJob) -> None:
    """Look that OAR exterminates a job; the time counts from its decision."""
    row.wait("OAR decides", lambda: job.state in DECIDED, row.fault.patience)
    row.end()
    row.note(FROM_EXTERMINATE)
    row.wait("OAR says so", lambda: "EXTERMINATE_JOB" in job.events, row.fault.patience)
