"""Containers that all talk to each other: the kernel has one table of neighbours for all."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from oar_lxc.image.building import build
from oar_lxc.linux.run import run
from tests.integration.conftest import left, next_id, published
from tests.integration.jobs import Running, close, start_script
from tests.pretend import pretend_job

COUNT = 48  # of them; 48 * 47 pairs are more than twice what the kernel takes by default

# Sends a datagram from each container to each other one at once; tells what came and what did not.
TALK = """
import ctypes, json, os, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
sockets = {}
for address, pid in json.loads(sys.argv[1]).items():
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    if libc.setns(namespace, 0):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(namespace)
    sockets[address] = one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind((address, 9999))
    one.setblocking(False)
refused = 0
for one in sockets.values():
    for other, its in sockets.items():
        if its is not one:
            try:
                one.sendto(b"x", (other, 9999))
            except OSError:
                refused += 1
came, end = 0, time.monotonic() + 20
while came < len(sockets) * (len(sockets) - 1) - refused and time.monotonic() < end:
    for one in sockets.values():
        try:
            while one.recv(1):
                came += 1
        except BlockingIOError:
            time.sleep(0.001)
print(json.dumps([came, refused]))
"""


@pytest.fixture(scope="module")
def crowd(user: str) -> Iterator[Running]:
    """Return a job with many small containers."""
    build("busybox")
    with pretend_job(next_id(), user) as job:
        first_id = published(job).first_id
        running = start_script(
            job, "--image", "busybox", "--per-node", str(COUNT), "--wait", "running"
        )
        try:
            yield running
        finally:
            close(running.process)
    assert left(job, first_id) == {}


def neighbours(pid: int) -> dict[str, dict[str, Any]]:
    """Return what a container's kernel knows of its neighbours, by their address."""
    argv = ["nsenter", "-t", str(pid), "-n", "ip", "-json", "-4", "neigh", "show"]
    return {one["dst"]: one for one in json.loads(run(argv).stdout)}


def test_all_reach_all_others_at_once(crowd: Running) -> None:
    found = {one["address"]: one["pid"] for one in crowd.containers().values()}
    assert len(found) == COUNT
    done = run([sys.executable, "-c", TALK, json.dumps(found)], timeout=60)
    assert json.loads(done.stdout) == [COUNT * (COUNT - 1), 0]


def test_each_knows_all_others_for_good_and_by_the_address_they_have(crowd: Running) -> None:
    found = crowd.containers()
    hardware = {
        one["address"]: crowd.inside(name, "cat /sys/class/net/eth0/address")
        for name, one in [*found.items()][:3]
    }
    for one in found.values():
        known = neighbours(one["pid"])
        for other in found.values():
            if other is not one:
                assert known[other["address"]]["state"] == ["PERMANENT"]
        for address, its in hardware.items():
            assert address == one["address"] or known[address]["lladdr"] == its
