"""What is said of facts that no test can bring about on every machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from oar_lxc.doctor import kernel, network, oar, reaper, storage, versions
from oar_lxc.doctor.findings import Finding

GIB = 1 << 30


@pytest.mark.parametrize(
    ("version", "error", "outcome", "told"),
    [
        ("5.0.2", "", "well", "LXC is 5.0.2"),
        ("6.0.4", "", "well", "LXC is 6.0.4"),
        ("4.0.6", "", "problem", "older than 5.0"),
        ("", "Traceback\nModuleNotFoundError: No module named 'lxc'", "problem", "No module"),
    ],
)
def test_lxc(version: str, error: str, outcome: str, told: str) -> None:
    found = versions.judge_lxc(version, error)
    assert (found.outcome.value, told in found.said) == (outcome, True)


@pytest.mark.parametrize(
    ("systemd", "cgroups", "outcome"),
    [
        (252, 1, "well"),
        (257, 1, "well"),
        (258, 1, "problem"),
        (262, 2, "well"),
        (0, 1, "well"),
        (None, 1, "unknown"),
    ],
)
def test_images(systemd: int | None, cgroups: int, outcome: str) -> None:
    assert versions.judge_image("debian-12", systemd, cgroups).outcome.value == outcome


def test_the_version_of_systemd_is_read_from_its_library(tmp_path: Path) -> None:
    assert versions.systemd_of(tmp_path) == 0
    place = tmp_path / "usr/lib/x86_64-linux-gnu/systemd"
    place.mkdir(parents=True)
    (place / "libsystemd-shared-252.so").touch()
    (place / "libsystemd-shared-258.3-1.so").touch()
    assert versions.systemd_of(tmp_path) == 258


@pytest.mark.parametrize(
    ("free", "files", "outcome"),
    [
        (50 * GIB, 0.9, "well"),
        (2 * GIB, 0.9, "warning"),
        (50 * GIB, 0.05, "warning"),
        (GIB // 2, 0.9, "problem"),
        (50 * GIB, 0.001, "problem"),
    ],
)
def test_room_on_a_disk(free: int, files: float, outcome: str) -> None:
    assert storage.judge(Path("/var/log"), "logs", free, files).outcome.value == outcome


@pytest.mark.parametrize(
    ("address", "own", "outcome"),
    [
        ("10.0.0.1", False, "well"),
        ("127.0.1.1", True, "well"),
        ("127.0.1.1", False, "problem"),
        ("", False, "problem"),
    ],
)
def test_names(address: str, own: bool, outcome: str) -> None:
    found = network.judge_name("node1", address, own)
    assert found.outcome.value == outcome
    assert "node1" in found.said


@pytest.mark.parametrize(
    ("full", "small", "outcome"),
    [
        (True, True, "well"),
        (None, True, "problem"),  # lost on the way
        (False, True, "problem"),  # this machine's own device is too narrow
        (None, None, "unknown"),  # ICMP is dropped
    ],
)
def test_packets_of_full_size(full: bool | None, small: bool | None, outcome: str) -> None:
    assert network.judge_packets("node2", full, small).outcome.value == outcome


def test_each_node_sends_packets_to_some_others(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [f"n{number}.site" for number in range(40)]
    monkeypatch.setattr("socket.gethostname", lambda: "n38")
    assert network.next_of(nodes) == ["n39.site", *nodes[: network.NEXT - 1]]
    assert network.next_of(["n38", "n1"]) == ["n1"]
    assert network.next_of(["n38"]) == []


def test_a_packet_to_this_machine_arrives() -> None:
    assert network.arrives("127.0.0.1", network.FULL) is True
    assert network.arrives("127.0.0.1", network.SMALL) is True


DROPS = """\
table ip filter {
\tchain FORWARD {
\t\ttype filter hook forward priority filter; policy drop;
\t}
}
"""


@pytest.mark.parametrize(
    ("ruleset", "outcome"),
    [
        ("", "well"),
        (DROPS.replace("drop", "accept"), "well"),
        (DROPS.replace("forward priority", "input priority"), "well"),
        (DROPS.replace("drop;\n", 'drop;\n\t\tiifname "olb*" accept\n'), "well"),
        (DROPS, "warning"),
        ("table inet oar_lxc {\n}\n" + DROPS, "warning"),
    ],
)
def test_firewalls(ruleset: str, outcome: str) -> None:
    found = network.judge_firewall(ruleset)
    assert found.outcome.value == outcome
    if outcome == "warning":
        assert "nft insert rule ip filter FORWARD iifname" in found.mend


@pytest.mark.parametrize(
    ("text", "outcome"),
    [("nameserver 192.0.2.1\nsearch x\n", "well"), ("# No name server\nsearch x\n", "problem")],
)
def test_name_servers(text: str, outcome: str) -> None:
    assert network.judge_resolver(text).outcome.value == outcome


def unit(**properties: str) -> dict[str, str]:
    usual = {
        "LoadState": "loaded",
        "ActiveState": "inactive",
        "Result": "success",
        "InactiveExitTimestampMonotonic": "9000000000",
        "InactiveEnterTimestampMonotonic": "9001000000",
    }
    return usual | properties


@pytest.mark.parametrize(
    ("shown", "now", "outcome", "told"),
    [
        (unit(), 9100.0, "well", "succeeded"),
        (unit(), 99100.0, "problem", "did not run for"),
        (unit(Result="exit-code"), 9100.0, "problem", "failed (exit-code)"),
        (unit(ActiveState="activating"), 9100.0, "well", "runs"),
        (unit(ActiveState="activating"), 99100.0, "problem", "has run for 1502 minutes"),
        (unit(LoadState="not-found"), 9100.0, "unknown", "no unit"),
        (unit(InactiveEnterTimestampMonotonic="0"), 60.0, "well", "will run"),
        (unit(InactiveEnterTimestampMonotonic="0"), 9100.0, "problem", "did not run for"),
    ],
)
def test_units_of_timers(shown: dict[str, str], now: float, outcome: str, told: str) -> None:
    found = reaper.judge_unit("oar-lxc-reap.service", shown, now)
    assert (found.outcome.value, told in found.said) == (outcome, True), found


def test_limits_of_namespaces() -> None:
    found = list(kernel.judge_limits({"max_user_namespaces": "0", "max_net_namespaces": "9"}))
    assert [one.outcome.value for one in found] == ["problem", "well"]
    assert found[0].mend == "sysctl -w user.max_user_namespaces=10000"


@pytest.mark.parametrize(
    ("rows", "outcomes"),
    [
        ([], ["problem"]),
        ([("node1", "Alive")], ["well"]),
        ([("node1", "Suspected"), ("node2", "Absent")], ["problem", "warning"]),
        ([("-x", "Alive")], ["problem"]),
    ],
)
def test_nodes_of_oar(rows: list[tuple[str, str]], outcomes: list[str]) -> None:
    found = list(oar.judge_nodes([{"node": n, "state": s, "cores": 4} for n, s in rows], "again"))
    assert [one.outcome.value for one in found] == outcomes


def test_jobs_that_are_held_up() -> None:
    row = {"job": 42, "user_name": "alice", "state": "Finishing", "seconds": 60}
    (found,) = oar.judge_jobs([row])
    assert found.outcome.value == "well"
    (found,) = oar.judge_jobs([row | {"seconds": 1200}])
    assert found.said == "job 42 is Finishing for 20 minutes"
    assert found.mend.startswith("oar-lxc-node destroy --job 42 --user alice")


def test_jobs_past_their_walltime() -> None:
    (found,) = oar.judge_walltimes([{"job": 42, "seconds": -60}, {"job": 43, "seconds": 60}])
    assert found.outcome.value == "well"
    (found,) = oar.judge_walltimes([{"job": 42, "seconds": 1200}, {"job": 43, "seconds": 60}])
    assert found.said == "job 42 is Running, 20 minutes after its walltime"
    assert found.mend.startswith("oardel 42 ")


def test_devices_of_the_kernel() -> None:
    assert {one.outcome.value for one in kernel.judge_devices({})} == {"well"}
    found = list(kernel.judge_devices({"vxlan": "Operation not supported", "netem": ""}))
    odd = {one.outcome.value: one for one in found if one.outcome.value != "well"}
    assert odd["problem"].mend == "modprobe vxlan"
    assert odd["warning"].mend == "modprobe sch_netem"


@pytest.mark.parametrize(
    ("why", "outcome"),
    [
        ("", "well"),
        ("unshare: unshare failed: Operation not permitted", "unknown"),
        ("mount: /mnt/l: unknown filesystem type 'overlay'.", "problem"),
    ],
)
def test_overlays(why: str, outcome: str) -> None:
    assert kernel.judge_overlay(why).outcome.value == outcome


@pytest.mark.parametrize(
    ("called", "text", "outcome", "mend"),
    [
        ("/ours", "", "well", ""),
        ("/site", 'x\n/ours "$@"\n', "well", ""),
        ("/site", "x\n", "problem", """echo '/ours "$@"' >>/site"""),
        ("", "", "problem", "again"),
    ],
)
def test_hooks(called: str, text: str, outcome: str, mend: str) -> None:
    found = oar.judge_hook("PROLOGUE_EXEC_FILE", called, text, "/ours", "again")
    assert (found.outcome.value, found.mend) == (outcome, mend)


@pytest.mark.parametrize(
    "judge",
    [
        lambda: versions.judge_lxc("4.0", ""),
        lambda: versions.judge_image("x", 258, 1),
        lambda: storage.judge(Path("/"), "logs", 0, 1.0),
        lambda: network.judge_name("n", "", False),
        lambda: network.judge_packets("n", False, True),
        lambda: network.judge_resolver(""),
    ],
)
def test_what_is_not_well_has_a_meaning_and_a_command(judge: Callable[[], Finding]) -> None:
    found = judge()
    assert found.meaning.endswith(".")
    assert found.mend
    assert "\n" not in found.said + found.meaning + found.mend
