"""The ssh keys of a job, made by the real ssh-keygen."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
from pathlib import Path

import pytest

from oar_lxc.errors import OarLxcError
from oar_lxc.keys import CLIENT, HOST, JobKeys, in_dropbear_form
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


def generate(path: Path, *options: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", *options, "-f", str(path)], check=True)
    return path


def test_dropbear_gets_the_kind_the_seed_and_the_public_key(tmp_path: Path) -> None:
    key = generate(tmp_path / "key", "-t", "ed25519", "-N", "").read_text()
    public = base64.b64decode((tmp_path / "key.pub").read_text().split()[1])[-32:]
    seed = base64.b64decode("".join(key.splitlines()[1:-1])).partition(b"ssh-ed25519")[2]
    seed = seed.partition(b"ssh-ed25519")[2][4 + 32 + 4 :][:32]
    form = in_dropbear_form(key)
    assert form == b"\0\0\0\x0bssh-ed25519\0\0\0\x40" + seed + public


@pytest.mark.parametrize("options", [("-t", "ed25519", "-N", "secret"), ("-t", "ecdsa", "-N", "")])
def test_a_key_of_another_kind_is_not_given_to_dropbear(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    key = generate(tmp_path / "key", *options).read_text()
    with pytest.raises(OarLxcError, match="not of ed25519 without a passphrase"):
        in_dropbear_form(key)


def test_a_damaged_key_is_told_wherever_it_ends(tmp_path: Path) -> None:
    key = generate(tmp_path / "key", "-t", "ed25519", "-N", "").read_text()
    whole = base64.b64decode("".join(key.splitlines()[1:-1]))
    for length in range(0, len(whole) - 20, 7):
        with pytest.raises(OarLxcError, match="the job's host key cannot be used"):
            in_dropbear_form(base64.b64encode(whole[:length]).decode())
    with pytest.raises(OarLxcError, match="remove host_ed25519"):
        in_dropbear_form("HOST KEY")
