"""What `oar-lxc doctor` writes."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete

from oar_lxc.cli import doctor
from oar_lxc.cli.main import cli
from oar_lxc.doctor.findings import AS_ROOT, Finding, problem, unknown, warning, well
from oar_lxc.doctor.report import Report


def shown(capsys: pytest.CaptureFixture[str], show_all: bool, *findings: Finding) -> list[str]:
    doctor._show([Report("node1", "node", findings)], show_all)
    return capsys.readouterr().out.splitlines()


def test_the_worst_comes_first_and_what_is_well_is_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = (well("a"), unknown("b", AS_ROOT), warning("c", "C.", "c!"), problem("d", "D.", "d!"))
    lines = shown(capsys, False, *found)
    assert [line.split()[0] for line in lines] == [
        "problem", "D.", "d!", "warning", "C.", "c!", "unknown", "Whether", "sudo", "node1",
    ]  # fmt: skip
    assert lines[-1] == "node1 (node): 1 problem, 1 warning, 1 unknown, 1 well"
    assert "    well  node1: : a" in shown(capsys, True, *found)


def test_what_is_mended_alike_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, False, unknown("a", AS_ROOT), unknown("b", AS_ROOT))
    assert len(lines) == 5
    assert lines[-1] == "node1 (node): 2 unknown"


def test_a_node_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, False, problem("\x1b[2Ja", "b\n", "\x07"))
    assert "\x1b" not in "".join(lines)
    assert len(lines) == 4


def test_names_of_checks_are_completed() -> None:
    complete = ShellComplete(cli, {}, "oar-lxc", "_OAR_LXC_COMPLETE")
    found = complete.get_completions(["doctor", "--check"], "cl")
    assert [item.value for item in found] == ["clock"]


def test_a_report_of_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, False) == ["node1 (node): nothing was looked at"]
