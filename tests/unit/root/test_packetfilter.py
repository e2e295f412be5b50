"""What the packet filter is made of: who else tracks connections, and which elements are whose."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from oar_lxc.errors import CommandError
from oar_lxc.model.addresses import POOL
from oar_lxc.model.layout import JobLayout
from oar_lxc.root import packetfilter
from tests.unit.fakes.programs import add_program

OURS = packetfilter.rules_text(POOL)


def test_our_own_rules_are_not_anothers() -> None:
    assert not packetfilter.others_tracking("")
    assert not packetfilter.others_tracking(OURS)
    assert not packetfilter.others_tracking("table inet site {\n\tset actors {\n\t}\n}\n" + OURS)


@pytest.mark.parametrize(
    "rule",
    [
        "ct state established,related accept",
        "oifname eth0 masquerade",
        "dnat to 10.0.0.1",
        'xt match "conntrack"',
        "tcp dport 80 redirect to :8080",
    ],
)
def test_rules_that_need_tracked_connections_are_seen(rule: str) -> None:
    """A site's filter drops answers that are not tracked: the node would be cut off."""
    site = f"table inet oar_lxc2 {{\n\tchain input {{\n\t\t{rule}\n\t}}\n}}\n"
    assert packetfilter.others_tracking(site + OURS)
    assert packetfilter.others_tracking(OURS + site)


def nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> Path:
    """Give the test an nft of its own; return where it writes how it was called."""
    calls = tmp_path / "calls"
    add_program(tmp_path / "bin", "nft", f'echo "$*" >> {calls}\n{line}')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return calls


def test_to_forget_a_job_removes_its_elements_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = """{"nftables": [{"metainfo": {}},
        {"set": {"name": "owners", "elem": [{"concat": ["olb4", 1]}, {"concat": ["olb42", 2]}]}},
        {"set": {"name": "peers",
                 "elem": [{"concat": ["10.0.0.1", 1024]}, {"concat": ["10.0.0.2", 10752]}]}},
        {"set": {"name": "connections"}}]}"""
    calls = nft(tmp_path, monkeypatch, f"cat >> {tmp_path}/calls\ncat <<'X'\n{listing}\nX")
    packetfilter.forget(JobLayout(4), 5)
    assert calls.read_text().splitlines() == [
        "-n -j list table inet oar_lxc",
        "-f -",
        'add element inet oar_lxc owners { "olb4" . 1 }',
        'delete element inet oar_lxc owners { "olb4" . 1 }',
        "add element inet oar_lxc peers { 10.0.0.1 . 1024 }",
        "delete element inet oar_lxc peers { 10.0.0.1 . 1024 }",
    ]
    assert packetfilter.jobs(5) == {4, 42}


def test_to_forget_a_job_that_has_only_the_usual_elements_takes_two_runs_of_nft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes as long as much of a destroy; the second reads back what is left."""
    left = tmp_path / "left"
    script = f"""case "$1" in
        -f) cat >> {tmp_path}/calls; touch {left};;
        *) [ -e {left} ] && echo '{{"nftables": []}}';;
    esac"""
    calls = nft(tmp_path, monkeypatch, script)
    packetfilter.revoke(JobLayout(4), 2001, 5)
    assert packetfilter.forget(JobLayout(4), 5)
    assert calls.read_text().splitlines() == [
        "-f -",
        'add element inet oar_lxc owners { "olb4" . 2001 }',
        'delete element inet oar_lxc owners { "olb4" . 2001 }',
        'add element inet oar_lxc connections { "olb4" }',
        'delete element inet oar_lxc connections { "olb4" }',
        "-n -j list table inet oar_lxc",
    ]


def test_what_of_a_job_stays_in_the_filter_is_not_called_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = '{"nftables": [{"set": {"name": "owners", "elem": [{"concat": ["olb4", 1]}]}}]}'
    nft(tmp_path, monkeypatch, f"cat <<'X'\n{listing}\nX")
    assert not packetfilter.forget(JobLayout(4), 5)
    assert packetfilter.elements(JobLayout(4), 5) == ['nft owners "olb4" . 1']


def test_where_there_is_no_table_there_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nft(tmp_path, monkeypatch, "echo Error: No such file or directory >&2; exit 1")
    packetfilter.forget(JobLayout(4), 5)
    assert packetfilter.elements(JobLayout(4), 5) == []
    monkeypatch.setenv("PATH", str(tmp_path))
    assert packetfilter.elements(JobLayout(4), 5) == []


def test_a_filter_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nft(tmp_path, monkeypatch, "echo netlink error >&2; exit 1")
    with pytest.raises(CommandError, match="netlink error"):
        packetfilter.elements(JobLayout(4), 5)


def test_rules_that_were_flushed_are_loaded_before_a_job_is_admitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    monkeypatch.setattr(packetfilter, "filter_locked", lambda timeout: nullcontext())
    monkeypatch.setattr(packetfilter, "_jobs_of_devices", lambda: iter(()))
    script = f'[ "$1" = list ] && exit 0\ngrep -q "^table" && touch {made}; [ -e {made} ]'
    calls = nft(tmp_path, monkeypatch, script)
    packetfilter.admit(JobLayout(4), 2001, ["10.0.0.1"], POOL, 5)
    assert calls.read_text().splitlines() == ["-f -", "list ruleset", "-f -", "-f -"]


def test_a_job_that_ends_while_the_rules_are_loaded_keeps_no_element(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([(4, 5), (5,)])
    monkeypatch.setattr(packetfilter, "filter_locked", lambda timeout: nullcontext())
    monkeypatch.setattr(packetfilter, "_jobs_of_devices", lambda: iter(next(looks)))
    monkeypatch.setattr(packetfilter, "_elements", lambda layout, uid, peers: [layout.bridge])
    monkeypatch.setattr(packetfilter, "flooded", lambda layout, timeout: [])
    monkeypatch.setattr(packetfilter, "_uid", lambda layout: None)
    forgotten: list[int] = []
    monkeypatch.setattr(packetfilter, "forget", lambda layout, _: forgotten.append(layout.job_id))
    nft(tmp_path, monkeypatch, "exit 0")
    packetfilter.load(POOL, 5)
    assert forgotten == [4]
