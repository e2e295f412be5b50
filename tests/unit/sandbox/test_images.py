"""The cache: whole or not there, and named by what went in."""

from __future__ import annotations

from pathlib import Path

import pytest

from oar_lxc.sandbox.images import Cache, digest
from oar_lxc.sandbox.report import Report


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(Report(lambda line: None), tmp_path / "cache")


def names(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.root.iterdir())


def test_an_entry_is_made_once(cache: Cache) -> None:
    made: list[Path] = []

    def make(half: Path) -> None:
        made.append(half)
        (half / "file").touch()

    first = cache.entry("kind", "key", "what", make)
    assert cache.entry("kind", "key", "what", make) == first
    assert (len(made), names(cache)) == (1, ["kind-key"])
    assert (first / "file").exists()


def test_a_failure_leaves_nothing(cache: Cache) -> None:
    def fail(half: Path) -> None:
        (half / "file").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cache.entry("kind", "key", "what", fail)
    assert names(cache) == []


def test_what_a_killed_command_left_is_not_used(cache: Cache) -> None:
    (cache.root / ".half-kind" / "old").mkdir(parents=True)
    entry = cache.entry("kind", "key", "what", lambda half: (half / "new").touch())
    assert [path.name for path in entry.iterdir()] == ["new"]
    assert names(cache) == ["kind-key"]


def test_purging_removes_all(cache: Cache) -> None:
    cache.entry("kind", "key", "what", lambda half: None)
    cache.purge()
    assert not cache.root.exists()
    cache.purge()


def test_a_digest_tells_its_parts_apart() -> None:
    assert digest("a", "b") == digest("a", "b")
    assert len({digest("ab"), digest("a", "b"), digest("b", "a"), digest("a", "b", "")}) == 4
