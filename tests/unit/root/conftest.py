"""What tests of the root side share."""

from __future__ import annotations

from pathlib import Path

import pytest

from oar_lxc.model.layout import JobLayout
from oar_lxc.root import grants


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobLayout:
    """Return the layout of job 42, with the system's files in a directory of our own."""
    for name in ("SUBUID", "SUBGID", "USERNET"):
        monkeypatch.setattr(grants, name, tmp_path / name.lower())
    (tmp_path / "records").mkdir()
    return JobLayout(42, tmp_path)
