"""The ssh keys of a job, made by the real ssh-keygen."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from oar_lxc.errors import OarLxcError
from oar_lxc.keys import CLIENT, HOST, JobKeys
from oar_lxc.layout import JobLayout


@pytest.fixture
def layout(weird_tmp_path: Path) -> JobLayout:
    layout = JobLayout(42, weird_tmp_path)
    layout.private.mkdir(parents=True, mode=0o700)
    return layout


def test_two_pairs_are_made_that_belong_together_and_only_their_owner_reads(
    layout: JobLayout,
) -> None:
    keys = JobKeys.make(layout, "oar job 42")
    for name in (CLIENT, HOST):
        path = layout.private / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        shown = subprocess.run(
            ["ssh-keygen", "-y", "-f", str(path)], capture_output=True, text=True, check=True
        )
        assert shown.stdout.split()[:2] == Path(f"{path}.pub").read_text().split()[:2]
    data = keys.to_data()
    assert data["authorized"].endswith("oar job 42\n")
    assert data["host_public"] != data["authorized"]
    assert "PRIVATE KEY" in data["host"]


def test_keys_that_exist_are_kept(layout: JobLayout) -> None:
    first = JobKeys.make(layout, "x").to_client_data()
    assert JobKeys.make(layout, "x").to_client_data() == first
    assert first["client"] == (layout.private / CLIENT).read_text()


def test_what_cannot_be_made_is_an_error(layout: JobLayout) -> None:
    layout.private.rmdir()
    with pytest.raises(OarLxcError, match="cannot make keys in"):
        JobKeys.make(layout, "x")
    assert os.listdir(layout.directory) == []
