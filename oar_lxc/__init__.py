"""LXC system containers inside OAR jobs.

``from oar_lxc import Group, Session`` in a job script is all that most users need::

    with Session(Group(image="debian-12", per_node=2), wait="ssh") as session:
        session.run(["hostname"])
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # type checkers know this name; its import from typing would slow hooks down
if TYPE_CHECKING:
    from typing import Any

    from oar_lxc.client.commands import Outcome
    from oar_lxc.client.progress import Progress
    from oar_lxc.client.session import ContainerHandle, Session
    from oar_lxc.errors import OarLxcError
    from oar_lxc.model.job import Job
    from oar_lxc.model.links import Link
    from oar_lxc.model.networks import Main, Network
    from oar_lxc.model.spec import Group, Mount, Port, Spec
    from oar_lxc.model.specfile import read_spec

__all__ = [
    "ContainerHandle",
    "Group",
    "Job",
    "Link",
    "Main",
    "Mount",
    "Network",
    "OarLxcError",
    "Outcome",
    "Port",
    "Progress",
    "Session",
    "Spec",
    "__version__",
    "read_spec",
]

_HOMES = {
    "ContainerHandle": "oar_lxc.client.session",
    "Group": "oar_lxc.model.spec",
    "Job": "oar_lxc.model.job",
    "Link": "oar_lxc.model.links",
    "Main": "oar_lxc.model.networks",
    "Mount": "oar_lxc.model.spec",
    "Network": "oar_lxc.model.networks",
    "OarLxcError": "oar_lxc.errors",
    "Outcome": "oar_lxc.client.commands",
    "Port": "oar_lxc.model.spec",
    "Progress": "oar_lxc.client.progress",
    "Session": "oar_lxc.client.session",
    "Spec": "oar_lxc.model.spec",
    "read_spec": "oar_lxc.model.specfile",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: hooks import this package, and need none."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
