"""Machines and their services that fail: nodes, their sshd, the server, a disk."""

from __future__ import annotations

import os

from oar_lxc.linux.run import run
from tests.e2e.cluster import ENDED
from tests.matrix.ends import deleted
from tests.matrix.hooks import reap
from tests.matrix.kills import EXTERMINATE_PATIENCE, exterminated
from tests.matrix.registry import fault
from tests.matrix.row import SCRIPT, Row
from tests.matrix.world import IMPATIENT

STATE = "/var/lib/oar-lxc"
DISK = "/dev/oar-lxc-matrix"
IMAGES = "/run/oar-lxc-matrix-images"
DISK_SIZE = "256M"
OFF = "it could not reach the node"
BOOTED = "its own clean-up needs cgroups that a booted node has from its next job on"


@fault("sshd-down", "sshd of a node is down while the job ends", suspects=OFF, patience=240)
def sshd_down(row: Row) -> None:
    """No hook reaches the node: the reaper cleans when sshd is back."""
    job = row.run()
    node = row.other(job)
    row.stack.callback(row.world.sshd_on, node)
    row.world.sshd_off(node)
    row.delete(job)
    row.wait("the job ends", lambda: job.state in ENDED, row.fault.patience)
    left = row.world.left(node, job, 0)
    row.require(left, f"nothing is left on {node} although no hook can have reached it")
    row.world.sshd_on(node)
    row.end()
    row.note("from when sshd was back")
    reap(row)


@fault("sshd-hiccup", "sshd of a node is down for a moment while the job runs")
def sshd_hiccup(row: Row) -> None:
    """It is back before the job ends."""
    job = row.run()
    node = row.other(job)
    row.stack.callback(row.world.sshd_on, node)
    row.world.sshd_off(node)
    row.require(not row.world.answers(node, 6667), f"sshd of {node} still answers")
    row.world.sshd_on(node)
    row.require("awake" in row.inside(job, "vm2", "echo awake"), "vm2 does not answer")
    row.delete(job)
    deleted(row, job)


def _reboot(row: Row, node: str, is_first: bool) -> None:
    if is_first:
        row.stack.enter_context(row.world.configured(**IMPATIENT))
    job = row.run()
    row.require((row.head(job) == node) == is_first, f"{node} has another place in the job")
    machine = row.world.sandbox.machine(node)
    inits = row.inits(job, node)
    row.require(inits, f"{node} has no container")
    row.stack.callback(row.world.switch_on, node)
    before = machine.pid
    machine.stop()
    row.world.switch_on(node)
    row.require(machine.pid != before, f"{node} was not switched off")
    row.delete(job)
    if is_first:
        exterminated(row, job)
    row.wait("the job ends", lambda: job.state in ENDED, row.fault.patience)
    reap(row)


@fault(
    "node-off-on",
    "a node is switched off and on again, then oardel",
    away=("node2",),
    suspects=BOOTED,
    patience=EXTERMINATE_PATIENCE,
)
def node_off_on(row: Row) -> None:
    """A node that is not the job's first one."""
    _reboot(row, "node2", is_first=False)


@fault(
    "first-node-off-on",
    "the job's first node is switched off and on again, then oardel",
    away=("node1",),
    suspects=BOOTED,
    patience=EXTERMINATE_PATIENCE,
)
def first_node_off_on(row: Row) -> None:
    """OAR's own process of the job is gone with the node."""
    _reboot(row, "node1", is_first=True)


@fault("server-restart", "the OAR server is restarted while the job runs, then oardel")
def server_restart(row: Row) -> None:
    """The job does not notice."""
    job = row.run()
    _restart(row)
    row.require(job.state == "Running", f"the job is {job.state}")
    row.require("awake" in row.inside(job, "vm2", "echo awake"), "vm2 does not answer")
    row.delete(job)
    deleted(row, job)


@fault(
    "server-restart-ending",
    "the OAR server is restarted while the job ends",
    patience=420,
)
def server_restart_ending(row: Row) -> None:
    """OAR was asked to delete the job, and may be doing it."""
    job = row.run()
    row.delete(job)
    row.require(job.state not in ENDED, "the job had ended before the server was restarted")
    _restart(row)
    row.wait("the job ends", lambda: job.state in ENDED, row.fault.patience)


def _restart(row: Row) -> None:
    world = row.world
    show = ("systemctl", "show", "-P", "InvocationID", "oar-server")
    before = world.on("server", *show).stdout
    world.on("server", "systemctl", "restart", "oar-server")
    row.require(world.on("server", *show).stdout != before, "the server was not restarted")
    row.wait("the server answers", lambda: world.answers("server", 6666))


@fault("full-disk", "the containers fill the disk, then oardel", away=("node2",))
def full_disk(row: Row) -> None:
    """Not a byte is free where the job's files and record are."""
    node = "node2"
    _small_disk(row, node)
    job = row.run()
    row.inside(job, "vm2", "dd if=/dev/zero of=/root/fill bs=64k", check=False)
    row.inside(job, "vm2", "dd if=/dev/zero of=/root/fill2 bs=1", check=False)
    row.require(_free(row, node) < 2 * 4096, f"{_free(row, node)} bytes are free on {node}")
    row.delete(job)
    deleted(row, job)


@fault("full-disk-start", "the disk is full when the job starts", away=("node2",))
def full_disk_start(row: Row) -> None:
    """The job is refused in one sentence, and the node is not to blame."""
    node = "node2"
    _small_disk(row, node)
    fill = f"dd if=/dev/zero of={STATE}/fill bs=64k; dd if=/dev/zero of={STATE}/fill2 bs=1"
    row.world.on(node, "sh", "-c", f"{fill}; true")
    row.require(_free(row, node) < 4096, f"{_free(row, node)} bytes are free on {node}")
    job = row.submit(SCRIPT)
    row.wait("the job ends", lambda: job.state in ENDED, 90)
    row.end()
    said = job.output("stderr")
    row.require("Traceback" not in said, f"the job's errors are {said!r}")
    row.require(node in said, f"the job's errors do not name {node}: {said!r}")
    row.world.on(node, "rm", f"{STATE}/fill", f"{STATE}/fill2")


def _free(row: Row, node: str) -> int:
    return int(row.world.on(node, "df", "--output=avail", "-B1", STATE).stdout.split()[-1])


def _small_disk(row: Row, node: str) -> None:
    """Give a node a small disk for its state until the row is over; the host's is not touched."""
    sandbox = row.world.sandbox
    image = sandbox.state.storage / f"{node}.matrix-disk"
    stack = row.stack
    stack.callback(image.unlink, missing_ok=True)
    with image.open("wb") as file:
        file.truncate(int(DISK_SIZE.removesuffix("M")) << 20)
    run(["mkfs.ext4", "-q", "-m", "0", str(image)])
    device = run(["losetup", "--find", "--show", str(image)]).stdout.strip()
    stack.callback(run, ["losetup", "--detach", device], check=False)
    number = os.stat(device).st_rdev
    undo = (
        f"umount {STATE}/store/images; umount {STATE} || umount -l {STATE}; "
        f"umount {IMAGES}; rmdir {IMAGES}; rm -f {DISK}; true"
    )
    stack.callback(row.world.on, node, "sh", "-c", undo)
    script = (
        f"rm -f {DISK}; mknod {DISK} b {os.major(number)} {os.minor(number)}; "
        f"mkdir -p {IMAGES}; mount --bind {STATE}/store/images {IMAGES}; "
        f"modes=$(cd {STATE}; stat -c '%a %n' jobs records store); "
        f"ranges=$(cat {STATE}/ranges.json); "
        f"mount {DISK} {STATE}; rmdir {STATE}/lost+found; "
        f'echo "$modes" | while read mode name; do mkdir -m $mode {STATE}/$name; done; '
        f"mkdir {STATE}/store/images; mount --bind {IMAGES} {STATE}/store/images; "
        f'umask 077; echo "$ranges" >{STATE}/ranges.json'
    )
    row.world.on(node, "sh", "-ec", script)
    where = row.world.on(node, "findmnt", "-no", "SOURCE", STATE).stdout.split()
    row.require(DISK in where, f"{STATE} on {node} is on {where}")
