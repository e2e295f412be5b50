"""What the kernels of nodes can do for links, and what links need. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from oar_lxc.errors import SpecError
from oar_lxc.model.links import NETEM_KEYS, Link

HTB, NETEM, NUMGEN, IFB = "htb", "netem", "numgen", "ifb"
# What there is, and the module of the kernel that has it.
MODULES = {HTB: "sch_htb", NETEM: "sch_netem", NUMGEN: "nft_numgen", IFB: "ifb"}


def refuse_lacking(links: Iterable[tuple[str, Link]], lacking: Collection[str], node: str) -> None:
    """Refuse links for which a node's kernel has no module.

    Args:
        links: links, each with what its sentence begins with.
        lacking: those of :data:`MODULES` that the kernel does not have.
        node: the node's name.

    Raises:
        SpecError: there is one; the sentence names its key and the module.
    """
    for where, link in links:
        for key, kind in needs(link):
            if kind in lacking:
                raise SpecError(
                    f"{where}: {key}: the kernel of {node} has no {kind} "
                    f"(modprobe {MODULES[kind]})"
                )


def needs(link: Link) -> Iterator[tuple[str, str]]:
    """Yield what a link needs, each with the key that needs it."""
    shape = link.shape
    for key in NETEM_KEYS:
        if getattr(shape, key):
            yield key, NETEM
    if shape.loss:
        yield "loss", NUMGEN
    if shape.queues:
        yield ("rate" if shape.rate else "delay"), HTB
        if link.to is None:
            yield "from", IFB
