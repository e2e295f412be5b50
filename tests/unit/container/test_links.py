"""What the kernel of a node lacks for links."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from oar_lxc.container.links import lacking
from oar_lxc.errors import CommandError


class Network:
    """A network in which some programs fail, with a status each."""

    def __init__(self, **failing: int) -> None:
        self.failing = failing

    def in_network(self, argv: Sequence[str], text: str = "") -> str:
        """Fail, or not."""
        if status := self.failing.get(argv[0]):
            raise CommandError(argv, status, "it failed")
        return ""


def test_what_the_kernel_refuses_is_lacking() -> None:
    assert lacking(Network()) == ()
    assert lacking(Network(tc=2, nft=1)) == ("htb", "netem", "numgen")


def test_a_program_that_is_missing_says_nothing_of_the_kernel() -> None:
    with pytest.raises(CommandError, match=r"tc .* 127"):
        lacking(Network(tc=127))
