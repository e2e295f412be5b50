"""The contract of the runtime, for real LXC: the same tests that the fake one passes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from oar_lxc.model.layout import JobLayout
from tests.integration.as_user import user_runtime
from tests.integration.conftest import containers_of
from tests.pretend import PYTHON, PretendJob
from tests.unit.runtime_contract import Containers, RuntimeContract

# Makes containers a, b and broken; the last one's root file system is away.
CREATE = """
import os, sys
from oar_lxc.container.create import create_containers
from oar_lxc.container.job_namespaces import JobNamespaces
from oar_lxc.container.node_launch import NodeLaunch
from oar_lxc.linux.ed25519 import KeyPair
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.plan import PlannedContainer
from oar_lxc.model.published import read_published
layout = JobLayout(int(sys.argv[1]))
published = read_published(layout.published, layout.job_id, os.uname().nodename)
network = published.gateway.rpartition(".")[0]
share = [
    PlannedContainer(name, published.node, f"{network}.{number}/21", "debian-12")
    for number, name in enumerate(("a", "b", "broken"), 10)
]
keys = {"authorized": "", "client": ""}
host_keys = {planned.name: KeyPair.make() for planned in share}
images = {"debian-12": layout.images / "debian-12/rootfs"}
launch = NodeLaunch(layout, published, "test", images, keys, host_keys, names={})
JobNamespaces(layout).enter()
made = create_containers(launch, share)
assert [name for names in made for name in names] == ["a", "b", "broken"]
config = layout.containers / "broken/config"
config.write_text(config.read_text().replace("/rootfs:", "/no-such-rootfs:"))
"""


class TestLxcRuntime(RuntimeContract):
    @pytest.fixture
    def containers(self, job: PretendJob) -> Iterator[Containers]:
        made = job.run([PYTHON, "-c", CREATE, str(job.id)])
        assert made.status == 0, made.stderr
        with user_runtime(job, containers_of(job)) as runtime:
            runtime.make_network()
            missing = runtime.at(JobLayout(job.id).directory / "missing")
            yield Containers(runtime, runtime.wait, lambda: missing)
