"""What the owner of a job's namespaces tries with them: against other jobs, the node, and the end.

She has all rights over the devices in her job's network namespace. What she sends by them comes to
the node's bridge of her job and no further than that.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from oar_lxc.linux.node_log import LOG
from oar_lxc.model.layout import BRIDGE_INSIDE, UPLINK_INSIDE
from tests import kernel
from tests.integration.attacks import (
    assert_gone,
    attack,
    in_network,
    lives,
)
from tests.integration.lan import Lan, NetJob, Place, lan, settle, vxlan
from tests.pretend import PretendJob


@pytest.fixture(scope="module")
def around() -> Iterator[Lan]:
    """Return a node with machines around it."""
    with lan() as made:
        yield made


@pytest.fixture(scope="module")
def second(around: Lan) -> Place:
    """Return another node of bob's job."""
    return around.machine(12)


@pytest.fixture(scope="module")
def alices(around: Lan, user: str) -> NetJob:
    """Return the attacker's job."""
    return around.job(user)


@pytest.fixture(scope="module")
def bobs(around: Lan, other_user: str, second: Place) -> NetJob:
    """Return the job of another user, on two nodes."""
    return around.job(other_user, second)


@pytest.fixture(scope="module")
def hers(alices: NetJob) -> Iterator[Place]:
    """Return a container of the attacker's; it also makes the bridge inside."""
    with alices.container() as made:
        yield made


@pytest.fixture(scope="module")
def his(bobs: NetJob) -> Iterator[Place]:
    """Return a container of the other job."""
    with bobs.container() as made:
        yield made


@pytest.fixture(scope="module")
def owner(alices: NetJob, hers: Place) -> Place:
    """Return the attacker's shell: root in her job's network namespace, with an address there."""
    become = ["setpriv", f"--reuid={alices.pretend.user}", f"--regid={alices.pretend.user}"]
    enter = [*alices.lan.node.enter, *become, "--init-groups", *in_network(alices.pretend)]
    address = alices.network.container_address(40)
    place = Place(enter, str(address.ip))
    lines = [f"address add {address} dev {BRIDGE_INSIDE}", f"link set {BRIDGE_INSIDE} up"]
    lines += [f"route add default via {alices.gateway}"]
    place.run("ip", "-batch", "-", input="\n".join(lines) + "\n")
    return place


def files_of(job: NetJob) -> tuple[Path, Path]:
    return job.layout.user_namespace, job.layout.network_namespace


# --- In another job's namespaces ----------------------------------------------------------------


def test_nobody_enters_the_namespaces_of_another_users_job(
    alices: NetJob, owner: Place, bobs: NetJob, his: Place
) -> None:
    """Not with her own rights, nor as root of her job's namespaces, by no name that they have."""
    user, network = files_of(bobs)
    shell = Place(list(alices.lan.node.enter), "")
    for number, (kind, path) in enumerate((("user", user), ("net", network))):
        for place in (f"{path}", f"/proc/{his.pid}/ns/{kind}"):
            argv = ("nsenter", f"--{kind}={place}", "true")
            for done in (
                owner.run(*argv, check=False),
                shell.run(*argv, check=False, user=alices.pretend.user),
            ):
                assert done.status != 0, (number, place)
                assert any(word in done.stderr for word in ("not permitted", "denied")), done


def test_nobody_puts_a_device_into_another_jobs_network(
    owner: Place, bobs: NetJob, his: Place
) -> None:
    before = sorted(os.listdir(f"/proc/{his.pid}/root/sys/class/net"))
    ports = bobs.lan.node.run("ls", f"/sys/class/net/{bobs.layout.bridge}/brif").stdout
    tries = [
        f"link add evil0 type veth peer name evil1 netns {his.pid}",
        f"link add evil0 netns {his.pid} type bridge",
        f"link add evil0 type veth peer name evil1 netns {bobs.layout.network_namespace}",
        f"link set {UPLINK_INSIDE} netns {his.pid}",
        f"link set {UPLINK_INSIDE} netns 1",
        f"link set {UPLINK_INSIDE} master {bobs.layout.bridge}",
        f"link set {UPLINK_INSIDE} netns {bobs.lan.node.pid}",
    ]
    for line in tries:
        assert owner.run("ip", *line.split(), check=False).status != 0, line
    assert sorted(os.listdir(f"/proc/{his.pid}/root/sys/class/net")) == before
    assert bobs.lan.node.run("ls", f"/sys/class/net/{bobs.layout.bridge}/brif").stdout == ports


# --- Frames through the uplink ------------------------------------------------------------------

# Frames of a kind of their own, and how many of them come.
MARK = "88b5"
LISTEN = """
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
s.settimeout(60)
print("ready")
while True: print(s.recv(2000)[14:18].decode(errors="replace"))
"""
FRAME = """
device, target, mark, source = [*sys.argv[1:], "029900000001"][:4]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((device, 0))
frame = bytes.fromhex(target) + bytes.fromhex(source) + b"\\x88\\xb5"
for _ in range(5): s.send(frame + mark.encode() + bytes(60))
"""


def hardware(place: Place) -> str:
    shown = place.run("ip", "-br", "link", "show", "eth0").stdout
    return shown.split()[2].replace(":", "")


def heard(place: Place, attempt: Callable[[], object]) -> bool:
    """Whether a place gets a frame that an attempt sends, and not one that it gets for sure."""
    with place.server(LISTEN) as output:
        attempt()
        settle()
        # What certainly comes, after all else: the place's own.
        place.python(
            "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\ns.bind(('lo', 0))\n"
            "s.send(bytes(12) + b'\\x88\\xb5' + b'last' + bytes(60))"
        )
        return any(line == "evil\n" for line in iter(output.readline, "last\n"))


def test_frames_come_to_her_own_containers_and_to_no_others(
    owner: Place, hers: Place, his: Place
) -> None:
    """To the address of a container, and to all."""
    for target in (hardware(hers), "ff" * 6):
        assert heard(hers, lambda t=target: owner.python(FRAME, BRIDGE_INSIDE, t, "evil"))  # type: ignore[misc]
    for target in (hardware(his), "ff" * 6):
        for device in (BRIDGE_INSIDE, UPLINK_INSIDE):
            assert not heard(
                his,
                lambda t=target, d=device: owner.python(FRAME, d, t, "evil"),  # type: ignore[misc]
            )


# Devices of hers by which she would be a node of bob's job, and ways to tell where it is.
TUNNELS = {
    "remote": ["link add evil0 type vxlan id {vni} dstport 289 remote {to} local {me}"],
    "entries": [
        "link add evil0 type vxlan id 7 dstport 7000 local {me}",
        "fdb append 00:00:00:00:00:00 dev evil0 dst {to} vni {vni} port 289",
    ],
    "collected": [
        "link add evil0 type vxlan external dstport 289 local {me}",
    ],
}


@pytest.mark.parametrize("kind", ["remote", "entries"])
def test_a_vxlan_of_hers_is_in_no_other_jobs_network(
    owner: Place, bobs: NetJob, his: Place, second: Place, alices: NetJob, kind: str
) -> None:
    """By FDB entries, VNI and port of hers, towards both nodes of bob's and her gateway."""
    me = bobs.network.container_address(60)
    vni = str(bobs.network.vni)
    before = bobs.lan.node.run("bridge", "fdb", "show", "br", bobs.layout.bridge).stdout
    for to in (bobs.lan.node.address, second.address, alices.gateway):
        lines = [line.format(vni=vni, to=to, me=owner.address) for line in TUNNELS[kind]] + [
            "link set evil0 address 02:99:00:00:00:02",
            f"address add {me} dev evil0",
            "link set evil0 up",
        ]
        links = "\n".join(line for line in lines if not line.startswith("fdb")) + "\n"
        owner.run("ip", "-batch", "-", input=links)
        for line in lines:
            if line.startswith("fdb"):
                owner.run("bridge", *line.split())
        try:
            assert not heard(his, lambda: owner.python(FRAME, "evil0", "ff" * 6, "evil"))
        finally:
            owner.run("ip", "link", "del", "evil0")
    after = bobs.lan.node.run("bridge", "fdb", "show", "br", bobs.layout.bridge).stdout
    assert "02:99:00:00:00:0" not in after
    assert before.count("\n") >= after.count("\n") - 1
    # From where the job has a node, the same works.
    vxlan(second, bobs, 50)
    assert heard(his, lambda: second.python(FRAME, "vx", "ff" * 6, "evil", "0297" + "00" * 4))
    second.run("ip", "link", "del", "vx")


# --- Addresses of others ------------------------------------------------------------------------

# Claims addresses by ARP, as request and as reply, to all and to the node.
CLAIM = """
device, mac, *addresses = sys.argv[1:]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((device, 0))
source = bytes.fromhex("029900000003")
for one in addresses:
    ip = socket.inet_aton(one)
    for op, target in ((1, ip), (2, ip), (1, socket.inet_aton(addresses[-1]))):
        arp = struct.pack("!HHBBH", 1, 0x800, 6, 4, op) + source + ip + bytes(6) + target
        for to in (b"\\xff" * 6, bytes.fromhex(mac)):
            s.send(to + source + b"\\x08\\x06" + arp + bytes(18))
"""


def reaches(place: Place, other: Place, address: str) -> bool:
    """Whether a datagram comes from one place to another."""
    with other.server(COUNT, "5301") as output:
        place.python('socket.socket(type=2).sendto(b"last", (sys.argv[1], 5301))', address)
        return output.readline().startswith("last ")


def neighbours(node: Place) -> set[tuple[str, ...]]:
    """Return which device a node thinks that each address is at, and by which hardware address."""
    lines = node.run("ip", "neigh", "show").stdout.splitlines()
    return {tuple(line.split()[:5]) for line in lines if "lladdr" in line}


def test_the_node_believes_nothing_of_other_jobs_addresses(
    owner: Place, alices: NetJob, bobs: NetJob, his: Place, hers: Place
) -> None:
    node = alices.lan.node
    for place in (his, hers):  # so that it knows both
        assert reaches(node, place, place.address)
    own = node.run("cat", f"/sys/class/net/{alices.layout.bridge}/address").stdout
    claimed = (his.address, bobs.gateway, node.address, alices.gateway)
    for device in (BRIDGE_INSIDE, UPLINK_INSIDE):
        owner.python(CLAIM, device, own.strip().replace(":", ""), *claimed)
    settle()
    found = neighbours(node)
    for address in claimed[:3]:
        at = {
            entry[2] for entry in found if entry[0] == address and entry[-1] == "02:99:00:00:00:03"
        }
        assert at <= {alices.layout.bridge}, found
    assert (his.address, "dev", bobs.layout.bridge, "lladdr") == next(
        entry[:4] for entry in found if entry[0] == his.address and entry[2] == bobs.layout.bridge
    )
    route = node.run("ip", "route", "get", his.address).stdout
    assert f"dev {bobs.layout.bridge} " in route
    assert reaches(node, his, his.address)
    assert reaches(his, node, bobs.gateway)


# UDP from any address, in frames of one's own.
SPOOF = """
device, gateway, source, target, port = sys.argv[1:]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((device, 0))
udp = struct.pack("!4H", 5353, int(port), 8 + 4, 0) + b"evil"
head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 7, 0, 64, 17, 0)
head += socket.inet_aton(source) + socket.inet_aton(target)
total = sum(struct.unpack("!10H", head)); total = (total >> 16) + (total & 0xffff)
head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xffff) + head[12:]
ends = bytes.fromhex(gateway) + bytes.fromhex("029900000004")
for _ in range(3): s.send(ends + b"\\x08\\x00" + head + udp)
"""
COUNT = """
s = socket.socket(type=2)
s.bind(("", int(sys.argv[1])))
print("ready")
while True:
    d, a = s.recvfrom(2000)
    print(d.decode(errors="replace"), a[0])
    if d == b"last": break
"""


def test_packets_from_addresses_of_others_come_to_nobody(
    around: Lan, owner: Place, alices: NetJob, bobs: NetJob, his: Place, second: Place
) -> None:
    """Neither to the node, nor to bob's container, nor to another machine, as hers do."""
    node = around.node
    gateway = node.run("cat", f"/sys/class/net/{alices.layout.bridge}/address").stdout
    gateway = gateway.strip().replace(":", "")
    sources = (his.address, bobs.gateway, second.address, "127.0.0.1", "8.8.8.8")
    last = 'socket.socket(type=2).sendto(b"last", (sys.argv[1], 5300))'
    for place, address, sender in (
        (node, node.address, second),
        (his, his.address, node),
        (second, second.address, node),
    ):
        with place.server(COUNT, "5300") as output:
            for device in (BRIDGE_INSIDE, UPLINK_INSIDE):
                for source in sources:
                    owner.python(SPOOF, device, gateway, source, address, "5300")
            settle(0.2)
            sender.python(last, address)
            assert [line.split()[0] for line in output] == ["last"], address
    with second.server(COUNT, "5300") as output:
        owner.python(SPOOF, BRIDGE_INSIDE, gateway, owner.address, second.address, "5300")
        assert output.readline().startswith("evil")


ADVERTISE = """
device = sys.argv[1]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((device, 0))
source = socket.inet_pton(10, "fe80::99ff:fe00:5")
target = socket.inet_pton(10, "ff02::1")
ra = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0x08, 1800, 0, 0)
ra += struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0)
ra += socket.inet_pton(10, "2001:db8:bad::") + struct.pack("!BB", 1, 1)
ra += bytes.fromhex("029900000005")
pseudo = source + target + struct.pack("!II", len(ra), 58) + ra
total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
while total >> 16: total = (total >> 16) + (total & 0xffff)
ra = ra[:2] + struct.pack("!H", ~total & 0xffff) + ra[4:]
head = struct.pack("!IHBB", 6 << 28, len(ra), 58, 255) + source + target
frame = bytes.fromhex("333300000001029900000005") + b"\\x86\\xdd" + head + ra
for _ in range(3): s.send(frame); time.sleep(0.1)
"""


def taken(place: Place) -> str:
    """Return what a place has taken of the advertised network."""
    shown = place.run("ip", "-6", "route", "show", check=False).stdout
    return shown + place.run("ip", "-6", "address", "show", check=False).stdout


def test_the_node_and_other_jobs_take_no_routes_from_her_advertisements(
    around: Lan, owner: Place, hers: Place, his: Place
) -> None:
    for device in (BRIDGE_INSIDE, UPLINK_INSIDE):
        owner.python(ADVERTISE, device)
    end_at = time.monotonic() + 30
    while "2001:db8:bad" not in taken(hers):  # her own container takes them: the frame is right
        assert time.monotonic() < end_at
        time.sleep(0.1)
    for place in (around.node, his):
        assert "2001:db8:bad" not in taken(place)


# --- After the job's end ------------------------------------------------------------------------

# Keeps both namespaces of another job of hers, by descriptors or by mounts of her own.
KEEP = """
import socket
directory, how, place = sys.argv[1:]
user, network = (f"/var/lib/oar-lxc/{directory}/namespaces/{kind}" for kind in ("user", "net"))
if how == "descriptors":
    kept = [os.open(user, os.O_RDONLY), os.open(network, os.O_RDONLY)]
else:
    libc.unshare(0x10000000 | 0x20000)
    for number, source in enumerate((user, network)):
        path = f"{place}/{number}"
        open(path, "w").close()
        assert libc.mount(source.encode(), path.encode(), None, 4096, None) == 0
tell(os.getpid())
signal.pause()
"""


def keep(job: PretendJob, how: str, place: str = "") -> list[str]:
    """Return the arguments of the program above; none is a path of the job's."""
    return [f"jobs/{job.id}", how, place]


def test_who_keeps_them_open_in_another_job_ends_with_the_job(
    make_job: Callable[[], PretendJob],
) -> None:
    job, other = make_job(), make_job()
    with attack(other, KEEP, *keep(job, "descriptors")) as (_, pid):
        assert lives(int(pid))
        assert_gone(job)
        assert not lives(int(pid))


def test_namespaces_that_a_mount_of_hers_keeps_are_cut_off(
    make_job: Callable[[], PretendJob],
) -> None:
    """Nothing holds up the destroy, and no way leads from there to the node."""
    job, other = make_job(), make_job()
    place = f"/tmp/oar-lxc-kept-{job.id}"
    assert other.run(["mkdir", place]).status == 0
    with attack(other, KEEP, *keep(job, "mounts", place)) as (_, pid):
        kept = f"/proc/{pid}/root{place}"
        look = ["nsenter", f"--user={kept}/0", f"--net={kept}/1", "--setuid=0", "--setgid=0"]
        look += ["ip", "-br", "link"]
        before = other.run(look)
        assert UPLINK_INSIDE in before.stdout, before.stderr
        assert_gone(job)
        after = other.run(look)
        assert (after.status, UPLINK_INSIDE in after.stdout) == (0, False)
        told = [json.loads(line) for line in LOG.read_text().splitlines()]
        (one,) = [x for x in told if (x["event"], x.get("job")) == ("namespaces kept", job.id)]
        assert one["by"] == [int(pid)]
    assert other.run(["rm", "-r", place]).status == 0


# --- Very much in the namespace -----------------------------------------------------------------

# What its owner can make in a job's network namespace, by the words of ip(8) and bridge(8).
MANY = {
    "routes": ("ip", "route add {0} dev br9"),
    "rules": ("ip", "rule add from {0} table 99"),
    "neighbours": ("ip", "neigh add {0} lladdr 02:99:00:00:00:09 nud permanent dev br9"),
    "entries": ("bridge", "fdb append {1} dev vx9 dst 10.9.9.9"),
}
READY = "link add br9 type bridge\nlink set br9 up\naddress add 10.0.0.1/8 dev br9\n"
READY += "link add vx9 type vxlan id 9 dstport 9999 local 10.0.0.1\n"


def address(number: int) -> str:
    return f"11.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def entry(number: int) -> str:
    return f"02:98:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"


def make(job: PretendJob, program: str, lines: Sequence[str]) -> None:
    """Make things in a job's network namespace, as its owner."""
    text = "\n".join(lines) + "\n"
    become = ["setpriv", "--reuid", job.user, "--regid", job.user, "--init-groups", "--"]
    argv = [*become, *in_network(job), program, "-batch", "-"]
    subprocess.run(argv, input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("what", "number"),
    [("routes", 100_000), ("rules", 5_000), ("neighbours", 100_000), ("entries", 100_000)],
)
def test_very_much_in_the_namespace_holds_up_no_destroy(
    make_job: Callable[[], PretendJob], what: str, number: int
) -> None:
    job = make_job()
    make(job, "ip", READY.splitlines())
    program, line = MANY[what]
    make(job, program, [line.format(address(x), entry(x)) for x in range(number)])
    assert_gone(job)
    # The kernel's work for what is gone holds up no next job either.
    assert make_job().prepare().status == 0


def test_very_many_devices_hold_up_no_destroy(make_job: Callable[[], PretendJob]) -> None:
    """The kernel removes them afterwards, with the lock for network devices held."""
    job = make_job()
    make(job, "ip", [f"link add d{x} type bridge" for x in range(300)])
    assert_gone(job)
    end_at = time.monotonic() + 60
    while "d299" in kernel.read("/proc/net/dev"):
        assert time.monotonic() < end_at


# Raw packets of protocols that no container has connections of.
RAW = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, int(sys.argv[1]))
for _ in range(5): s.sendto(b"evil" * 20, (sys.argv[2], 0))
"""
CATCH = """
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, int(sys.argv[1]))
s.settimeout(2)
print("ready")
try:
    while True:
        d, a = s.recvfrom(2000)
        print("evil" if b"evil" in d else "last")
        if b"last" in d: break
except TimeoutError: pass
"""


@pytest.mark.parametrize("protocol", [47, 50, 89, 112, 253])
def test_raw_packets_do_not_leave_the_node(owner: Place, second: Place, protocol: int) -> None:
    with second.server(CATCH, str(protocol)) as output:
        owner.python(RAW, str(protocol), second.address)
        settle(0.2)
        assert "evil\n" not in list(output)
