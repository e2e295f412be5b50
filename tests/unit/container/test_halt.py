"""The signal at which an init halts is read from the container's configuration."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from oar_lxc.container.halt import halt_signal


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("lxc.signal.halt = SIGRTMIN+3\n", int(signal.SIGRTMIN) + 3),
        ("lxc.signal.halt=SIGUSR2\n", signal.SIGUSR2),
        ("lxc.uts.name = x\nlxc.signal.halt = SIGTERM \n", signal.SIGTERM),
        ("lxc.signal.halt = SIGNOSUCH\n", signal.SIGPWR),
        ("lxc.signal.halt = SIGRTMIN+X\n", signal.SIGPWR),
        ("# lxc.signal.halt = SIGTERM\n", signal.SIGPWR),
        ("", signal.SIGPWR),
    ],
)
def test_it_is_lxcs_default_where_none_is_set(tmp_path: Path, line: str, number: int) -> None:
    (tmp_path / "config").write_text(line)
    assert halt_signal(tmp_path) == number


def test_it_is_lxcs_default_without_a_configuration(tmp_path: Path) -> None:
    assert halt_signal(tmp_path) == signal.SIGPWR
