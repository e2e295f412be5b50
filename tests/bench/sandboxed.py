"""The sandbox as rows of the benchmark use it: a real OAR, on this machine's CPUs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from oar_lxc.sandbox.cluster import Sandbox
from oar_lxc.sandbox.state import SandboxError, Settings
from tests.e2e.cluster import Cluster


@contextmanager
def brought_up(nodes: int) -> Iterator[Cluster]:
    """Bring the sandbox up, or up to date; in the end it is down again if it was not up.

    Args:
        nodes: how many nodes it has to have.

    Raises:
        SandboxError: it is up with fewer.
    """
    sandbox = Sandbox(say=lambda line: print(line, file=sys.stderr))
    settings = sandbox.state.settings()
    if settings and settings.nodes < nodes:
        raise SandboxError(
            f"the sandbox has {settings.nodes} nodes instead of {nodes}: take it down first, with "
            "`oar-lxc sandbox down`"
        )
    try:
        sandbox.up(settings or Settings(nodes=nodes))
        yield Cluster(sandbox, "stanza")
    finally:
        if settings is None:
            sandbox.down()
