"""Let a session join a job's networks on a node, and leave them.

Most jobs have no networks but their main one. For them, nothing of the rest is loaded.
"""

from __future__ import annotations

from oar_lxc.agent.node import OnNode
from oar_lxc.model.requests import Launch


def join_networks(node: OnNode, request: Launch) -> dict[str, dict[str, str]]:
    """Make the networks of a session, if any of the job needs some; see :func:`.networks.join`."""
    if not (request.plan.needs_networks or node.layout.networks.exists()):
        return {}
    from oar_lxc.agent.networks import join

    return join(node, request.session, request.plan)


def leave_networks(node: OnNode, session: str | None) -> None:
    """Forget the networks of a session, if the job has any; see :func:`.networks.leave`."""
    if node.layout.networks.exists():
        from oar_lxc.agent.networks import leave

        leave(node, session)
