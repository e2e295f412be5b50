"""A kernel that is busy with network devices of others, for seconds: no job is harmed, no node.

It holds one lock (RTNL) while it removes devices, also those of a user's own namespaces, and ip(8)
waits for it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from oar_lxc.linux.run import Result, run
from oar_lxc.model.layout import UPLINK_INSIDE, JobLayout
from oar_lxc.root.bridge import MOST_LEARNED
from tests.integration.attacks import attack, in_network
from tests.integration.conftest import first_id_of_record, left, published
from tests.integration.nodes import oar_cgroups
from tests.pretend import PYTHON, PretendJob, checkout

# In the place of ip(8): some of its calls, by their numbers, take too long.
LATE = """\
#!/bin/sh
number=$(cat {tmp}/number)
echo $((number + 1)) >{tmp}/number
case " {late} " in *" $number "*) exec sleep 100 ;; esac
exec {tmp}/ip "$@"
"""
WORLD = 'path=$(readlink -f "$(command -v ip)"); cp "$path" {tmp}/ip; '
WORLD += 'mount --bind {tmp}/late "$path"; exec "$@"'


def node_side(job: PretendJob, tmp: Path, late: Sequence[int], *arguments: str) -> Result:
    """Run the root side where calls of ip(8) are late, in a mount namespace of its own."""
    (tmp / "late").write_text(LATE.format(tmp=tmp, late=" ".join(map(str, late))))
    (tmp / "late").chmod(0o755)
    (tmp / "number").write_text("0\n")
    world = ["unshare", "--mount", "--propagation", "slave", "sh", "-ec", WORLD.format(tmp=tmp)]
    argv = [*world, "sh", PYTHON, "-IS", str(checkout() / "oar-lxc-node"), arguments[0]]
    argv += ["--job", str(job.id), "--user", job.user, "--cgroup", job.cgroup, *arguments[1:]]
    return run(argv, check=False)


@pytest.mark.parametrize("late", [[0], [1], range(1, 100), range(100)])
def test_a_job_is_refused_and_the_node_stays_in_service(
    unprepared: PretendJob, tmp_path: Path, late: Sequence[int]
) -> None:
    job = unprepared
    nodes = ("--node", job.node, "--nodes", job.node)
    done = node_side(job, tmp_path, late, "prepare", *nodes, "--deadline", "4")
    assert (done.status, done.stderr) == (0, "")
    assert published(job).state == "refused"
    assert published(job).reason.startswith("the kernel of its node took longer than ")
    first_id = first_id_of_record(job)
    assert job.destroy().status == 0
    assert left(job, first_id) == {"cgroups": oar_cgroups(job)}


@pytest.mark.parametrize("late", [[0], [0, 1]])
def test_a_destroy_tries_again(job: PretendJob, tmp_path: Path, late: Sequence[int]) -> None:
    first_id = published(job).first_id
    done = node_side(job, tmp_path, late, "destroy", "--deadline", "8")
    assert (done.status, done.stderr) == (0, "")
    assert left(job, first_id) == {"cgroups": oar_cgroups(job)}


def test_devices_that_are_left_are_told_and_go_with_the_next_destroy(
    job: PretendJob, tmp_path: Path
) -> None:
    first_id = published(job).first_id
    done = node_side(job, tmp_path, range(100), "destroy", "--deadline", "4")
    assert done.status == 0  # any user can do that to the node
    assert f"olb{job.id}" in done.stderr
    assert "the kernel was busy with network devices of others" in done.stderr
    assert left(job, first_id).keys() == {"cgroups", "files", "links"}
    assert job.destroy().status == 0
    assert left(job, first_id) == {"cgroups": oar_cgroups(job)}


# A network namespace that dies with very many devices.
DYING = """
import ctypes, os, subprocess
assert ctypes.CDLL(None).unshare(0x40000000) == 0
lines = "".join(f"link add d{number} type bridge\\n" for number in range(400))
subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)
"""


def test_neither_waits_for_the_lock_that_the_kernel_holds(
    unprepared: PretendJob, job: PretendJob
) -> None:
    run([PYTHON, "-c", DYING])
    destroyed = job.node_side("destroy", "--deadline", "1", check=False)
    assert destroyed.status == 0
    assert "the kernel was busy with network devices of others" in destroyed.stderr
    nodes = ("--node", job.node, "--nodes", job.node)
    assert unprepared.node_side("prepare", *nodes, "--deadline", "1").status == 0
    assert published(unprepared).state == "refused"
    assert job.destroy().status == 0  # it waits until the lock is free


# Sends frames from more hardware addresses than a bridge of root's may learn.
FLOOD = """
import socket, struct
device, number = sys.argv[1], int(sys.argv[2])
frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
frames.bind((device, 0))
for one in range(number):
    source = b"\\x02\\x99" + struct.pack(">I", one)
    frames.send(b"\\xff" * 6 + source + b"\\x88\\xb5" + bytes(46))
tell("sent")
signal.pause()
"""


def learned(bridge: str) -> int:
    shown = subprocess.run(
        ["bridge", "fdb", "show", "br", bridge], capture_output=True, text=True, check=True
    ).stdout
    return shown.count("02:99:")


def test_what_a_job_lets_the_nodes_bridge_learn_has_a_limit(job: PretendJob) -> None:
    layout = JobLayout(job.id)
    inside = in_network(job)
    assert job.run([*inside, "ip", "link", "set", UPLINK_INSIDE, "up"]).status == 0
    with attack(job, FLOOD, UPLINK_INSIDE, str(MOST_LEARNED * 2), before=inside):
        assert 0 < learned(layout.bridge) <= MOST_LEARNED
