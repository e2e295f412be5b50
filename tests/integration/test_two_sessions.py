"""Two sessions of one job, on real LXC: nothing that both have, and names of all in all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.model.layout import JobLayout
from tests.integration.conftest import IMAGE, left, left_of_containers, next_id, published
from tests.integration.jobs import Running, close, start_script
from tests.pretend import PYTHON, pretend_job

SECOND = """
import sys
from oar_lxc import Group, Session
with Session(Group(name="right", total=2), wait="ssh") as session:
    print("ready", flush=True)
    sys.stdin.read()
"""


def second(running: Running, *, name: str = "right") -> Running:
    """Start another script in the job."""
    program = SECOND.replace("sys.stdin.read()", "session.wait()").replace("right", name)
    process = running.job.start([PYTHON, "-c", program])
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise AssertionError(process.communicate()[1])
    return Running(running.job, process)


@pytest.fixture(scope="module")
def left_one(user: str) -> Iterator[Running]:
    """Return a job with two containers of a first session."""
    with pretend_job(next_id(), user) as job:
        first_id = published(job).first_id
        running = start_script(job, "--per-node", "2", "--wait", "ssh")
        try:
            yield running
        finally:
            running.process.terminate()
            running.process.wait(30)
            close(running.process)
        assert left_of_containers(job) == []
    assert left(job, first_id) == {}


@pytest.fixture
def both(left_one: Running) -> Iterator[Running]:
    """Return the job while a second session has two containers as well."""
    other = second(left_one)
    try:
        yield left_one
    finally:
        other.process.terminate()
        other.process.wait(30)
        close(other.process)
    assert sorted(left_one.containers()) == ["vm1", "vm2"]


def hosts(running: Running, name: str) -> list[str]:
    lines = running.inside(name, "cat /etc/hosts").splitlines()
    return sorted(line.split()[1] for line in lines if "oar-lxc" in line)


def test_no_address_and_no_key_is_given_out_twice(both: Running) -> None:
    found = both.containers()
    assert sorted(found) == ["right1", "right2", "vm1", "vm2"]
    assert len({one["address"] for one in found.values()}) == 4
    assert len({one["host_key"] for one in found.values()}) == 4
    hardware = {both.inside(name, "cat /sys/class/net/eth0/address") for name in found}
    assert len(hardware) == 4


def test_each_finds_all_others_by_name_over_ssh_without_a_question(both: Running) -> None:
    everybody = ["right1", "right2", "vm1", "vm2"]
    for name in everybody:
        assert hosts(both, name) == everybody
    for one, other in (("vm1", "right2"), ("right1", "vm2")):
        line = f"ssh -o BatchMode=yes -o ConnectTimeout=20 {other} hostname"
        assert both.inside(one, line) == other


def test_ssh_lands_in_the_one_that_was_named(both: Running) -> None:
    for name in ("vm1", "right1", "vm2", "right2"):
        done = both.cli("ssh", name, "hostname")
        assert (done.status, done.stdout) == (0, f"{name}\n"), done.stderr


def test_another_container_cannot_answer_in_its_place(both: Running) -> None:
    """Its address leads to another: ssh must notice it by the key."""
    place = JobLayout(both.job.id).containers
    mine, other = (place / name / "config" for name in ("vm1", "right1"))
    before = mine.read_text()
    addresses = both.containers()
    mine.write_text(before.replace(addresses["vm1"]["address"], addresses["right1"]["address"], 1))
    try:
        done = both.cli("ssh", "vm1", "hostname")
        assert done.status == 255
        assert "IDENTIFICATION HAS CHANGED" in done.stderr
    finally:
        mine.write_text(before)
    assert other.exists()


def test_what_others_wrote_into_hosts_stays_and_ended_names_go(left_one: Running) -> None:
    left_one.inside("vm1", "echo 192.0.2.7 mine >> /etc/hosts; stat -c %a /etc/hosts")
    other = second(left_one)
    try:
        assert hosts(left_one, "vm1") == ["right1", "right2", "vm1", "vm2"]
        assert "right1" in left_one.inside("vm1", "cat /etc/ssh/ssh_known_hosts")
    finally:
        other.process.terminate()
        other.process.wait(30)
        close(other.process)
    assert hosts(left_one, "vm1") == ["vm1", "vm2"]
    text = left_one.inside("vm1", "cat /etc/hosts /etc/ssh/ssh_known_hosts; stat -c %a /etc/hosts")
    assert "192.0.2.7 mine\n" in text
    assert "right1" not in text
    assert text.splitlines()[0] == "127.0.0.1 localhost"
    assert text.splitlines()[-1] == "644"


@pytest.mark.parametrize(
    "hostile",
    [
        "rm /etc/hosts; ln -s /root/victim /etc/hosts",
        "rm /etc/hosts; mkfifo /etc/hosts",
        "rm /etc/hosts; mkdir /etc/hosts",
        "rm -f /bin/sed /usr/bin/sed",
        "rm /etc/ssh/ssh_known_hosts; ln -s /nowhere/x /etc/ssh/ssh_known_hosts",
        "mount -t tmpfs -o ro tmpfs /etc/ssh",
    ],
)
def test_a_container_that_breaks_its_names_breaks_nobody_elses(
    left_one: Running, tmp_path: Path, hostile: str
) -> None:
    script = tmp_path / "spec.toml"
    script.write_text(f'wait = "running"\n[[group]]\nname = "bad"\nimage = "{IMAGE}"\n')
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    bad = start_script(left_one.job, "--spec", str(script))
    try:
        left_one.inside("bad1", f"echo victim > /root/victim; {hostile}")
        other = second(left_one)
        other.process.terminate()
        other.process.wait(30)
        close(other.process)
        assert left_one.inside("bad1", "cat /root/victim") == "victim"
        assert hosts(left_one, "vm1") == ["bad1", "vm1", "vm2"]
    finally:
        bad.process.terminate()
        bad.process.wait(30)
        close(bad.process)
    assert hosts(left_one, "vm1") == ["vm1", "vm2"]


def test_a_name_that_another_session_has_is_refused_before_anything_starts(
    left_one: Running,
) -> None:
    before = left_one.containers()
    done = left_one.job.script("--", "hostname")
    assert (done.status, done.stdout) == (1, "")
    assert "another session of the job has a container vm1, on" in done.stderr
    assert "give the group another name, such as vm-b" in done.stderr
    assert left_one.containers() == before


def test_sessions_one_after_the_other_get_other_addresses(left_one: Running) -> None:
    seen = []
    for _ in range(2):
        other = second(left_one)
        seen += [one["address"] for one in left_one.containers().values()]
        other.process.terminate()
        other.process.wait(30)
        close(other.process)
    assert len(seen) == 8
    assert len(set(seen)) == 6  # those of the first session twice


def test_list_is_sorted_and_tells_what_is_ready(both: Running) -> None:
    rows = [line.split() for line in both.cli("list").stdout.splitlines()]
    assert [row[0] for row in rows] == ["CONTAINER", "right1", "right2", "vm1", "vm2"]
    assert [row[3] for row in rows] == ["READY", "yes", "yes", "yes", "yes"]
    found = json.loads(both.cli("list", "--json").stdout)
    assert all(one["ready"] for one in found)
