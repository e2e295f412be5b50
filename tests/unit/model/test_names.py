"""The names of containers, as containers of other networks see them."""

from __future__ import annotations

from oar_lxc.model.names import Peer, hosts_text, known_peers

PEERS = {
    "vm1": Peer("100.64.0.2", "k1"),
    "p1": Peer("", "k2", {"left": ("10.1.0.1", "fd00::1")}),
    "r1": Peer("100.64.0.4", "k3", {"left": ("10.1.0.9",), "right": ("10.1.0.9",)}),
}


def test_a_name_leads_by_the_first_network_that_both_share() -> None:
    assert hosts_text(PEERS, ("left", "right")).splitlines() == [
        "10.1.0.1 p1 p1.left # oar-lxc",
        "fd00::1 p1 p1.left # oar-lxc",
        "10.1.0.9 r1 r1.left # oar-lxc",
        "100.64.0.4 r1.main # oar-lxc",
        "10.1.0.9 r1.right # oar-lxc",
    ]
    assert "10.1.0.9 r1 r1.right # oar-lxc" in hosts_text(PEERS, ("right", "left"))
    assert hosts_text(PEERS, ("main",)).splitlines()[0] == "100.64.0.2 vm1 # oar-lxc"
    assert "100.64.0.4 r1 r1.main # oar-lxc" in hosts_text(PEERS, ("main", "left"))


def test_where_nothing_is_shared_only_the_names_with_a_network_lead_there() -> None:
    assert hosts_text({"p1": PEERS["p1"]}, ("right",)) == (
        "10.1.0.1 p1.left # oar-lxc\nfd00::1 p1.left # oar-lxc\n"
    )
    assert hosts_text({"vm1": PEERS["vm1"]}, ("right",)) == ""


def test_a_peer_survives_json_and_an_older_version() -> None:
    assert Peer.from_data(["100.64.0.2", "k1"]) == PEERS["vm1"]
    assert Peer.from_data(["", "k2", {"left": ["10.1.0.1", "fd00::1"]}]) == PEERS["p1"]


def test_a_known_peer_has_each_name_once() -> None:
    (known,) = known_peers({"p1": PEERS["p1"]}, ("left",))
    assert known.names == ("p1", "p1.left")
    assert known.key == "k2"
