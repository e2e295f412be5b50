"""List the images that a job has on this node: public images, and those pushed for the job."""

from __future__ import annotations

from oar_lxc.agent.node import OnNode
from oar_lxc.image.provide import pushed_store
from oar_lxc.image.store import Store, facts_of
from oar_lxc.model.image_name import OWN, PUBLIC
from oar_lxc.model.requests import Images


def list_images(node: OnNode, request: Images) -> None:
    """Emit an ``Image`` for each image that a job has on this node; an operation of the agent.

    Args:
        node: this node.
        request: not used.
    """
    for whose, store in ((PUBLIC, Store(node.layout.images)), (OWN, pushed_store(node.layout))):
        for name in store.names():
            node.emit(facts_of(store.record(name), whose, store))
