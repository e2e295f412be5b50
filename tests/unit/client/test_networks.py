"""The networks of a job, as its nodes tell of them."""

from __future__ import annotations

from typing import cast

import pytest

from oar_lxc.client.networks import check_abilities, find_networks
from oar_lxc.errors import SpecError
from oar_lxc.model.events import NetworksHere
from oar_lxc.model.links import Link
from oar_lxc.model.plan import Plan
from oar_lxc.remote.agents import Remote


class SlowFirstNode:
    """A job whose first node answers last."""

    job_id = 42
    nodes = ("node1", "node2")

    def collect(self, *_: object) -> list[tuple[str, NetworksHere]]:
        told = NetworksHere(plan=Plan(42, ()), running=(), lacking=("netem",))
        return [(node, told) for node in reversed(self.nodes)]


def test_the_first_node_that_lacks_something_is_named_whichever_answers_first() -> None:
    state = find_networks(cast(Remote, SlowFirstNode()), abilities=True)
    assert list(state.lacking) == ["node1", "node2"]
    with pytest.raises(SpecError, match="the kernel of node1 has no netem"):
        check_abilities([("the link", Link("left", "p1", delay="1ms"))], state)
