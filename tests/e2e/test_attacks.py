"""What a hostile user tries on a real cluster: on its network, and on the end of a job."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import ENDED, Cluster, SubmittedJob, wait_until

SCRIPT = "./jobscripts/lxc_job.py"
PORT = "7777"  # where the victim's container listens


@pytest.fixture(scope="module")
def jobs(cluster: Cluster) -> Iterator[tuple[SubmittedJob, SubmittedJob]]:
    """Return a job of alice and one of bob, on the same nodes, each with a container on each."""
    made = [cluster.submit(SCRIPT, user=user) for user in ("alice", "bob")]
    try:
        for job in made:
            job.wait_output("connect from the frontend:")
        listen = f"setsid perl -MIO::Socket::INET -e '{listener()}' >/dev/null 2>&1 &"
        inside(made[1], listen)
        yield made[0], made[1]
    finally:
        living = [job for job in made if job.state not in ENDED]
        for job in living:
            job.delete()
        for job in living:
            job.wait_end()


def listener() -> str:
    """Return the victim's server, in what every Debian has."""
    return (
        f"my $s = IO::Socket::INET->new(LocalPort => {PORT}, Listen => 5, ReuseAddr => 1);"
        "while (my $c = $s->accept) { print $c qq(reached); close $c }"
    )


def inside(job: SubmittedJob, line: str, name: str = "vm1", *, check: bool = True) -> str:
    """Run a shell line in a container; return what it wrote."""
    argv = ["oar-lxc", "exec", f"{job.id}/{name}", "--", "bash", "-c", line]
    return job.cluster.frontend(*argv, user=job.user, check=check).stdout


def address(job: SubmittedJob, name: str = "vm1") -> str:
    """Return the address of a container."""
    return inside(job, f"getent hosts {name}", name).split()[0]


def connect(target: str) -> str:
    """Return a line that connects to the victim's server and writes what it answers."""
    return f"timeout 3 bash -c 'cat </dev/tcp/{target}/{PORT}' 2>/dev/null || echo no"


def test_containers_of_another_job_cannot_be_reached(
    jobs: tuple[SubmittedJob, SubmittedJob],
) -> None:
    """Neither on the same node nor on another; the same works in the job that they belong to."""
    alices, bobs = jobs
    target = address(bobs)
    assert inside(bobs, connect(target), "vm2") == "reached"
    for name in ("vm1", "vm2"):
        assert inside(alices, connect(target), name) == "no\n"
        ping = f"ping -c2 -W2 {target} >/dev/null 2>&1 && echo reached || echo no"
        assert inside(alices, ping, name) == "no\n"


def test_a_forged_address_does_not_reach_another_job(
    jobs: tuple[SubmittedJob, SubmittedJob],
) -> None:
    """Alice's container takes an address of bob's network, and says that it is bob's vm2."""
    alices, bobs = jobs
    target, forged = address(bobs), address(bobs, "vm2")
    take = f"ip address add {forged}/32 dev eth0"
    give = f"ip address del {forged}/32 dev eth0"
    route = f"ip route add {target}/32 dev eth0"
    default = "$(ip route | sed -n 's/^default via //p' | cut -d' ' -f1)"
    gateway = f"ip route replace {target}/32 via {default}"
    ping = f"ping -I {forged} -c2 -W2 {target} >/dev/null 2>&1 && echo reached || echo no"
    count = f"ip -s neigh show {forged}"
    try:
        for way in (route, gateway):
            inside(alices, f"{take} 2>/dev/null; {way}")
            assert inside(alices, ping) == "no\n"
            assert inside(bobs, connect(target), "vm2") == "reached", inside(bobs, count)
    finally:
        inside(alices, f"{give}; ip route del {target}/32", check=False)


def test_the_users_own_shell_on_a_node_is_no_way_into_anothers_container(
    jobs: tuple[SubmittedJob, SubmittedJob],
) -> None:
    """The node itself may speak to all containers, but keys and commands stay the job's."""
    alices, bobs = jobs
    cluster = alices.cluster
    for command in (
        ["exec", f"{bobs.id}/vm1", "--", "id"],
        ["ssh", f"{bobs.id}/vm1", "id"],
        ["list", str(bobs.id)],
    ):
        result = cluster.frontend("oar-lxc", *command, check=False)
        assert result.status != 0
        assert "belongs to bob" in result.stderr
    node = cluster.nodes[0]
    line = f"OAR_JOB_ID={bobs.id} python3 -m oar_lxc.doorway {bobs.id} attach vm1 id"
    shell = ["oarsh", node, line]
    argv = ["env", f"OAR_JOB_ID={alices.id}", *shell]
    result = cluster.frontend(*argv, check=False)
    assert result.status != 0
    assert f"belongs to bob, not to {alices.user}" in result.stderr
    assert "uid=" not in result.stdout


SWAP = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
for place in sys.argv[1:]:
    os.makedirs(place + "/a/b", exist_ok=True)
    for number in range(100): open(f"{place}/a/b/{number}", "w").close()
    os.symlink("/home/bob", place + "/x")
    os.symlink("/etc", place + "/a/y")
for _ in range(3): os.fork()
while True:
    for place in sys.argv[1:]:
        libc.renameat2(-100, f"{place}/a".encode(), -100, f"{place}/x".encode(), 2)
        libc.renameat2(-100, f"{place}/a/b".encode(), -100, f"{place}/a/y".encode(), 2)
"""


def test_directories_that_are_swapped_while_a_job_is_deleted_lead_nowhere(
    cluster: Cluster, jobs: tuple[SubmittedJob, SubmittedJob]
) -> None:
    """Bob's home and /etc are as before, nothing of the job is left, and OAR trusts the nodes."""
    job, _ = jobs
    ids = cluster.first_ids(job)
    node = cluster.nodes[0]
    look = "find /home/bob /etc -xdev -newer /run/oar-lxc-test-before; find /home/bob /etc | wc -l"
    cluster.on(node, "sh", "-c", "sleep 1; : > /run/oar-lxc-test-before")
    places = [f"/var/lib/oar-lxc/jobs/{job.id}/{name}/swap" for name in ("containers", "private")]
    argv = ["env", f"OAR_JOB_ID={job.id}", "oarsh", node, "sh", "-c"]
    before = cluster.on(node, "sh", "-c", "find /home/bob /etc | wc -l").stdout
    where = " ".join(places)
    start = f"mkdir -p {where}; setsid python3 - {where} <<X >/dev/null 2>&1 &\n{SWAP}X\n"
    cluster.frontend(*argv, shlex.quote(start), check=False)
    swapping = ["pgrep", "-u", "alice", "-f", places[0]]
    wait_until("swaps", lambda: cluster.on(node, *swapping, check=False).status == 0, 10)
    job.delete()
    job.wait_end()
    cluster.assert_nothing_left(job, ids)
    assert cluster.on(node, *swapping, check=False).status != 0
    after = cluster.on(node, "sh", "-c", look).stdout.splitlines()
    allowed = {"/etc", "/etc/subuid", "/etc/subgid", "/etc/lxc", "/etc/lxc/lxc-usernet"}
    assert set(after[:-1]) <= allowed | {"/etc/subuid-", "/etc/subgid-"}
    assert after[-1].strip() == before.strip()
    cluster.on(node, "rm", "/run/oar-lxc-test-before")
