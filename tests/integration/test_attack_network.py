"""What containers, users of the node and machines around it must not do to networks of jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from oar_lxc.model.layout import JobLayout
from oar_lxc.model.published import READY, REFUSED
from oar_lxc.root.packetfilter import CONNECTIONS, FIRST_PORT
from tests.integration.conftest import published
from tests.integration.lan import NODE, Lan, NetJob, Place, lan, settle, vxlan

# Answer each connection or datagram with the address and port that it comes from.
TELL = """
s = socket.socket(type=int(sys.argv[3]))
s.setsockopt(1, 2, 1)
s.bind((sys.argv[1], int(sys.argv[2])))
if s.type == 1: s.listen(50)
print("ready")
while True:
    if s.type == 1: c, a = s.accept(); c.sendall(b"%s %d" % (a[0].encode(), a[1])); c.close()
    else: d, a = s.recvfrom(2000); s.sendto(b"%s %d" % (a[0].encode(), a[1]), a)
"""
# From a port of one's own, 0 for any: what is answered, or the error.
ASK = """
s = socket.socket(type=int(sys.argv[4]))
s.settimeout(2)
s.setsockopt(1, 2, 1)
try:
    s.bind(("", int(sys.argv[3])))
    s.connect((sys.argv[1], int(sys.argv[2])))
    if s.type == 2: s.send(b"x")
    print(s.recv(100).decode())
except OSError as error: print("no:", error)
"""
TCP, UDP = "1", "2"


@pytest.fixture(scope="module")
def around() -> Iterator[Lan]:
    """Return a node with machines around it."""
    with lan() as made:
        yield made


@pytest.fixture(scope="module")
def server(around: Lan) -> Place:
    """Return a machine that trusts nodes: a file server, or OAR's."""
    return around.machine(2)


@pytest.fixture(scope="module")
def frontend(around: Lan) -> Place:
    """Return a machine where users may run programs."""
    return around.machine(3)


@pytest.fixture(scope="module")
def second(around: Lan) -> Place:
    """Return another node."""
    return around.machine(12)


@pytest.fixture(scope="module")
def alices(around: Lan, user: str) -> NetJob:
    """Return a job of the hostile user."""
    return around.job(user)


@pytest.fixture(scope="module")
def bobs(around: Lan, other_user: str, second: Place) -> NetJob:
    """Return another user's job, on two nodes."""
    return around.job(other_user, second)


@pytest.fixture(scope="module")
def hers(alices: NetJob) -> Iterator[Place]:
    """Return a container of the hostile user."""
    with alices.container() as place:
        yield place


@pytest.fixture(scope="module")
def his(bobs: NetJob) -> Iterator[Place]:
    """Return a container of the other user."""
    with bobs.container() as place:
        yield place


def ask(place: Place, target: str, port: int, kind: str, own: int = 0, user: str = "") -> str:
    return place.python(ASK, target, str(port), str(own), kind, user=user).strip()


def reach(place: Place, target: str, port: int, kind: str, own: int = 0, user: str = "") -> str:
    """Ask until there is an answer: on a busy machine the first tries may be late."""
    for _ in range(5):
        answer = ask(place, target, port, kind, own, user)
        if not answer.startswith("no: timed out"):
            break
    return answer


# --- What leaves a container is never the node's own -------------------------------------------


@pytest.mark.parametrize("kind", [TCP, UDP])
@pytest.mark.parametrize("port", [22, 289, 700, 4789, 6667, 40000])
def test_a_container_keeps_none_of_its_ports(
    server: Place, hers: Place, port: int, kind: str
) -> None:
    """A port below 1024 of a node's address is root of the node to NFS."""
    with server.server(TELL, server.address, "2049", kind):
        address, seen = reach(hers, server.address, 2049, kind, port).split()
    assert address == NODE
    assert int(seen) >= FIRST_PORT


SNIFF = """
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("eth0", 0))
print("ready")
while True:
    f = s.recv(2000)
    if f[12:14] == b"\\x08\\x00":
        t = f[14 + (f[14] & 15) * 4:]
        print(socket.inet_ntoa(f[26:30]), f[23], int.from_bytes(t[:2], "big"), t[-4:].hex())
        if t[-4:] == b"last": break
"""
# As root inside: packets of a protocol, then one that ends the watch.
RAW = """
to, protocol, data = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
for _ in range(3): s.sendto(data, (to, 0))
time.sleep(0.3)
socket.socket(type=2).sendto(b"last", (to, 9))
"""
TCP_ACK = "02bc0801000000010000000150100400" + "0000" * 2  # from 700 to 2049, of no connection
SCTP_INIT = "02bc0801" + "00000000" + "00000000" + "01000014" + "0000000100001000000a000a00000001"
PROTOCOLS = [
    (47, "00000800" + "00" * 20),  # GRE
    (4, "4500001400000000400100000a0000010a000002"),  # IP in IP
    (89, "0201002c" + "00" * 40),  # OSPF
    (6, TCP_ACK),
    (1, "0501000000000000" + "00" * 28),  # a redirect
    (132, SCTP_INIT),
]


@pytest.mark.parametrize(("protocol", "data"), PROTOCOLS)
def test_what_is_no_connection_of_a_container_does_not_leave_the_node(
    server: Place, hers: Place, protocol: int, data: str
) -> None:
    """Neither with the node's address, without a port to tell it by, nor with its own."""
    with server.server(SNIFF) as output:
        hers.python(RAW, server.address, str(protocol), data)
        seen = [line.split() for line in output]
    assert seen.pop()[3] == b"last".hex()
    ports = [int(port) for address, kind, port, _ in seen if kind == str(protocol)]
    assert all(port >= FIRST_PORT for port in ports)
    assert ports == [] or protocol == 132
    assert {address for address, *_ in seen} <= {NODE}


SPOOF = """
src, to, port, own = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
data = bytes.fromhex(sys.argv[5])
udp = struct.pack("!HHHH", own, port, 8 + len(data), 0) + data
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0,
    socket.inet_aton(src), socket.inet_aton(to))
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)
for _ in range(3): s.sendto(ip + udp, (to, 0))
"""
COUNT = """
s = socket.socket(type=2)
s.bind(("", int(sys.argv[1])))
print("ready")
while True:
    d, a = s.recvfrom(2000)
    print(a[0], d.decode(errors="replace"))
    if d == b"last": break
"""


def test_a_container_cannot_forge_a_machines_answer_to_the_node(
    around: Lan, server: Place, hers: Place
) -> None:
    """As a name server's, which needs no connection to be believed."""
    with around.node.server(COUNT, "5353") as output:
        for to in (NODE, ip_of_gateway(hers)):
            hers.python(SPOOF, server.address, to, "5353", "53", b"forged".hex())
        settle(0.2)
        server.python('socket.socket(type=2).sendto(b"last", (sys.argv[1], 5353))', NODE)
        assert list(output) == [f"{server.address} last\n"]


ANY_UDP = """
s = socket.socket(type=2)
s.bind((sys.argv[1], 40001))
s.connect((sys.argv[2], 2049))
print("ready")
time.sleep(60)
"""
# An answer to the datagram that the program above could have sent: "too long, at most 600 bytes".
TOO_LONG = """
node, server = sys.argv[1:]
ends = socket.inet_aton(node) + socket.inet_aton(server)
quoted = struct.pack("!BBHHHBBH", 0x45, 0, 1500, 1, 0x4000, 64, 17, 0) + ends
quoted += struct.pack("!4H", 40001, 2049, 1480, 0)
def message(checksum): return struct.pack("!BBHHH", 3, 4, checksum, 0, 600) + quoted
total = sum(struct.unpack("!18H", message(0)))
total = (total >> 16) + (total & 0xffff)
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
s.sendto(message(~(total + (total >> 16)) & 0xffff), (node, 0))
"""


def test_a_container_does_not_tell_the_node_what_its_paths_carry(
    around: Lan, server: Place, hers: Place, user: str
) -> None:
    """All programs of the node would send short packets there, as to the file server."""
    with around.node.server(ANY_UDP, NODE, server.address, user=user):
        hers.python(TOO_LONG, NODE, server.address)
        settle()
        assert "mtu" not in around.node.run("ip", "route", "get", server.address).stdout
    with hers.server(TELL, hers.address, "7", UDP):  # a message that is true comes
        assert "refused" in reach(around.node, hers.address, 8, UDP)


def ip_of_gateway(place: Place) -> str:
    """Return the gateway of a container."""
    return place.run("ip", "route", "show", "default").stdout.split()[2]


HALF_OPEN = """
s = socket.socket(type=2)
s.bind(("", int(sys.argv[2])))
for port in range(40000, 40200): s.sendto(b"", (sys.argv[1], port))
s.settimeout(2)
print("ready")
while True:
    try: print("stolen", s.recvfrom(100)[0])
    except TimeoutError: break
"""


@pytest.mark.parametrize("port", [289, 4789, 6667])
def test_a_container_cannot_take_over_a_port_of_the_node(
    around: Lan, server: Place, hers: Place, port: int
) -> None:
    """What a machine sends to the node comes to the node, whatever a container sent before."""
    with (
        around.node.server(TELL, NODE, str(port), UDP),
        hers.server(HALF_OPEN, server.address, str(port)) as output,
    ):
        for own in (40000, 40100, 40199):
            if port != 289:  # for which only other nodes of a job are let in
                assert reach(server, NODE, port, UDP, own) == f"{server.address} {own}"
            else:
                ask(server, NODE, port, UDP, own)
        assert list(output) == []


# --- The node takes no routes from containers --------------------------------------------------

ADVERTISE = """
mac = bytes.fromhex(sys.argv[1])
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
index = socket.if_nametoindex("eth0")
s.setsockopt(41, 18, 255)
s.setsockopt(41, 17, index)
ra = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0x08, 1800, 0, 0)
ra += struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0)
ra += socket.inet_pton(10, "2001:db8:bad::") + struct.pack("!BB", 1, 1) + mac
for _ in range(3): s.sendto(ra, ("ff02::1", 0, 0, index)); time.sleep(0.1)
"""


def wait_link_local(place: Place) -> str:
    """Return the link-local address of a container once it may be used."""
    script = """
import subprocess, json
for _ in range(100):
    out = subprocess.run(["ip", "-6", "-json", "address", "show", "dev", "eth0"],
        capture_output=True, check=True).stdout
    found = [a for i in json.loads(out) for a in i["addr_info"] if not a.get("tentative")]
    if found: print(found[0]["local"]); break
    time.sleep(0.1)
"""
    return place.python(script).strip()


def routes_of(node: Place, bridge: str) -> list[str]:
    """Return IPv6 routes and addresses that a node has of a bridge, link-local ones not."""
    shown = node.run("ip", "-6", "route", "show", "dev", bridge, check=False).stdout
    shown += node.run("ip", "-6", "-br", "address", "show", "scope", "global").stdout
    return [line for line in shown.splitlines() if "fe80::/64" not in line and "ff00" not in line]


@pytest.mark.parametrize("wall", ["device", "filter"])
def test_the_node_takes_no_routes_from_a_containers_advertisements(
    around: Lan, user: str, wall: str
) -> None:
    """By two walls, each of which is enough: the bridge has no IPv6, and it is dropped."""
    job = around.job(user)
    conf = f"/proc/sys/net/ipv6/conf/{job.layout.bridge}"
    with job.container() as container:
        assert around.node.run("cat", f"{conf}/disable_ipv6").stdout == "1\n"
        try:
            if wall == "filter":  # as the bridge of a job from before
                around.node.run("sh", "-c", f"echo 0 > {conf}/disable_ipv6")
            else:
                around.node.run("nft", "flush", "chain", "inet", "oar_lxc", "input")
            assert wait_link_local(container).startswith("fe80::")
            mac = container.run("ip", "-br", "link", "show", "eth0").stdout.split()[2]
            container.python(ADVERTISE, mac.replace(":", ""))
            settle()
            assert routes_of(around.node, job.layout.bridge) == []
        finally:
            around.command("filter")
    job.end()


def test_containers_of_a_job_speak_ipv6_with_each_other(alices: NetJob, hers: Place) -> None:
    with alices.container(1) as other:
        target, own = wait_link_local(other), wait_link_local(hers)
        assert target != own
        serve = "s = socket.socket(10, 2); s.bind(('::', 7777)); print('ready')\n"
        serve += "while True: d, a = s.recvfrom(9); s.sendto(b'reached', a)"
        with other.server(serve):
            script = "s = socket.socket(10, 2); s.settimeout(5)\n"
            script += "s.sendto(b'x', (sys.argv[1], 7777, 0, socket.if_nametoindex('eth0')))\n"
            script += "print(s.recv(9).decode())"
            assert hers.python(script, target) == "reached\n"


# --- A job's network is the job's --------------------------------------------------------------

# A VXLAN in plain UDP: who has TARGET? Writes what is answered.
JOIN = """
node, port, vni, target, me = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:6]
s = socket.socket(type=2)
try: s.bind(("", port))
except PermissionError: s.bind(("", 0))
s.settimeout(1.5)
ip, mac = socket.inet_aton, bytes.fromhex("02badbadbad1")
arp = b"\\xff" * 6 + mac + b"\\x08\\x06" + struct.pack("!HHBBH", 1, 0x800, 6, 4, 1)
arp += mac + ip(me) + bytes(6) + ip(target)
try:
    for _ in range(3): s.sendto(struct.pack("!II", 0x08000000, vni << 8) + arp, (node, port))
    print("answered", s.recv(2000)[8 + 12:8 + 14].hex())
except OSError as error: print("no:", error)
"""


def join(place: Place, job: NetJob, target: str, user: str = "") -> str:
    """Try to be in a job's network by plain UDP; return what was answered."""
    me = str(job.network.container_address(99).ip)
    vni = str(job.network.vni)
    more = (vni, target, me)
    return "".join(place.python(JOIN, NODE, port, *more, user=user) for port in ("289", "4789"))


def test_only_the_jobs_nodes_are_in_its_network(
    around: Lan, frontend: Place, second: Place, bobs: NetJob, his: Place, user: str
) -> None:
    """Whether with a user's rights or, as on another node that is not the job's, with root's."""
    third = around.machine(13)
    before = around.node.run("bridge", "fdb", "show", "dev", bobs.layout.vxlan).stdout
    for place, who in ((frontend, user), (frontend, ""), (third, ""), (around.node, user)):
        assert "answered" not in join(place, bobs, his.address, who)
    after = around.node.run("bridge", "fdb", "show", "dev", bobs.layout.vxlan).stdout
    assert "02:ba:db:ad:ba:d1" not in after
    assert before == after
    own = vxlan(second, bobs, 50)
    with his.server(TELL, "", "7777", TCP):
        assert reach(second, his.address, 7777, TCP).startswith(own)


def test_a_container_is_in_no_other_jobs_network(
    hers: Place, second: Place, bobs: NetJob, his: Place, around: Lan
) -> None:
    """By packets that say that they come from another node of the job."""
    vni = struct_vni(bobs)
    arp = "ffffffffffff02badbadbad208060001080006040001" + "02badbadbad2"
    arp += bobs.network.container_address(98).ip.packed.hex() + "00" * 6
    arp += bobs.network.container_address(0).ip.packed.hex()
    for to in (NODE, ip_of_gateway(hers)):
        hers.python(SPOOF, second.address, to, "289", "50000", vni + arp)
        hers.python(SPOOF, hers.address, to, "289", "50000", vni + arp)
    settle()
    assert "02:ba:db:ad:ba:d2" not in around.node.run("bridge", "fdb", "show").stdout


def struct_vni(job: NetJob) -> str:
    """Return a VXLAN header of a job, in hexadecimal digits."""
    return f"08000000{job.network.vni << 8:08x}"


def test_a_user_cannot_hold_the_port_of_the_networks(around: Lan, user: str) -> None:
    held = "s = socket.socket(type=2)\ntry: s.bind(('', int(sys.argv[1])))\n"
    held += "except PermissionError: print('no')"
    assert around.node.python(held, "289", user=user) == "no\n"
    with around.node.server(COUNT, "4789", user=user):
        job = around.job(user, around.machine(14))
        assert published(job.pretend).state == READY
        job.end()


def test_a_port_that_is_held_refuses_the_job_and_not_the_node(around: Lan, user: str) -> None:
    """Prepare succeeds, or OAR would take the node out of service; and nothing is left."""
    peer = around.machine(15)
    with lan() as elsewhere, elsewhere.node.server(COUNT, "289"):
        job = elsewhere.job(user, peer)
        told = published(job.pretend)
        assert told.state == REFUSED
        assert "UDP port 289" in told.reason
        assert "ss -ulpn" in told.reason
        devices = elsewhere.node.run("ip", "-br", "link").stdout
        assert job.layout.bridge not in devices
        assert job.layout.vxlan not in devices
        assert job.rules() == []
        job.end()


# --- Connections of the node are not to be filled up -------------------------------------------

FILL = """
target, rounds = sys.argv[1], int(sys.argv[2])
one = [socket.socket(type=2) for _ in range(60)]
for s in one: s.bind(("", 0)); s.setblocking(False)
for _ in range(rounds):
    for s in one:
        for port in range(20000, 20050):
            try: s.sendto(b"x", (target, port))
            except OSError: pass
"""


def tracked(node: Place) -> int:
    """Return how many connections a node has in its table."""
    return int(node.run("cat", "/proc/sys/net/netfilter/nf_conntrack_count").stdout)


@pytest.mark.parametrize("target", ["127.0.0.1", "10.231.7.2", NODE])
def test_programs_of_the_node_do_not_fill_its_table_of_connections(
    around: Lan, server: Place, alices: NetJob, user: str, target: str
) -> None:
    """There, 3,000 datagrams were 3,000 connections."""
    before = tracked(around.node)
    around.node.python(FILL, target, "1", user=user)
    assert tracked(around.node) < before + 200


def test_a_node_that_tracks_connections_itself_goes_on_with_it(around: Lan, server: Place) -> None:
    """With its own filter, answers that are not of a connection would not come in."""
    site = "table inet site {\nchain input {\ntype filter hook input priority 1; policy drop;\n"
    site += 'iifname "lo" accept\nct state established accept\ntcp dport 6667 accept\n}\n}\n'
    try:
        around.node.run("nft", "-f", "-", input=site)
        around.command("filter")
        with server.server(TELL, server.address, "80", TCP):
            assert reach(around.node, server.address, 80, TCP).startswith(NODE)
    finally:
        around.node.run("nft", "delete", "table", "inet", "site")
        around.command("filter")


MANY = """
sockets = [socket.socket(type=2) for _ in range(200)]
for s in sockets: s.bind(("", 0))
for port in range(1, 41):
    for s in sockets:
        try: s.sendto(b"x", (sys.argv[1], port))
        except OSError: pass
"""


def test_a_job_has_its_part_of_the_connections(
    around: Lan, server: Place, user: str, his: Place
) -> None:
    """Others' containers still reach the world; the job's end takes its part back."""
    job = around.job(user)
    with job.container() as container:
        before = tracked(around.node)
        container.python(MANY, server.address)
        assert tracked(around.node) <= before + CONNECTIONS + 100
        with server.server(TELL, server.address, "80", TCP):
            assert ask(container, server.address, 80, TCP).startswith("no:")
            assert reach(his, server.address, 80, TCP).startswith(NODE)
    assert f'"{job.layout.bridge}"' in job.rules()
    job.end()
    assert job.rules() == []


@pytest.mark.parametrize("way", ["to a container", "to ports of containers"])
def test_nobody_fills_the_nodes_table_of_connections_for_containers(
    around: Lan, frontend: Place, user: str, hers: Place, way: str
) -> None:
    """Of 12,000 datagrams from the node, or from beside it, each was a connection."""
    before = tracked(around.node)
    place, target, ports = (
        (around.node, hers.address, "range(20000, 20200)")
        if way == "to a container"
        else (frontend, NODE, f"range({FIRST_PORT}, {FIRST_PORT + 200})")
    )
    place.python(FILL.replace("range(20000, 20050)", ports), target, "1", user=user)
    assert tracked(around.node) < before + CONNECTIONS + 200


# Datagrams from one port after the other, each of which takes a port of the node.
FROM_EACH_PORT = """
for port in range(20000, 23500):
    with socket.socket(type=2) as s:
        s.bind(("", port))
        s.sendto(b"x", (sys.argv[1], int(sys.argv[2])))
"""


def test_nobody_takes_all_ports_that_lead_to_a_machine(
    around: Lan, server: Place, user: str, his: Place
) -> None:
    """Two jobs could have more connections than the node has ports; the others had none."""
    with ExitStack() as stack:
        for job in (around.job(user), around.job(user)):
            container = stack.enter_context(job.container())
            container.python(FROM_EACH_PORT, server.address, "5000")
        stack.enter_context(server.server(TELL, server.address, "5000", UDP))
        assert [ask(his, server.address, 5000, UDP)[: len(NODE)] for _ in range(3)] == [NODE] * 3


# Connections that nobody closes: the container is off the network before it could.
LEAVE_OPEN = """
import os
kept = []
for _ in range(300):
    kept.append(s := socket.socket())
    s.connect((sys.argv[1], int(sys.argv[2])))
os.system("ip link set eth0 down")
print(len(kept))
"""
KEEP = """
s = socket.socket(); s.setsockopt(1, 2, 1); s.bind((sys.argv[1], int(sys.argv[2]))); s.listen(500)
print("ready")
kept = []
while True: kept.append(s.accept())
"""


def test_a_jobs_connections_end_with_it(around: Lan, server: Place, user: str) -> None:
    """The kernel would keep them for five days, with their ports, for who has the addresses."""

    def kept() -> int:
        lines = around.node.run("cat", "/proc/net/nf_conntrack").stdout.splitlines()
        return sum(f"dst={server.address} " in line and "dport=81 " in line for line in lines)

    job = around.job(user)
    with server.server(KEEP, server.address, "81"), job.container() as container:
        assert container.python(LEAVE_OPEN, server.address, "81").strip() == "300"
        assert kept() == 300
        job.end()
        assert kept() == 0


# --- Who reaches containers --------------------------------------------------------------------


def test_containers_are_reached_by_their_user_and_root_alone(
    around: Lan, frontend: Place, his: Place, user: str, other_user: str
) -> None:
    route = ["100.64.0.0/10", "via", NODE]
    frontend.run("ip", "route", "add", *route)
    try:
        for kind in (TCP, UDP):
            with his.server(TELL, "", "7777", kind):
                assert not reach(around.node, his.address, 7777, kind).startswith("no:")
                assert not reach(around.node, his.address, 7777, kind, user=other_user).startswith(
                    "no:"
                )
                for place, who in ((around.node, user), (around.node, "daemon"), (frontend, "")):
                    assert ask(place, his.address, 7777, kind, user=who).startswith("no:"), who
    finally:
        frontend.run("ip", "route", "del", *route)


def test_another_user_cannot_be_a_containers_gateway(
    around: Lan, bobs: NetJob, his: Place, user: str, other_user: str
) -> None:
    """To its own address the node's programs answer: root's, the system's, the job's user's."""
    for kind in (TCP, UDP):
        for who, reached in ((user, False), (other_user, True), ("", True), ("daemon", True)):
            with around.node.server(TELL, bobs.gateway, "5353", kind, user=who):
                found = (reach if reached else ask)(his, bobs.gateway, 5353, kind)
                assert found.startswith("no:") is not reached, who


def test_containers_reach_what_anybody_serves_at_the_nodes_own_address(
    around: Lan, his: Place, user: str
) -> None:
    with around.node.server(TELL, NODE, "8080", TCP, user=user):
        assert reach(his, NODE, 8080, TCP).startswith(his.address)


def test_containers_of_two_jobs_do_not_reach_each_other(hers: Place, his: Place) -> None:
    for kind in (TCP, UDP):
        with his.server(TELL, "", "7777", kind):
            assert ask(hers, his.address, 7777, kind).startswith("no:")


# --- The filter is there whatever becomes of it ------------------------------------------------


def test_the_filter_of_running_jobs_comes_back_when_it_is_loaded_again(
    around: Lan, second: Place, bobs: NetJob, his: Place, other_user: str, user: str
) -> None:
    """The node's own filter, loaded anew, flushes everything."""
    before = set(bobs.rules())
    assert len(before) == 2
    around.node.run("nft", "flush", "ruleset")
    assert bobs.rules() == []
    around.command("filter")
    assert set(bobs.rules()) == before
    with his.server(TELL, "", "7777", TCP):
        assert not reach(around.node, his.address, 7777, TCP, user=other_user).startswith("no:")
        assert ask(around.node, his.address, 7777, TCP, user=user).startswith("no:")


def test_loading_again_keeps_what_jobs_have_and_no_more(around: Lan, bobs: NetJob) -> None:
    before = sorted(bobs.rules())
    element = 'add element inet oar_lxc owners { "olb2147483000" . 1 }'
    around.node.run("nft", element)
    around.command("filter")
    assert sorted(bobs.rules()) == before
    assert "olb2147483000" not in around.node.run("nft", "list", "ruleset").stdout


def test_a_job_is_prepared_where_somebody_has_flushed_the_rules(around: Lan, user: str) -> None:
    around.node.run("nft", "flush", "ruleset")
    job = around.job(user)
    assert len(job.rules()) == 1
    table = around.node.run("nft", "list", "table", "inet", "oar_lxc_ports").stdout
    assert "masquerade" in table
    job.end()
    assert job.rules() == []


def test_a_job_is_destroyed_where_there_are_no_rules(around: Lan, user: str) -> None:
    job = around.job(user)
    around.node.run("nft", "flush", "ruleset")
    try:
        job.end()
        assert not job.layout.directory.exists()
    finally:
        around.command("filter")


def test_the_reaper_finds_what_the_filter_alone_still_has(around: Lan) -> None:
    layout = JobLayout(2147483001)
    vni = (layout.job_id & 0xFFFFFF) << 8
    for line in (f'owners {{ "{layout.bridge}" . 1 }}', f"peers {{ 10.0.0.1 . {vni} }}"):
        around.node.run("nft", f"add element inet oar_lxc {line}")
    job = ["--job", str(layout.job_id), "--user", "nobody"]
    assert "2 rules" in around.command("leftovers", *job, check=False).stdout
    done = around.command("reap", "--ended", str(layout.job_id), "--grace", "0", check=False)
    assert f"destroyed: job {layout.job_id}" in done.stdout
    assert "nothing" in around.command("leftovers", *job).stdout
