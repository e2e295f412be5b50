"""Which images a job has on its nodes: what each node tells, and all of it together.

Public images and those that were pushed to nodes for the job are here; a user's own at home are
known without asking any node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from oar_lxc.model.image_name import OWN
from oar_lxc.model.wire import Image, Images
from oar_lxc.remote.agents import Remote


@dataclass(frozen=True)
class ImageOfJob:
    """An image that nodes of a job have alike, or that its user has at home.

    Attributes:
        facts: as the first of them tells it.
        nodes: those that have it, in the order of the job; none for one at home.
    """

    facts: Image
    nodes: Sequence[str] = ()


def images_of(remote: Remote) -> list[ImageOfJob]:
    """Return the images that a job has on its nodes, the public ones first.

    Raises:
        NodeError: a node did not answer.
    """
    found: dict[tuple[str, str, str], dict[str, Image]] = {}
    for node, image in remote.collect(Images(), Image):
        found.setdefault((image.whose, image.image, image.digest), {})[node] = image
    return [
        ImageOfJob(next(iter(on.values())), sorted(on, key=remote.nodes.index))
        for _, on in sorted(found.items(), key=lambda item: (item[0][0] == OWN, *item[0][1:]))
    ]
