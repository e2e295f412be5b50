"""The cluster of the end-to-end tests: a sandbox, up, in the set-up that a module names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from oar_lxc.sandbox.cluster import Sandbox
from oar_lxc.sandbox.state import Settings
from tests.e2e.cluster import Cluster

# What an administrator may choose: the stanza before OAR's cpuset, hooks alone, the cpuset off.
SETUPS = {
    "stanza": {"cpuset": True, "stanza": True},
    "hooks": {"cpuset": True, "stanza": False},
    "no-cpuset": {"cpuset": False, "stanza": True},
}


# The image of the example for MPI, and what it tells to install in it.
MPI_IMAGE = "debian-12:mpi"
MPI_PACKAGES = ("openmpi-bin", "python3-mpi4py")


def bring_up(sandbox: Sandbox, setup: str) -> Cluster:
    """Bring the cluster into a set-up, with the nodes that it has."""
    sandbox.up(replace(sandbox.state.settings() or Settings(), **SETUPS[setup]))
    return Cluster(sandbox, setup)


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """Return the sandbox of this checkout; leave it in the set-up that is advised."""
    sandbox = Sandbox()
    yield sandbox
    bring_up(sandbox, "stanza")


@pytest.fixture(scope="package", params=list(SETUPS))
def any_setup(request: pytest.FixtureRequest, sandbox: Sandbox) -> Cluster:
    """Return the cluster in each of the three set-ups, one after the other."""
    return bring_up(sandbox, request.param)


@pytest.fixture(scope="module")
def cluster(sandbox: Sandbox) -> Cluster:
    """Return the cluster in the set-up that is advised: the stanza, the cpuset on."""
    return bring_up(sandbox, "stanza")


@pytest.fixture(scope="session")
def mpi_image(sandbox: Sandbox) -> str:
    """Let the nodes have the image of the example for MPI, with rsync; return its name."""
    sandbox.add_image(MPI_IMAGE, (*MPI_PACKAGES, "rsync"))
    return MPI_IMAGE
