"""The examples of networks on two nodes of a real OAR: who reaches whom, at which rate."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from textwrap import dedent

import pytest

from tests.e2e.cluster import ENDED, Cluster, SubmittedJob
from tests.e2e.probes import Probes, Table, probing

READY = "end the job:"
EXAMPLES = "jobscripts/networks"
# The example of the wide-area link, and what it comes to without its delay.
WIDE_AREA = f"""
from dataclasses import replace
from pathlib import Path
from oar_lxc import OarLxcError, Session, read_spec

spec = read_spec(Path("{EXAMPLES}/wide_area.toml"))
try:
    with Session(spec):
        print("the delay is emulated", flush=True)
except OarLxcError as error:
    print(f"refused: {{error}}", flush=True)
links = tuple(replace(link, delay=None, jitter=None) for link in spec.links)
with Session(replace(spec, links=links)) as session:
    session.link("client", network="paris", rate="40Mbit")
    print("{READY}", flush=True)
    session.wait()
"""


@dataclass
class Running:
    """A job whose containers are up."""

    job: SubmittedJob
    probes: Probes
    prefix: str
    places: dict[str, tuple[str, int]] = field(default_factory=dict)

    def cli(self, *argv: str, check: bool = True) -> str:
        """Run ``oar-lxc`` on the frontend; return what it wrote, but for its progress."""
        result = self.job.cluster.frontend("oar-lxc", *argv, check=check)
        return result.stdout + re.sub(r"^.*: \d+ s\n", "", result.stderr, flags=re.MULTILINE)

    def containers(self) -> dict[str, tuple[str, int]]:
        """Return the node and the first process of each container that runs."""
        listed = json.loads(self.cli("list", str(self.job.id), "--json"))
        return {self.prefix + c["name"]: (c["node"], c["pid"]) for c in listed if c["pid"]}

    def members(self) -> dict[str, dict[str, str]]:
        """Return the address of each container in each network, by ``oar-lxc net``."""
        told = json.loads(self.cli("net", str(self.job.id), "--json"))
        assert all(member["running"] for member in told["members"])
        members: dict[str, dict[str, str]] = {}
        for member in told["members"]:
            members.setdefault(member["container"], {})[member["network"]] = member["address"]
        return members

    def known(self, name: str, *names: str) -> list[str]:
        """Return the addresses to which names lead in a container; ``-`` for none.

        Only by its files: a name server is late where there is no way to it.
        """
        resolve = "getent -s hosts:files ahostsv4 $n | grep -m 1 STREAM || echo -"
        line = f'for n in "$@"; do {resolve}; done'
        told = self.cli("exec", f"{self.job.id}/{name}", "--", "sh", "-c", line, "sh", *names)
        return [answer.split()[0] for answer in told.splitlines()]

    def play(self, scenario: str) -> list[str]:
        """Play a scenario; return what was done."""
        name = f"scenario-{self.job.id}.toml"
        self.job.cluster.frontend("sh", "-c", f"cat > {name} <<'END'\n{dedent(scenario)}END\n")
        told = self.cli("net", "play", str(self.job.id), name)
        return [line.split(" s  ")[1] for line in told.splitlines() if " s  " in line]


@pytest.fixture
def probes(cluster: Cluster) -> Iterator[Probes]:
    """Return probes on both nodes, with a place for the main network of each."""
    with probing(cluster) as probes:
        probes.enter({node: (node, 1) for node in cluster.nodes})
        yield probes


def submit(cluster: Cluster, example: str) -> SubmittedJob:
    """Submit a job for an example of networks."""
    if example == "wide_area":
        cluster.frontend("sh", "-c", f"cat > wide_area.py <<'END'\n{WIDE_AREA}END\n")
        return cluster.submit("python3 wide_area.py", "nodes=2/core=1,walltime=0:9:0")
    return cluster.submit(f"./jobscripts/lxc_job.py --spec {EXAMPLES}/{example}.toml")


@contextmanager
def running(cluster: Cluster, example: str, probes: Probes, prefix: str = "") -> Iterator[Running]:
    """Submit a job, and probe its containers; at the end of the block nothing of it is left."""
    job = submit(cluster, example)
    job.wait_output(READY)
    first_ids = cluster.first_ids(job)
    running = Running(job, probes, prefix)
    running.places = running.containers()
    probes.enter(running.places)
    try:
        yield running
        assert job.state not in ENDED
    finally:
        probes.leave(running.places)
        job.delete()
    job.wait_end()
    cluster.assert_nothing_left(job, first_ids)


def everybody(table: Table, cluster: Cluster) -> Table:
    """Return a table with the nodes, which reach nobody in it."""
    return {**table, **{node: {} for node in cluster.nodes}}


def test_vlans_with_the_same_addresses_do_not_meet(cluster: Cluster, probes: Probes) -> None:
    """Two jobs side by side, and all their VLANs have the same subnet."""
    first, second = "192.168.100.1", "192.168.100.2"
    with (
        running(cluster, "two_vms_two_vlans", probes, "two/") as two,
        running(cluster, "four_vms_two_vlans", probes, "four/") as four,
    ):
        assert two.members() == {"a1": {"vlan10": first}, "b1": {"vlan20": first}}
        assert {node for node, _ in four.places.values()} == {*cluster.nodes}
        a = {first: "four/a1", second: "four/a2"}
        b = {first: "four/b1", second: "four/b2"}
        table = {
            "two/a1": {first: "two/a1"},  # itself
            "two/b1": {first: "two/b1"},
            "four/a1": a,
            "four/a2": a,
            "four/b1": b,
            "four/b2": b,
        }
        table = everybody(table, cluster)
        assert probes.reached(table) == table
        assert probes.heard([*two.places, *four.places]) == {
            "two/a1": "",
            "two/b1": "",
            "four/a1": "four/a2",
            "four/a2": "four/a1",
            "four/b1": "four/b2",
            "four/b2": "four/b1",
        }
        assert four.known("a1", "a2", "a2.vlan10", "b2") == [second, second, "-"]
        assert two.known("a1", "b1") == ["-"]


def test_two_bridges_are_apart_beside_the_main_network(cluster: Cluster, probes: Probes) -> None:
    with running(cluster, "four_vms_two_bridges", probes) as bridges:
        members = bridges.members()
        main = {members[name]["main"]: name for name in ("a1", "a2", "b1", "b2")}
        a = {"10.1.0.1": "a1", "10.1.0.2": "a2", **main}
        b = {"10.2.0.1": "b1", "10.2.0.2": "b2", **main}
        table = {"a1": a, "a2": a, "b1": b, "b2": b}
        # A node reaches its own job's containers by the main network alone.
        table |= dict.fromkeys(cluster.nodes, main)
        assert probes.reached(table) == table
        assert probes.heard(["a1", "a2", "b1", "b2"]) == {
            "a1": "a2",
            "a2": "a1",
            "b1": "b2",
            "b2": "b1",
        }
        # eth0 is the first interface of all, so it is by the main network that they share names.
        a2 = members["a2"]["main"]
        assert bridges.known("a1", "a2", "a2.br1", "a2.main") == [a2, "10.1.0.2", a2]
        assert bridges.known("b1", "a2", "a2.br1") == [a2, "10.1.0.2"]


def test_a_router_joins_two_networks_and_links_change_while_it_runs(
    cluster: Cluster, probes: Probes
) -> None:
    with running(cluster, "router", probes) as router:
        left = {"10.1.0.1": "router1", "10.1.0.2": "p1", "10.1.0.3": "p2"}
        right = {"10.2.0.1": "router1", "10.2.0.2": "q1", "10.2.0.3": "q2"}
        assert router.members() == {
            "router1": {"left": "10.1.0.1", "right": "10.2.0.1"},
            "p1": {"left": "10.1.0.2"},
            "p2": {"left": "10.1.0.3"},
            "q1": {"right": "10.2.0.2"},
            "q2": {"right": "10.2.0.3"},
        }
        places = router.places
        # They are on both nodes, and so is what a router forwards.
        assert {places[name][0] for name in ("p1", "p2")} == {*cluster.nodes}
        assert {places[name][0] for name in ("q1", "q2")} == {*cluster.nodes}
        table = everybody({key: {**left, **right} for key in places}, cluster)
        assert probes.reached(table) == table
        assert probes.heard(places) == {
            "router1": "p1 p2",
            "p1": "p2 router1",
            "p2": "p1 router1",
            "q1": "q2",
            "q2": "q1",
        }
        assert router.known("p1", "p2", "p2.left", "q1", "q1.right", "router1") == [
            *("10.1.0.3", "10.1.0.3"),
            *("-", "10.2.0.2"),
            "10.1.0.1",
        ]
        assert router.known("q1", "router1", "router1.left") == ["10.2.0.1", "10.1.0.1"]
        check_links(router)
        check_scenario(router)


def check_links(router: Running) -> None:
    """Links set while the job runs have their rates, over both nodes, and others stay."""
    job, probes = router.job.id, router.probes
    told = router.cli("net", "set", f"{job}/p", "--to", "router", "--rate", "20Mbit")
    assert told == "left: p to router: 20Mbit\n"
    # Each pair has it for itself, and each of its directions.
    ways = {"p1": "10.2.0.3", "p2": "10.1.0.1", "q2": "10.1.0.2"}
    assert probes.rates(ways, 20e6) == pytest.approx([20e6] * 3, rel=0.15)
    # The pair p1 and p2 has no link, and neither q1 and the router.
    assert min(probes.rates({"p1": "10.1.0.3", "q1": "10.2.0.1"}, 60e6)) > 25e6
    told = router.cli("net", "set", f"{job}/q1", "--network", "right", "--rate", "8Mbit")
    assert told == "right: q1: 8Mbit\n"
    links = json.loads(router.cli("net", str(job), "--json"))["links"]
    assert [(link["from"], link["rate"], link["counts_for"]) for link in links] == [
        ("p", "20Mbit", 2),
        ("q1", "8Mbit", 1),
    ]


def check_scenario(router: Running) -> None:
    """Cables are pulled and a container is stopped, and then all is as before, its link too."""
    probes = router.probes
    probes.leave(["q1"])
    done = router.play(
        """
        [[at]]
        time = "0s"
        unplug = ["p1"]
        network = "left"
        [[at]]
        time = "100ms"
        stop = ["q1"]
        """
    )
    assert done == ["unplug p1 in left", "stop q1"]
    assert "q1" not in router.containers()
    rest = {
        "10.1.0.1": "router1",
        "10.1.0.3": "p2",
        "10.2.0.1": "router1",
        "10.2.0.3": "q2",
    }
    table = {"p2": rest, "q2": rest, "router1": rest, "p1": {"10.1.0.2": "p1"}}
    assert probes.reached(table) == table
    done = router.play(
        """
        [[at]]
        time = "0s"
        plug = ["p1"]
        network = "left"
        [[at]]
        time = "0s"
        start = ["q1"]
        """
    )
    assert done == ["plug p1 in left", "start q1"]
    places = router.containers()
    probes.enter({"q1": places["q1"]})
    addresses = {**rest, "10.1.0.2": "p1", "10.2.0.2": "q1"}
    table = dict.fromkeys(places, addresses)
    assert probes.reached(table) == table
    assert probes.rates({"p1": "10.2.0.2"}, 8e6) == pytest.approx([8e6], rel=0.15)


def test_a_wide_area_link_has_its_rate_and_losses(cluster: Cluster, probes: Probes) -> None:
    with running(cluster, "wide_area", probes) as wide:
        check_delay(wide)
        places = wide.places
        paris = {"10.1.0.1": "paris-gw1", "10.1.0.2": "client1"}
        lyon = {"10.2.0.1": "lyon-gw1", "10.2.0.2": "server1"}
        wan = {"10.9.0.1": "paris-gw1", "10.9.0.2": "lyon-gw1"}
        table = everybody({key: {**paris, **lyon, **wan} for key in places}, cluster)
        assert probes.reached(table) == table
        assert wide.known("client1", "server1", "server1.lyon") == ["-", "10.2.0.2"]
        # What Session.link has made of the cable's 100 Mbit/s, and the link between the routers.
        cable = probes.rates({"client1": "10.1.0.1"}, 40e6)
        assert cable == pytest.approx([40e6], rel=0.15)
        both_ways = probes.rates({"client1": "10.2.0.2", "server1": "10.1.0.2"}, 10e6)
        assert both_ways == pytest.approx([10e6] * 2, rel=0.15)
        told = wide.cli(
            *("net", "set", f"{wide.job.id}/paris-gw", "--to", "lyon-gw"),
            *("--rate", "10Mbit", "--loss", "20%", "--one-way"),
        )
        assert told == "wan: paris-gw to lyon-gw: 10Mbit loss 20%\n"
        # Five standard deviations of 4,000 packets, of which each is lost or not.
        lost = probes.lost("client1", "server1", "10.2.0.2", 4000)
        assert lost == pytest.approx(0.2, abs=5 * (0.2 * 0.8 / 4000) ** 0.5)
        assert probes.lost("client1", "paris-gw1", "10.1.0.1", 1000) == 0


def check_delay(wide: Running) -> None:
    """Where the kernel has no netem, a delay is refused by each way to ask for it."""
    cluster, job = wide.job.cluster, wide.job.id
    trial = "unshare --net tc qdisc add dev lo root netem delay 1ms"
    if cluster.on("node1", "sh", "-c", trial, check=False).status == 0:
        assert "the delay is emulated\n" in wide.job.output()
        return
    sentence = "delay: the kernel of node1 has no netem (modprobe sch_netem)"
    refused = "refused: launch failed, and nothing of it is left:\n"
    assert f"{refused}node node1: link 1: {sentence}\n" in wide.job.output()
    target = (f"{job}/client", "--network", "paris")
    told = wide.cli("net", "set", *target, "--delay", "1ms", check=False)
    assert told == f"oar-lxc: the link: {sentence}\n"
    told = wide.cli("net", "play", str(job), f"{EXAMPLES}/storm.toml", check=False)
    assert told == f"oar-lxc: {EXAMPLES}/storm.toml, at 1: {sentence}\n"
