"""The error for a job that cannot have containers on a node that is as it should be."""

from __future__ import annotations

from oar_lxc.errors import OarLxcError


class Refusal(OarLxcError):
    """The job cannot have containers on this node, through no fault of the node."""
