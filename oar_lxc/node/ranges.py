"""The pool of id ranges: where jobs' containers have their host ids.

A job gets one range of host ids on a node for all its containers. The pool lies above the ranges
that systemd gives to containers and below the ids that the kernel's signed interfaces cannot
hold (systemd's "Users, Groups, UIDs and GIDs on systemd Systems").
"""

from __future__ import annotations

FIRST = 0x70000000
COUNT = 65536
RANGES = 4094


def is_first_id(number: int) -> bool:
    """Whether a range of the pool starts at this id."""
    return (number - FIRST) % COUNT == 0 and FIRST <= number < FIRST + RANGES * COUNT
