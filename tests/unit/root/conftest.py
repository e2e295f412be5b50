"""What tests of the root side share."""

from __future__ import annotations

from pathlib import Path

import pytest

from oar_lxc.model.layout import JobLayout


@pytest.fixture
def layout(tmp_path: Path) -> JobLayout:
    """Return the layout of job 42 in a directory of our own."""
    (tmp_path / "records").mkdir()
    return JobLayout(42, tmp_path)
