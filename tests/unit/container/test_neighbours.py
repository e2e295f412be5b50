"""What containers are told of their neighbours."""

from __future__ import annotations

import pytest

from oar_lxc.container.lxc_config import hardware_address
from oar_lxc.container.neighbours import are_told


def test_a_hardware_address_follows_from_the_address() -> None:
    assert hardware_address("100.64.0.48") == "02:6c:64:40:00:30"


@pytest.mark.parametrize(
    ("here", "all_of_them", "told"),
    [
        (1, 1, False),
        (7, 7, False),
        (8, 8, True),
        (256, 256, True),
        (257, 257, False),
        (32, 2000, True),
    ],
)
def test_too_few_and_too_many_pairs_are_not_told(here: int, all_of_them: int, told: bool) -> None:
    addresses = [f"100.64.{i // 200}.{i % 200 + 1}" for i in range(all_of_them)]
    assert are_told(addresses, here) == told
