"""Which ids of a job have keys in the kernel."""

from __future__ import annotations

from pathlib import Path

from oar_lxc.linux.deadline import NEVER
from oar_lxc.root import keyrings
from oar_lxc.root.ownership import Whose

FIRST = 0x70000000


def test_only_ids_of_the_job_that_have_keys_are_found(tmp_path: Path) -> None:
    users = tmp_path / "key-users"
    users.write_text(
        "    0:   235 234/234 228/1000000 4184/25000000\n"
        f"{FIRST - 1}:     2 2/2 2/200 26/20000\n"
        f"{FIRST}:    33 33/33 32/200 6460/20000\n"
        f"{FIRST + 9}:     1 0/0 0/200 0/20000\n"
        f"{FIRST + 65535}:     1 1/1 1/200 9/20000\n"
    )
    assert keyrings.owners(Whose(2001, FIRST), users) == [FIRST, FIRST + 65535]


def test_a_kernel_without_keyrings_has_none(tmp_path: Path) -> None:
    keyrings.forget(Whose(2001, FIRST), NEVER, tmp_path / "none")


def test_keyrings_are_found_by_their_owner_whatever_their_names_are(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(
        "0e92f438 I--Q---     1 perm 1f3f0000   700 65534 keyring   _uid_ses.700: 1\n"
        "123dee0b I------     1 perm 1f030000     0     0 keyring   .dns_resolver: empty\n"
        "1 IR-Q---     2 3d 1f3f0000   700   700 keyring   a keyring b\n"
        "x I 1 perm 0 700 0 keyring\n"
        "3d491f69 I--Q---     2 perm 1f3f0000   700 65534 user      key: 5000\n"
        "3d491f6a I--Q---     2 perm 1f3f0000  7001 65534 keyring   _uid.7001: empty\n"
    )
    assert keyrings.keyrings_of(700, keys) == [0x0E92F438, 1]
