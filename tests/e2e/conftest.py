"""The cluster of the end-to-end tests: a sandbox, up, in the set-up that a module names."""

from __future__ import annotations

import pytest

from oar_lxc.sandbox.cluster import Sandbox
from oar_lxc.sandbox.state import Settings
from tests.e2e.cluster import Cluster

# What an administrator may choose: the stanza before OAR's cpuset, hooks alone, the cpuset off.
SETUPS = {
    "stanza": Settings(),
    "hooks": Settings(stanza=False),
    "no-cpuset": Settings(cpuset=False),
}


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    """Return the sandbox of this checkout."""
    return Sandbox()


@pytest.fixture(scope="package", params=list(SETUPS))
def any_setup(request: pytest.FixtureRequest, sandbox: Sandbox) -> Cluster:
    """Return the cluster in each of the three set-ups, one after the other."""
    sandbox.up(SETUPS[request.param])
    return Cluster(sandbox, request.param)


@pytest.fixture(scope="module")
def cluster(sandbox: Sandbox) -> Cluster:
    """Return the cluster in the set-up that is advised: the stanza, the cpuset on."""
    sandbox.up(SETUPS["stanza"])
    return Cluster(sandbox, "stanza")
