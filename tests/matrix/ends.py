"""The ways in which a job ends, in order or not."""

from __future__ import annotations

from tests.e2e.cluster import ENDED
from tests.matrix.cgroups import directory, is_frozen
from tests.matrix.kills import EXTERMINATE_PATIENCE, exterminated
from tests.matrix.registry import fault
from tests.matrix.row import RESOURCES, SCRIPT, UP, Row
from tests.matrix.scripts import install
from tests.matrix.world import CORES, IMPATIENT, MatrixJob

SPARE = CORES - 2  # cores of a node that the bystanders do not have


@fault("script-returns", "the job's script returns", soak=True)
def script_returns(row: Row) -> None:
    """The command in the containers ends, and the script with it."""
    job = row.submit(f"{SCRIPT} -- sh -c 'sleep 2; echo last words'")
    job.wait_output("ready")
    row.learn(job)
    job.wait_output("last words")
    row.end()
    row.wait("the job ends", lambda: job.state in ENDED)
    row.require(job.exit_code == 0, f"the script's exit code is {job.exit_code}")


@fault("script-raises", "the job's script raises an exception", soak=True)
def script_raises(row: Row) -> None:
    """An error that nobody catches unwinds the script."""
    job = row.submit(install(row, "raises"))
    job.wait_output("up")
    row.learn(job)
    job.wait_output("raising")
    row.end()
    row.wait("the job ends", lambda: job.state in ENDED)
    row.require("ZeroDivisionError" in job.output("stderr"), "the script did not raise")


@fault("oardel", "oardel while the containers run", short=True, soak=True)
def oardel(row: Row) -> None:
    """The plain way for a user to end a job."""
    job = row.run()
    row.delete(job)
    deleted(row, job)


@fault("oardel-prepared", "oardel with the images mounted, before a container starts", soak=True)
def oardel_prepared(row: Row) -> None:
    """The nodes are prepared; the script has not come to its containers."""
    job = row.submit(install(row, "sleeps"))
    job.wait_output("not yet")
    row.learn(job)
    for node in row.world.nodes:
        mounts = row.world.on(node, "cat", "/proc/self/mounts").stdout
        row.require(f"/jobs/{job.id}/images" in mounts, f"{node} has no images mounted")
    row.delete(job)
    deleted(row, job)


@fault("oardel-starting", "oardel while the containers start", soak=True)
def oardel_starting(row: Row) -> None:
    """Some containers run, others do not exist yet."""
    job = row.submit(f"{SCRIPT} --per-node 8")
    row.wait("the first container", lambda: "started" in job.output(), 90)
    row.delete(job)
    row.learn(job)
    deleted(row, job)
    row.require(UP not in job.output(), "all containers were up before the job was killed")


@fault("oardel-stopping", "oardel while the script destroys its containers")
def oardel_stopping(row: Row) -> None:
    """Removing a container of many files takes the script longer than OAR takes to kill it."""
    job = row.submit(install(row, "stops"))
    job.wait_output("stopping", 300)
    row.learn(job)
    row.delete(job)
    deleted(row, job)
    row.require("stopped" not in job.output(), "the containers were gone before the job was")


@fault("walltime", "the job reaches its walltime", patience=150)
def walltime(row: Row) -> None:
    """OAR kills the job when its time is over."""
    job = row.submit(SCRIPT, "nodes=2/core=1,walltime=0:0:15")
    job.wait_output(UP)
    row.learn(job)
    row.wait("OAR sees that the time is over", lambda: "WALLTIME" in job.events, 120)
    row.end()


@fault("besteffort", "a besteffort job is preempted by another user's job")
def besteffort(row: Row) -> None:
    """A job of bob needs the cores that a besteffort job of alice has."""
    all_spare = f"nodes=2/core={SPARE},walltime=0:20:0"
    job = row.run(resources=all_spare, types=["besteffort"])
    other = row.submit(SCRIPT, all_spare, user="bob")
    row.wait("OAR kills the besteffort job", lambda: "BESTEFFORT_KILL" in job.events, 120)
    row.end()
    other.wait_output(UP, 120)
    row.learn(other)
    row.require(job.state in ENDED, f"the besteffort job is {job.state} while the other runs")
    left = row.left()
    row.require(all(str(other.id) in where for where in left), f"left at preemption: {left}")
    row.delete(other)
    row.note("the seconds are those of the preempting job")


def deleted(row: Row, job: MatrixJob) -> None:
    """Look that OAR was asked to delete a job and that this is how it ended."""
    row.wait("the job ends", lambda: job.state in ENDED, row.fault.patience)
    row.require("FRAG_JOB_REQUEST" in job.events, "OAR was not asked to delete the job")
    row.require(job.exit_code is None, f"the script ended by itself: {job.exit_code}")


@fault("suspended-resumed", "oarhold -r and oarresume, then oardel")
def suspended_resumed(row: Row) -> None:
    """The job is suspended, goes on afterwards, and is deleted."""
    job = row.run()
    suspend(row, job)
    row.world.on("frontend", "oarresume", str(job.id))
    row.wait("the job runs again", lambda: job.state == "Running", 90)
    said = row.inside(job, "vm1", "echo awake")
    row.require("awake" in said, "the container does not answer after the job was resumed")
    row.delete(job)
    deleted(row, job)


@fault(
    "suspended-deleted",
    "oardel of a job that oarhold -r suspended",
    patience=EXTERMINATE_PATIENCE,
)
def suspended_deleted(row: Row) -> None:
    """What is frozen does not die before it is thawed."""
    row.stack.enter_context(row.world.configured(**IMPATIENT))
    job = row.run()
    suspend(row, job)
    row.delete(job)
    if row.world.setup == "no-cpuset":
        deleted(row, job)
    else:
        exterminated(row, job)


def suspend(row: Row, job: MatrixJob) -> None:
    """Suspend a job as its administrator and look at the kernel."""
    inits = {node: row.inits(job, node) for node in row.world.nodes}
    row.world.on("frontend", "oarhold", "-r", str(job.id))
    row.wait("the job is suspended", lambda: job.state == "Suspended", 60)
    frozen = []
    for node, processes in inits.items():
        for process in processes:
            path = directory(process.cgroup, "freezer")
            frozen.append(is_frozen(row.world, node, path))
    row.require(frozen, "no container was there to be frozen")
    if row.world.setup == "no-cpuset":
        row.note("with the cpuset off OAR freezes nothing")
        row.require(not any(frozen), f"frozen are {frozen}")
    else:
        row.require(all(frozen), f"frozen are {frozen}")


@fault("one-of-two", "one of two jobs of the same user on the same nodes ends")
def one_of_two(row: Row) -> None:
    """The other one, which started first, goes on."""
    two_jobs(row, row.user)


@fault("other-users", "a job of another user on the same nodes ends")
def other_users(row: Row) -> None:
    """The roles of the users are exchanged: bob's job ends, alice's goes on."""
    two_jobs(row, "bob", "alice")


def two_jobs(row: Row, user: str, staying: str = "") -> None:
    """End the first of two jobs, look that the second is as it was, and end that."""
    first = row.run(resources=RESOURCES, user=user)
    second = row.run(resources=RESOURCES, user=staying or user)
    before = [x.identity for node in row.world.nodes for x in row.inits(second, node)]
    row.require(len(before) == 2, "the second job does not have a container on each node")
    row.delete(first)
    deleted(row, first)
    row.wait(
        "nothing is left of the first job",
        lambda: not [where for where in row.left() if where.startswith(f"{first.id} ")],
        30,
    )
    after = [x.identity for node in row.world.nodes for x in row.inits(second, node)]
    row.require(before == after, f"the second job's containers were {before}, are {after}")
    row.require("here" in row.inside(second, "vm1", "echo here"), "vm1 does not answer")
    row.delete(second)
    deleted(row, second)
