"""Asking systemd, with a program in busctl's place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oar_lxc.errors import CommandError, OarLxcError
from oar_lxc.linux import systemd
from oar_lxc.linux.cgroups import enter_cgroups
from oar_lxc.linux.systemd import ask, enter_unit
from tests.unit.fakes.programs import add_program, recorded, recorder


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where calls of busctl are recorded."""
    add_program(tmp_path / "bin", "busctl", recorder(tmp_path / "calls"))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path / "calls"


def test_a_process_enters_the_cgroup_of_a_unit_that_is_its_users(calls: Path) -> None:
    enter_cgroups(["/sys/fs/cgroup/x/oar-lxc-42.service"], "oar-lxc-42.service")
    ((method, *words),) = (argv[4:] for argv in recorded(calls))
    assert method == "AttachProcessesToUnit"
    assert words == ["ssau", "oar-lxc-42.service", "/agent", "1", str(os.getpid())]


def test_a_process_that_is_there_asks_nobody(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "cgroup"
    monkeypatch.setattr(systemd, "OWN_CGROUPS", own)
    own.write_text("0::/oar.slice/oar-lxc.slice/oar-lxc-42.service/agent\n")
    enter_unit("oar-lxc-42.service", "/agent")
    assert not calls.exists()
    enter_unit("oar-lxc-2.service", "/agent")
    assert calls.exists()


def test_a_refusal_of_systemds_is_one_sentence(calls: Path, tmp_path: Path) -> None:
    add_program(tmp_path / "bin", "busctl", "echo 'Call failed: Access denied' >&2; exit 1")
    with pytest.raises(CommandError):
        ask("StopUnit", "ss", "x.service", "fail")
    with pytest.raises(OarLxcError) as caught:
        enter_unit("oar-lxc-42.service", "/agent")
    assert str(caught.value) == (
        "cannot enter systemd's unit oar-lxc-42.service: Call failed: Access denied"
    )
