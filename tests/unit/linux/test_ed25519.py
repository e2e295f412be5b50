"""Key pairs of ed25519, against the standard and the real ssh-keygen."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from oar_lxc.linux.ed25519 import KeyPair, public_of


@pytest.mark.parametrize(
    ("seed", "public"),
    [  # RFC 8032, 7.1
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        ),
    ],
)
def test_the_public_key_follows_from_the_seed(seed: str, public: str) -> None:
    assert public_of(bytes.fromhex(seed)).hex() == public


@pytest.mark.parametrize("comment", ["", "me", "oar job 4", "oar job 42", "x" * 50])
def test_openssh_reads_what_is_made(tmp_path: Path, comment: str) -> None:
    pair = KeyPair.make()
    path = tmp_path / "key"
    path.write_text(pair.private(comment))
    path.chmod(0o600)
    argv = ["ssh-keygen", "-y", "-f", str(path)]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert shown.rstrip("\n") == f"{pair.public} {comment}".rstrip()


def test_what_openssh_makes_is_the_same_pair(tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / f"key{number}"
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True
        )
        data = base64.b64decode("".join(path.read_text().splitlines()[1:-1]))
        secret = data.rpartition(b"\0\0\0\x40")[2][:64]
        assert public_of(secret[:32]) == secret[32:]
        assert KeyPair(secret).public == " ".join(Path(f"{path}.pub").read_text().split()[:2])


def test_dropbear_gets_the_kind_the_seed_and_the_public_key() -> None:
    pair = KeyPair.make()
    assert pair.dropbear() == b"\0\0\0\x0bssh-ed25519\0\0\0\x40" + pair.secret


def test_no_two_are_the_same_and_none_is_shown() -> None:
    one, other = KeyPair.make(), KeyPair.make()
    assert one.public != other.public
    assert one.secret.hex() not in repr(one)
    assert repr(one.secret) not in repr(one)
