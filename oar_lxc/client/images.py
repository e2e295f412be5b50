"""List the images that a job has on its nodes: ask each node, and merge the answers.

These are public images, and images that were pushed to nodes for the job. The user's own images
are in the home directory: no node needs to be asked for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from oar_lxc.model.events import Image
from oar_lxc.model.image_name import OWN
from oar_lxc.model.requests import Images
from oar_lxc.remote.agents import Remote


@dataclass(frozen=True)
class ImageOfJob:
    """An image that some nodes of a job have, or that the user has at home.

    Attributes:
        facts: the facts that the first of the nodes tells.
        nodes: the nodes that have the image, in the order of the job; empty for one at home.
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
