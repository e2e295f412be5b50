"""Which images a job has on its nodes: what each node tells, and all of it together.

Public images and those that were pushed to nodes for the job are here; a user's own at home are
known without asking any node.
"""

from __future__ import annotations

from typing import Any

from oar_lxc.model.image_name import OWN
from oar_lxc.remote.agents import Remote, raise_first


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
