"""Find the files that come with the package: hooks and job scripts."""

from __future__ import annotations

from pathlib import Path

from oar_lxc.errors import OarLxcError

INSTALLED = Path("/usr/share/oar-lxc")


def share_path(name: str) -> Path:
    """Find a file or directory that comes with the package.

    Args:
        name: its path as in a checkout, such as ``hooks/prologue``.

    Returns:
        Its path: in the checkout of this module, or in :data:`INSTALLED`.

    Raises:
        OarLxcError: it is in neither.
    """
    checkout = Path(__file__).resolve().parents[2]
    bases = [checkout] if (checkout / "pyproject.toml").exists() else []
    for base in (*bases, INSTALLED):
        if (base / name).exists():
            return base / name
    raise OarLxcError(f"{name} is not in {INSTALLED}: install the package oar-lxc again")
