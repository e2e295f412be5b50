"""LXC system containers inside OAR jobs.

``from oar_lxc import Session, Spec`` in a job script is all that most users need::

    with Session(Spec(image="debian-12", per_node=2), wait="ssh") as session:
        session.run(["hostname"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from oar_lxc.errors import OarLxcError
    from oar_lxc.job import Job
    from oar_lxc.session import ContainerHandle, Outcome, Session
    from oar_lxc.spec import Spec

__all__ = ["ContainerHandle", "Job", "OarLxcError", "Outcome", "Session", "Spec", "__version__"]

_HOMES = {
    "ContainerHandle": "oar_lxc.session",
    "Job": "oar_lxc.job",
    "OarLxcError": "oar_lxc.errors",
    "Outcome": "oar_lxc.session",
    "Session": "oar_lxc.session",
    "Spec": "oar_lxc.spec",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: the hooks import this package too, for less."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
