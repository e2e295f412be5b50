"""What is known of an image, as it is told to people and programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from oar_lxc.image.record import Record
from oar_lxc.image.store import Store

PUBLIC, OWN = "public", "own"


def facts_of(record: Record, whose: str, store: Store) -> dict[str, Any]:
    """Return all that is known of an image, as it is told to people and programs."""
    return {
        "image": str(record.image),
        "whose": whose,
        **asdict(record),
        "path": str(store.directory(record.image)),
    }
