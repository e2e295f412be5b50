"""What tests of set-up share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

Installer = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    """Return what makes packages of a version be installed, as dpkg-query sees it; none at first.

    It takes the version, and the names of the packages; ``oar-common`` by default.
    """
    database = tmp_path / "dpkg"
    database.mkdir()
    monkeypatch.setenv("DPKG_ADMINDIR", str(database))

    def write(version: str, names: Iterable[str] = ("oar-common",)) -> None:
        (database / "status").write_text("\n".join(_entry(name, version) for name in names))

    write("", ())
    return write


def _entry(name: str, version: str) -> str:
    return (
        f"Package: {name}\nStatus: install ok installed\nMaintainer: OAR <oar@example.org>\n"
        f"Architecture: all\nVersion: {version}\nDescription: OAR\n"
    )
