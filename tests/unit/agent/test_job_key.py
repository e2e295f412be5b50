"""The ssh key of a job, read by the real ssh-keygen."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from oar_lxc.agent.job_key import JobKey
from oar_lxc.errors import OarLxcError
from oar_lxc.model.layout import JobLayout


@pytest.fixture
def layout(weird_tmp_path: Path) -> JobLayout:
    layout = JobLayout(42, weird_tmp_path)
    layout.private.mkdir(parents=True, mode=0o700)
    return layout


def test_a_pair_is_made_that_belongs_together_and_only_its_owner_reads(layout: JobLayout) -> None:
    key = JobKey.make(layout, "oar job 42")
    path = layout.ssh_key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    shown = subprocess.run(
        ["ssh-keygen", "-y", "-f", str(path)], capture_output=True, text=True, check=True
    )
    data = key.to_data()
    assert shown.stdout.split() == data["authorized"].split()
    assert data["authorized"].endswith("oar job 42\n")
    assert "PRIVATE KEY" in data["client"]


def test_a_key_that_exists_is_kept(layout: JobLayout) -> None:
    first = JobKey.make(layout, "x").to_data()
    assert JobKey.make(layout, "x").to_data() == first
    assert first["client"] == layout.ssh_key.read_text()


def test_what_cannot_be_made_is_an_error(layout: JobLayout) -> None:
    layout.private.rmdir()
    with pytest.raises(OarLxcError, match="cannot make keys in"):
        JobKey.make(layout, "x")
    assert os.listdir(layout.directory) == []
