"""What keeps the controllers of cgroups for machines: a unit of the host's systemd."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oar_lxc.sandbox import controllers
from oar_lxc.sandbox.state import State
from tests.unit.fakes.programs import add_program

# The units that are active are files.
SYSTEMCTL = """
for last; do :; done
if [ "$1" = stop ]; then rm "$UNITS/$last"; else [ -e "$UNITS/$last" ]; fi
"""
SYSTEMD_RUN = """
for word; do
    case "$word" in
    --unit=*) unit="${word#--unit=}" ;;
    --property=Delegate=yes) all=yes ;;
    esac
done
[ "$all" = yes ] && (set -C; : >"$UNITS/$unit")
"""


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of the units that are active."""
    for name, script in (("systemctl", SYSTEMCTL), ("systemd-run", SYSTEMD_RUN)):
        add_program(tmp_path / "bin", name, script)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "units").mkdir()
    monkeypatch.setenv("UNITS", str(tmp_path / "units"))
    monkeypatch.setattr(controllers, "SYSTEMD", tmp_path)
    return tmp_path / "units"


def test_a_unit_keeps_them_from_up_to_down(tmp_path: Path, units: Path) -> None:
    state = State(tmp_path / "state", tmp_path)
    for _ in range(2):
        controllers.keep(state)
        assert [path.name for path in units.iterdir()] == [f"{state.tag}.service"]
        assert controllers.kept(state)
    for _ in range(2):
        controllers.release(state)
        assert list(units.iterdir()) == []
        assert not controllers.kept(state)


def test_without_systemd_there_is_nothing_to_keep(
    tmp_path: Path, units: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controllers, "SYSTEMD", tmp_path / "none")
    state = State(tmp_path / "state", tmp_path)
    controllers.keep(state)
    controllers.release(state)
    assert list(units.iterdir()) == []
