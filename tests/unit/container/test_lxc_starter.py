"""What a starter makes of the program that starts containers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oar_lxc.container.lxc_starter import LxcStarter
from oar_lxc.container.runtime import StartedContainer
from oar_lxc.errors import ContainerError
from oar_lxc.linux.run import running
from tests.unit.fakes.programs import wait_until


@contextmanager
def starter(tmp_path: Path, script: str) -> Iterator[LxcStarter]:
    """Give a starter whose program is a shell's."""

    def error(name: str, reason: str) -> ContainerError:
        return ContainerError(name, "node1", reason)

    for name in ("vm1", "vm2", "vm3"):
        (tmp_path / name).mkdir()
    with running(["sh", "-c", script]) as program:
        yield LxcStarter(program, tmp_path, error)


def test_a_starter_tells_what_is_known_and_waits_for_the_rest_alone(tmp_path: Path) -> None:
    script = f"""
    read -r name path; echo "$name 0.5 7"
    read -r name path; touch {tmp_path}/read
    while [ ! -e {tmp_path}/go ]; do sleep 0.01; done
    echo "$name 0.1 -1"; read -r name path && echo "$name 0.2 8"
    """
    with starter(tmp_path, script) as started:
        assert list(started.finished()) == []
        started.send(["vm1", "vm2"])
        assert wait_until((tmp_path / "read").exists)
        assert list(started.finished()) == [StartedContainer("vm1", 7, 0.5)]
        assert list(started.finished()) == []
        started.send(["vm3"])
        (tmp_path / "go").touch()
        failed, last = started.rest()
    assert str(failed) == "container vm2 on node node1: LXC could not start it"
    assert last == StartedContainer("vm3", 8, 0.2)


def test_what_a_starter_did_not_come_to_has_failed(tmp_path: Path) -> None:
    with starter(tmp_path, 'read -r name path; echo "$name 0.5 7"; kill -9 $$') as started:
        started.send(["vm1", "vm2"])
        one, other = started.rest()
        assert one == StartedContainer("vm1", 7, 0.5)
        assert "vm2 on node node1: it was not started: what starts" in str(other)


def test_a_starter_that_is_closed_has_ended_what_it_began(tmp_path: Path) -> None:
    script = f"while read -r name path; do sleep 0.2; touch {tmp_path}/$name.began; done"
    with starter(tmp_path, script) as started:
        started.send(["vm1"])
        started.close()
        assert (tmp_path / "vm1.began").exists()
