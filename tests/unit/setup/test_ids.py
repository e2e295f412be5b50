"""What set-up tells of ids that others on a node have, and that jobs' containers have."""

from __future__ import annotations

from pathlib import Path

import pytest

from oar_lxc.model.idspans import LOWEST, MOST_USERS
from oar_lxc.root.id_ranges import COUNT, overlapping, ranges_of
from oar_lxc.setup.ids import notes

DEBIAN = {
    "subuid": "alice:100000:65536\nbob:165536:65536\n",
    "subgid": "alice:100000:65536\n",
    "passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n",
    "group": "nogroup:x:65534:\n",
    "login.defs": "#SUB_UID_MIN 1\nSUB_UID_MIN 100000\nSUB_UID_MAX 600100000\n",
}


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """Return the configuration of a plain Debian."""
    for name, text in DEBIAN.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_plain_debian_has_nothing_to_be_told(etc: Path) -> None:
    assert notes(etc) == []
    for name in DEBIAN:
        (etc / name).unlink()
    assert notes(etc) == []


def test_what_set_up_removes_is_not_told(etc: Path) -> None:
    first = ranges_of(1001, [(1000, 1009)])[5]
    (etc / "subuid").write_text(f"alice:{first}:{COUNT}\n")
    assert notes(etc) == []


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("subuid", "root:1000000:1000000000\n", "root the ids 1000000 to 1000999999, among them "
         "603979776 to 1000999999,"),
        ("subgid", "lxd:603979777:65536\n", "lxd the ids 603979777 to 604045312"),
        ("passwd", "ad:x:603979776:513::/:/bin/sh\n", "ad has the id 603979776"),
        ("group", "ad:x:2147483648:\n", "ad has the id 2147483648"),
        ("login.defs", "SUB_UID_MAX 700000000\n", "set SUB_UID_MAX to 603979775 or less"),
        ("login.defs", "SUB_GID_MAX\t4000000000\n", "603979776 to 1677459455 and 2147483648 to"),
    ],
)  # fmt: skip
def test_who_else_has_ids_of_jobs_is_told(etc: Path, name: str, text: str, told: str) -> None:
    (etc / name).write_text(text)
    (note,) = notes(etc)
    assert str(etc / name) in note
    assert told in note


def test_what_overlaps_is_what_jobs_may_have() -> None:
    users = [(1, MOST_USERS)]
    for first in (*ranges_of(1, users), *ranges_of(MOST_USERS, users)):
        assert overlapping(first, COUNT) == [(first, first + COUNT - 1)]
    assert overlapping(0, LOWEST) == []
    # What systemd-nspawn gives out, and what is left of it below.
    assert overlapping(524288, 1879048191 - 524288) == [(LOWEST, 0x63FBFFFF)]
    assert overlapping(0x63FC0000, 0x80000000 - 0x63FC0000) == []
