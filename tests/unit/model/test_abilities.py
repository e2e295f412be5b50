"""What links need of a node's kernel."""

from __future__ import annotations

import pytest

from oar_lxc.errors import SpecError
from oar_lxc.model.abilities import refuse_lacking
from oar_lxc.model.links import Link


@pytest.mark.parametrize(
    ("link", "lacking", "sentence"),
    [
        (
            Link("left", "p", "q", rate="1Mbit", delay="1ms"),
            "netem",
            "link 2: delay: the kernel of node1 has no netem (modprobe sch_netem)",
        ),
        (
            Link("left", "p", "q", corrupt="1%"),
            "netem",
            "link 2: corrupt: the kernel of node1 has no netem (modprobe sch_netem)",
        ),
        (
            Link("left", "p", "q", rate="1Mbit"),
            "htb",
            "link 2: rate: the kernel of node1 has no htb (modprobe sch_htb)",
        ),
        (
            Link("left", "p", rate="1Mbit"),
            "ifb",
            "link 2: from: the kernel of node1 has no ifb (modprobe ifb)",
        ),
        (
            Link("left", "p", "q", loss="1%"),
            "numgen",
            "link 2: loss: the kernel of node1 has no numgen (modprobe nft_numgen)",
        ),
    ],
)
def test_what_the_kernel_cannot_do_is_one_sentence(
    link: Link, lacking: str, sentence: str
) -> None:
    first = Link("left", "p", "q", loss="0%")
    numbered = [("link 1", first), ("link 2", link)]
    with pytest.raises(SpecError) as caught:
        refuse_lacking(numbered, [lacking], "node1")
    assert str(caught.value) == sentence
    refuse_lacking(numbered, [], "node1")
