"""Which images a job has on its nodes: what each node tells, and all of it together.

Public images and those that were pushed to nodes for the job are here; a user's own at home are
known without asking any node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from oar_lxc.agent.node import OnNode
from oar_lxc.image.provide import pushed_store
from oar_lxc.image.record import Record
from oar_lxc.image.store import Store
from oar_lxc.remote.agents import Remote, raise_first

PUBLIC, OWN = "public", "own"


def facts_of(record: Record, whose: str, store: Store) -> dict[str, Any]:
    """Return all that is known of an image, as it is told to people and programs."""
    return {
        "image": str(record.image),
        "whose": whose,
        **asdict(record),
        "path": str(store.directory(record.image)),
    }


def tell_images(node: OnNode, request: Mapping[str, Any]) -> None:
    """Tell the images that a job has on this node, by events ``image``: an operation of the agent.

    Args:
        node: this node.
        request: nothing is read from it.
    """
    for whose, store in ((PUBLIC, Store(node.layout.images)), (OWN, pushed_store(node.layout))):
        for name in store.names():
            node.emit({"event": "image", **facts_of(store.record(name), whose, store)})


def images_of(remote: Remote) -> list[dict[str, Any]]:
    """Return the images that a job has on its nodes; each with ``nodes``, those that have it so.

    Raises:
        NodeError: a node did not answer.
    """
    found: dict[tuple[str, str, str], dict[str, Any]] = {}

    def take(node: str, event: dict[str, Any]) -> None:
        if event.pop("event") == "image":
            key = (event["whose"], event["image"], event["digest"])
            found.setdefault(key, {**event, "nodes": []})["nodes"].append(node)

    raise_first(remote.call("images", {}, take))
    for one in found.values():
        one["nodes"].sort(key=remote.nodes.index)
    # The public ones first, as everywhere.
    return [found[key] for key in sorted(found, key=lambda key: (key[0] == OWN, *key[1:]))]
