"""Networks and links of containers of real jobs, on real LXC."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.linux.run import run
from oar_lxc.model.layout import JobLayout
from tests import kernel
from tests.integration.conftest import left, left_of_containers, next_id, published
from tests.integration.jobs import Running, close, start_script, write_spec
from tests.pretend import PretendJob, checkout, pretend_job
from tests.unit.fakes.programs import wait_until

SPEC = """
wait = "boot"
[[network]]
name = "left"
ipv6 = true
[[network]]
name = "right"
[[group]]
name = "p"
total = 2
networks = ["left"]
main = false
[[group]]
name = "q"
total = 1
networks = ["right"]
main = false
[[group]]
name = "router"
total = 1
networks = ["left:10.1.0.1", "right:10.2.0.1"]
forward = true
[[link]]
network = "left"
from = "p1"
to = "p2"
loss = "100%"
[main]
internet = false
"""


@pytest.fixture(scope="module")
def running(user: str) -> Iterator[Running]:
    """Return a job with two networks and a router between them."""
    with pretend_job(next_id(), user) as job:
        first_id = published(job).first_id
        running = start_script(job, "--spec", write_spec(job, SPEC))
        try:
            yield running
        finally:
            running.process.terminate()
            running.process.wait(30)
            close(running.process)
        assert [name for name in left_of_containers(job) if not re.match("[nx][0-9]$", name)] == []
    assert left(job, first_id) == {}


def reaches(running: Running, name: str, target: str) -> bool:
    """Whether a ping is answered at last.

    A kernel that has asked in vain who has an address says for a while that it is not reached.
    """
    return wait_until(lambda: answers(running, name, target), 30)


def answers(running: Running, name: str, target: str) -> bool:
    """Whether a single ping is answered within a second."""
    line = f"ping -n -c 1 -W 1 {target} >/dev/null 2>&1 && echo yes || echo no"
    return running.inside(name, line) == "yes"


def test_names_lead_by_the_networks_that_are_shared(running: Running) -> None:
    hosts = running.inside("router1", "cat /etc/hosts")
    assert re.search(r"^10\.1\.0\.2 p1 p1.left ", hosts, re.MULTILINE)
    assert re.search(r"^10\.2\.0\.2 q1 q1.right ", hosts, re.MULTILINE)
    hosts = running.inside("q1", "cat /etc/hosts")
    assert re.search(r"^10\.2\.0\.1 router1 router1.right ", hosts, re.MULTILINE)


def test_a_container_has_the_interfaces_of_its_networks_alone(running: Running) -> None:
    assert running.inside("p1", "ls /sys/class/net").split() == ["eth1", "lo"]
    assert running.inside("router1", "ls /sys/class/net").split() == ["eth0", "eth1", "eth2", "lo"]
    assert "10.1.0.1" in running.inside("p1", "ip route show default")
    assert "fd" in running.inside("p1", "ip -6 -o addr show dev eth1 scope global")


def test_a_router_in_a_user_namespace_forwards(running: Running) -> None:
    assert running.inside("router1", "cat /proc/sys/net/ipv4/ip_forward") == "1"
    assert running.inside("p1", "cat /proc/sys/net/ipv4/ip_forward") == "0"
    assert reaches(running, "p2", "10.2.0.2")
    assert reaches(running, "q1", "10.1.0.2")


def test_all_units_are_up_without_eth0(running: Running) -> None:
    assert running.inside("p1", "systemctl --failed --no-legend --plain") == ""
    assert running.inside("router1", "systemctl --failed --no-legend --plain") == ""


def test_links_are_there_from_the_start_and_change_while_it_runs(running: Running) -> None:
    assert not answers(running, "p1", "p2")
    assert reaches(running, "p1", "router1")
    assert running.cli("net", "set", "p1", "--to", "p2").stdout == "left: p1 to p2: as it is\n"
    assert reaches(running, "p1", "p2")
    done = running.cli("net", "set", "p1", "--network", "left", "--rate", "8Mbit")
    assert done.stdout == "left: p1: 8Mbit\n"
    assert reaches(running, "p1", "router1")
    # A new start sets all up again.
    assert running.cli("restart", "p1").status == 0
    shown = in_network(running.job, "tc", "qdisc", "show")
    assert len(re.findall("qdisc htb", shown)) == 2
    assert running.cli("net", "set", "p1", "--network", "left").status == 0
    assert "htb" not in in_network(running.job, "tc", "qdisc", "show")


def test_links_are_there_after_a_reboot_from_inside(running: Running) -> None:
    assert running.cli("net", "set", "p2", "--network", "left", "--rate", "8Mbit").status == 0
    before = running.containers()["p2"]["pid"]
    running.cli("exec", "p2", "--", "systemctl", "reboot", "--force")
    assert wait_until(lambda: running.containers()["p2"]["pid"] not in (0, before), 20)
    assert reaches(running, "p1", "10.1.0.3")
    assert len(re.findall("qdisc htb", in_network(running.job, "tc", "qdisc", "show"))) == 2
    assert running.cli("net", "set", "p2", "--network", "left").status == 0


def in_network(job: PretendJob, *argv: str) -> str:
    """Run a program as root in the job's network namespace."""
    namespace = JobLayout(job.id).network_namespace
    return run(["nsenter", f"--net={namespace}", *argv]).stdout


def test_what_cannot_be_is_told_and_changes_nothing(running: Running) -> None:
    before = running.cli("net", "--json").stdout
    for arguments, sentence in (
        (("p9",), "there is no network with p9: see the names in `oar-lxc net`"),
        (("p1", "--to", "q1"), "there is no network with p1 and q1: see the names in"),
        (("p1", "--rate", "10"), "rate is '10'; it is a number of bits a second"),
        (("p1", "--network", "right"), "the link: network is right, and p1 is not in it"),
    ):
        done = running.cli("net", "set", *arguments)
        assert done.status == 2, done
        assert sentence in done.stderr
    assert running.cli("net", "--json").stdout == before


def test_delay_is_refused_where_the_kernel_has_no_netem(running: Running) -> None:
    argv = ("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
    trial = run(["unshare", "--net", *argv], check=False)
    done = running.cli("net", "set", "p1", "--delay", "10ms")
    if trial.status == 0:
        assert done.status == 0
        assert running.cli("net", "set", "p1").status == 0
    else:
        node = published(running.job).node
        assert done.stderr == (
            f"oar-lxc: the link: delay: the kernel of {node} has no netem (modprobe sch_netem)\n"
        )


def test_there_is_no_ssh_to_a_container_without_eth0(running: Running) -> None:
    done = running.cli("ssh", "p1", "true")
    assert "it has no eth0 (main is false), so no ssh: use oar-lxc exec, shell" in done.stderr
    assert done.status != 0
    assert running.containers()["p1"]["address"] == ""
    assert running.cli("exec", "p1", "true").status == 0


def test_networks_are_shown(running: Running) -> None:
    shown = [line.split() for line in running.cli("net").stdout.splitlines()]
    node = published(running.job).node
    assert ["left", "10.1.0.0/16", "3", node] in [[*r[:2], *r[3:]] for r in shown if len(r) == 5]
    assert ["q1", node, "eth1", "right", "10.2.0.2", "10.2.0.1", "RUNNING"] in shown
    told = json.loads(running.cli("net", "--json").stdout)
    assert [network["name"] for network in told["networks"]] == ["left", "right"]
    assert {member["container"] for member in told["members"]} == {"p1", "p2", "q1", "router1"}


def test_a_scenario_is_played_with_cables_links_and_containers(running: Running) -> None:
    path = write_spec(
        running.job,
        """
        [[at]]
        time = "0s"
        unplug = "p1"
        network = "left"
        [[at]]
        time = "100ms"
        stop = ["q"]
        [[at]]
        time = "200ms"
        network = "left"
        from = "p2"
        to = "router"
        loss = "100%"
        """,
    )
    done = running.cli("net", "play", str(running.job.id), path)
    assert done.status == 0, done.stderr
    lines = [line.split(" s  ")[1] for line in done.stdout.splitlines()]
    assert lines == ["unplug p1 in left", "stop q", "left: p2 to router: loss 100%"]
    assert not answers(running, "p1", "10.1.0.1")
    assert not answers(running, "p2", "10.1.0.1")
    assert running.containers()["q1"]["state"] == "STOPPED"
    write_spec(
        running.job,
        """
        [[at]]
        time = "0s"
        plug = "p1"
        network = "left"
        [[at]]
        time = "0s"
        start = ["q"]
        [[at]]
        time = "0s"
        network = "left"
        from = "p2"
        to = "router"
        """,
    )
    done = running.cli("net", "play", str(running.job.id), path)
    assert done.status == 0, done.stderr
    # The kernel takes up to a second to notice a cable.
    assert reaches(running, "p1", "10.1.0.1")
    assert reaches(running, "p2", "10.2.0.2")


def test_who_has_no_internet_reaches_the_node_and_no_further(running: Running) -> None:
    gateway = published(running.job).gateway.partition("/")[0]
    assert reaches(running, "router1", gateway)
    rules = in_network(running.job, "nft", "list", "table", "bridge", "oar_lxc_links")
    assert re.search(r'iifname "v0-[0-9a-f]{8}" ip daddr != .* drop', rules)


def test_the_job_has_devices_for_nothing_else(running: Running) -> None:
    inside = {*kernel.links_inside(running.job.id)}
    others = {name for name in inside if not re.match("v[0-9]-[0-9a-f]{8}$", name)}
    assert others == {"lo", "up0", "br0", "n1", "n2"}


def test_the_wide_area_example_joins_its_two_sites(user: str) -> None:
    """Without its delay, which not each kernel has."""
    example = checkout() / "jobscripts/networks/wide_area.toml"
    text = re.sub(r"(?m)^(delay|jitter) = .*\n", "", example.read_text())
    with pretend_job(next_id(), user) as job:
        for name in ("paris.sh", "lyon.sh"):
            script = Path(write_spec(job, "")).with_name(name)
            script.write_text(example.with_name(name).read_text())
        running = start_script(job, "--spec", write_spec(job, text))
        try:
            assert reaches(running, "client1", "server1.lyon")
            assert reaches(running, "server1", "client1.paris")
            # The way leads over both routers.
            line = "ping -n -c 1 -t 2 -W 1 server1.lyon | grep -o 'From [0-9.]*' || :"
            assert wait_until(lambda: running.inside("client1", line) == "From 10.9.0.2")
        finally:
            running.process.terminate()
            running.process.wait(30)
            close(running.process)
