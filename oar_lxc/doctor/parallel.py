"""Do the same for several nodes at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from oar_lxc.oar.ssh import FANOUT

T = TypeVar("T")


def in_parallel(act: Callable[[str], T], nodes: Sequence[str]) -> list[T]:
    """Call a function for all nodes at once."""
    with ThreadPoolExecutor(min(FANOUT, len(nodes)) or 1) as pool:
        return list(pool.map(act, nodes))
