"""The namespaces that root makes for a job: not made, taken away, or kept by their owner."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.cluster import ENDED
from tests.matrix.containers import finish
from tests.matrix.hooks import fired, wrap
from tests.matrix.kills import end
from tests.matrix.registry import Fault, fault, register
from tests.matrix.row import SCRIPT, Row

KINDS = ("user", "net")
# Opens the files that keep them, and hides the descriptors in the queue of a socket.
HIDE = """
import os, socket, sys, time
kept = [os.open(f"/var/lib/oar-lxc/jobs/{job}/namespaces/" + kind, os.O_RDONLY)
        for kind in ("user", "net")]
ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
socket.send_fds(ends[0], [b"kept"], kept)
child = os.fork()
if child: print(child); sys.exit()
os.setsid()
for fd in kept: os.close(fd)
for fd in (0, 1, 2): os.dup2(os.open("/dev/null", os.O_RDWR), fd)
time.sleep(600)
"""


@fault("namespaces-maker", "SIGKILL to what makes the job's namespaces, then oardel")
def namespaces_maker(row: Row) -> None:
    """Its user may kill it in passing; the prepare makes another."""
    node = row.world.nodes[-1]
    wrap(row, node, "prepare", "", "kill maker")
    job = row.run()
    row.require(fired(row.world, node), f"nothing was killed on {node}")
    finish(row, job)


@fault(
    "namespaces-unmounted",
    "root unmounts the namespaces of a job that runs, then oardel",
    soak=True,
)
def namespaces_unmounted(row: Row) -> None:
    """Containers and agents that run are in them all the same."""
    job = row.run()
    node = row.other(job)
    for kind in KINDS:
        row.world.on(node, "umount", f"/var/lib/oar-lxc/jobs/{job.id}/namespaces/{kind}")
    row.require(row.inits(job, node), f"{node} has no container any more")
    finish(row, job)


@fault("namespaces-kept", "the user hides open files of the job's namespaces elsewhere", soak=True)
def namespaces_kept(row: Row) -> None:
    """Nothing finds them, and nothing in them leads to the node any more."""
    job = row.run()
    node = row.other(job)
    machine = row.world.sandbox.machine(node)
    script = HIDE.replace("{job}", str(job.id))
    pid = int(machine.run(["python3", "-I", "-"], user=row.user, input=script).stdout)
    holder = next(x for x in row.world.processes(node) if x.pid == pid)
    row.stack.callback(end, row, holder)
    finish(row, job)
    row.require(row.world.lives(holder), "the process that keeps them was found")


def _none_left(kind: str) -> Callable[[Row], None]:
    def act(row: Row) -> None:
        node = row.world.nodes[-1]
        wrap(row, node, "prepare", "", f"no {kind} namespaces")
        job = row.submit(SCRIPT)
        row.wait("the job ends", lambda: job.state in ENDED, 90)
        row.end()
        row.require(fired(row.world, node), f"nothing was refused on {node}")
        told = "the kernel gives its user no more namespaces"
        row.require(told in job.output("stderr"), f"the job was told {job.output('stderr')!r}")

    return act


for _kind in KINDS:
    register(
        Fault(
            f"no-{_kind}-namespaces",
            f"the kernel gives the job's user no more (user.max_{_kind}_namespaces)",
            _none_left(_kind),
        )
    )
