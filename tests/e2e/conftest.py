"""The cluster of the end-to-end tests: a sandbox, up, in the set-up that a module names."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace

import pytest

from oar_lxc.sandbox.cluster import Sandbox
from oar_lxc.sandbox.state import Settings, State
from oar_lxc.sandbox.suites import cgroup_version, has_cpuset
from tests.e2e.cluster import Cluster

FAILED = pytest.StashKey[bool]()
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
    """Bring the cluster into a set-up, or what comes next to it, with the nodes that it has."""
    setup = here(setup)
    known, wanted = sandbox.state.settings() or Settings(), SETUPS[setup]
    cpuset = wanted["cpuset"] and cpuset_can_be_on()
    sandbox.up(replace(known, cpuset=cpuset, stanza=wanted["stanza"]))
    return Cluster(sandbox, setup)


def cpuset_can_be_on() -> bool:
    """Return whether the OAR of the sandbox's suite can have its cpuset on here."""
    return has_cpuset((State().settings() or Settings()).suite, cgroup_version())


def here(setup: str) -> str:
    """Return the set-up that takes another's place: where the cpuset can only be off, one does."""
    return "no-cpuset" if setup == "stanza" and not cpuset_can_be_on() else setup


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that take ``any_setup`` in each that differs from the others here."""
    chosen = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "any_setup" in metafunc.fixturenames and "any_setup" not in chosen:
        names = list(dict.fromkeys(map(here, SETUPS)))
        metafunc.parametrize("any_setup", names, indirect=True, scope="package")


class Clusters:
    """The sandbox of this checkout, in one set-up after the other."""

    def __init__(self) -> None:
        self.sandbox = Sandbox()
        self._last: Cluster | None = None

    def in_setup(self, setup: str) -> Cluster:
        """Bring the cluster into a set-up, unless it was brought there last."""
        if self._last is None or self._last.setup != here(setup):
            self._last = bring_up(self.sandbox, setup)
        return self._last


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let fixtures know whether the test failed."""
    report = yield
    item.stash[FAILED] = report.failed
    return report


@pytest.fixture(autouse=True)
def _failed_tests_leave_no_job(request: pytest.FixtureRequest) -> Iterator[None]:
    """Delete what a test that failed has submitted: later tests need the nodes."""
    before = len(Cluster.submitted)
    yield
    if request.node.stash.get(FAILED, False):
        for job in Cluster.submitted[before:]:
            job.cluster.frontend("oardel", str(job.id), user=job.user, check=False)


@pytest.fixture(scope="session")
def clusters() -> Iterator[Clusters]:
    """Return the set-ups of the sandbox; leave it in the one that is advised."""
    clusters = Clusters()
    yield clusters
    clusters.in_setup("stanza")


@pytest.fixture(scope="package")
def any_setup(request: pytest.FixtureRequest, clusters: Clusters) -> Cluster:
    """Return the cluster in each of the set-ups, one after the other."""
    return clusters.in_setup(request.param)


@pytest.fixture(scope="module")
def cluster(clusters: Clusters) -> Cluster:
    """Return the cluster in the set-up that is advised: the stanza, the cpuset on if it can be."""
    return clusters.in_setup("stanza")


@pytest.fixture(scope="session")
def mpi_image(clusters: Clusters) -> str:
    """Let the nodes have the image of the example for MPI, with rsync; return its name."""
    clusters.sandbox.add_image(MPI_IMAGE, (*MPI_PACKAGES, "rsync"))
    return MPI_IMAGE
