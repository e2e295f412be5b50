"""What a hostile user tries on a real cluster: on its network, and on the end of a job."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from oar_lxc.linux.login_shell import pack
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


# Who has the address? Asked in plain UDP, as another node of the job would in its VXLAN.
JOIN = """
import socket, struct, sys
node, vni, target, me = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
mac = bytes.fromhex("02badbadbad1")
arp = b"\\xff" * 6 + mac + b"\\x08\\x06" + struct.pack("!HHBBH", 1, 0x800, 6, 4, 1) + mac
arp += socket.inet_aton(me) + bytes(6) + socket.inet_aton(target)
for port in (289, 4789):
    s = socket.socket(type=socket.SOCK_DGRAM)
    s.settimeout(1)
    try: s.bind(("", port))
    except PermissionError: s.bind(("", 0))
    try:
        for _ in range(3): s.sendto(struct.pack("!II", 0x08000000, vni << 8) + arp, (node, port))
        s.recv(2000)
        print("answered")
    except OSError: print("no")
"""


def test_no_user_of_a_frontend_is_in_a_jobs_network(
    jobs: tuple[SubmittedJob, SubmittedJob],
) -> None:
    """By plain UDP, which takes no rights."""
    alices, bobs = jobs
    cluster = alices.cluster
    target = address(bobs)
    me = target.rpartition(".")[0] + ".99"
    for node in cluster.nodes:
        argv = ["python3", "-c", JOIN, node, str(bobs.id), target, me]
        assert cluster.frontend(*argv).stdout == "no\nno\n"
        argv = ["bridge", "fdb", "show", "dev", f"olv{bobs.id}"]
        assert "02:ba:db:ad:ba:d1" not in cluster.on(node, *argv).stdout
    assert inside(bobs, connect(target), "vm2") == "reached"


def test_plain_programs_on_a_node_do_not_reach_anothers_containers(
    jobs: tuple[SubmittedJob, SubmittedJob],
) -> None:
    """The user's own do, as ``oar-lxc ssh`` and ports need it."""
    alices, bobs = jobs
    target = address(bobs)
    line = shlex.quote(connect(target))
    for job, answer in ((alices, "no\n"), (bobs, "reached")):
        argv = ["env", f"OAR_JOB_ID={job.id}", "oarsh", job.cluster.nodes[0], "bash", "-c", line]
        assert job.cluster.frontend(*argv, user=job.user).stdout == answer


def test_oars_ssh_refuses_another_host_key(cluster: Cluster) -> None:
    """On every machine; and with the cluster's it goes on without a question."""
    node = cluster.nodes[0]
    ssh = ["runuser", "-u", "oar", "--", "ssh", "-p", "6667", "-o", "BatchMode=yes"]
    for machine in ("server", "frontend", node):
        assert cluster.on(machine, *ssh, node, "hostname").stdout == f"{node}\n"
    # Who would answer in the node's place, where the node's own sshd does not.
    lure = "d=$(mktemp -d); trap 'kill $(cat $d/pid); rm -r $d' EXIT; ip link set lo up; "
    lure += (
        "ssh-keygen -q -t ed25519 -N '' -f $d/key; sed '/^HostKey/d' /etc/oar/sshd_config >$d/c; "
    )
    lure += f"/usr/sbin/sshd -f $d/c -h $d/key -o PidFile=$d/pid; {shlex.join(ssh)} 127.0.0.1 cat"
    argv = ["unshare", "-n", "bash", "-c", lure]
    done = cluster.on(node, *argv, check=False, stdin="a key of a job")
    assert done.status == 255
    assert "host key" in done.stderr.lower()
    assert done.stdout == ""


def test_the_users_own_shell_on_a_node_is_no_way_into_anothers_container(
    jobs: tuple[SubmittedJob, SubmittedJob],
) -> None:
    """Keys and commands stay the job's."""
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
    words = pack(("attach", "vm1", "id"))
    line = f"OAR_JOB_ID={bobs.id} python3 -m oar_lxc.agent.attach {bobs.id} - {words}"
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
    wait_until("swaps", lambda: cluster.on(node, *swapping, check=False).status == 0)
    job.delete()
    job.wait_end()
    if not cluster.cpuset:  # what was started outside of containers is nobody's to kill then
        cluster.on(node, "pkill", "-KILL", *swapping[1:])
        wait_until("it ends", lambda: cluster.on(node, *swapping, check=False).status != 0)
    cluster.assert_nothing_left(job, ids)
    assert cluster.on(node, *swapping, check=False).status != 0
    after = cluster.on(node, "sh", "-c", look).stdout.splitlines()
    assert [line.strip() for line in after] == [before.strip()]
    cluster.on(node, "rm", "/run/oar-lxc-test-before")


WRITE_WITH_AN_ID = """
mkdir -p /var/log/journal
systemctl restart systemd-journald
journalctl --flush
setpriv --reuid 603979776 logger message
journalctl --sync
ls /var/log/journal/*
"""


def test_ids_of_a_job_get_no_files_of_the_journal(cluster: Cluster) -> None:
    """Each would have 8 MiB of the node's disk, which stay after the job."""
    had = cluster.on("node1", "test", "-d", "/var/log/journal", check=False).status == 0
    try:
        found = cluster.on("node1", "sh", "-ec", WRITE_WITH_AN_ID).stdout
        assert "system.journal" in found
        assert "user-" not in found
    finally:
        if not had:
            cluster.on("node1", "rm", "-r", "/var/log/journal")
            cluster.on("node1", "systemctl", "restart", "systemd-journald")
