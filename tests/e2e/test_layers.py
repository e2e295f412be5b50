"""Each layer of destruction is enough: the others are switched off, the kernel is looked at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from tests.e2e.cluster import Cluster, SubmittedJob, wait_until

SCRIPT = "./jobscripts/lxc_job.py"
NODE_COMMAND = "/usr/sbin/oar-lxc-node"
EPILOGUE = "/usr/share/oar-lxc/hooks/epilogue"
REAL = "/run/oar-lxc-node.real"


def in_setup(name: str) -> pytest.MarkDecorator:
    """Let a test that takes ``any_setup`` run in one of them alone."""
    return pytest.mark.parametrize("any_setup", [name], indirect=True)


# In place of the root side's command: it knows nothing of destroying, but for the reaper.
WITHOUT_DESTROY = f"""#!/bin/sh
[ "$1" = destroy ] && exit 0
exec {REAL} "$@"
"""
NOTHING = "#!/bin/sh\nexit 0\n"

# Its containers are destroyed by the session; then the job goes on.
CONTEXT = """#!/usr/bin/python3
import time
import oar_lxc
with oar_lxc.Session(oar_lxc.Group()) as session:
    print("containers:", len(session.containers), flush=True)
print("they are gone", flush=True)
time.sleep(300)
"""


@contextmanager
def replaced(cluster: Cluster, path: str, text: str) -> Iterator[None]:
    """Let a file on every node have another text."""
    with ExitStack() as stack:
        for node in cluster.nodes:
            cluster.on(node, "cp", "-a", NODE_COMMAND, REAL)
            cover = f"/run/cover-{path.rpartition('/')[2]}"
            stack.callback(cluster.on, node, "rm", REAL, cover)
            cluster.on(node, "sh", "-c", f"cat > {cover} && chmod 755 {cover}", stdin=text)
            cluster.on(node, "mount", "--bind", cover, path)
            stack.callback(cluster.on, node, "umount", path)
        yield


def layers(cluster: Cluster, job: SubmittedJob) -> set[str]:
    """Return who destroyed a job on any node, by the nodes' logs."""
    found = set()
    for node in cluster.nodes:
        log = cluster.on(node, "cat", "/var/log/oar-lxc.log").stdout
        events = [json.loads(line) for line in log.splitlines()]
        found |= {x["layer"] for x in events if x["event"] == "destroyed" and x["job"] == job.id}
    return found


def started(cluster: Cluster) -> tuple[SubmittedJob, dict[str, int]]:
    """Return a job whose containers run, and its ranges."""
    job = cluster.submit(SCRIPT)
    job.wait_output("connect from the frontend:")
    return job, cluster.first_ids(job)


def test_the_scripts_own_clean_up_leaves_no_container_while_the_job_goes_on(
    cluster: Cluster,
) -> None:
    """Processes, cgroups, links and files of containers are gone; what root prepared is not."""
    cluster.frontend("sh", "-c", f"cat > context.py <<'E'\n{CONTEXT}E\nchmod 755 context.py")
    job = cluster.submit("./context.py", "nodes=2/core=1,walltime=0:10:0")
    try:
        job.wait_output("they are gone")
        assert job.state == "Running"
        for node, first_id in cluster.first_ids(job).items():
            left = cluster.left(node, job, first_id)
            assert {*left["links"]} <= {f"ol{kind}{job.id}" for kind in "buv"}
            assert (
                cluster.on(node, "ls", f"/var/lib/oar-lxc/jobs/{job.id}/containers").stdout == ""
            )
            pids = [line.split()[0] for line in left.get("processes", [])]
            owners = [cluster.on(node, "stat", "-c", "%u", f"/proc/{pid}").stdout for pid in pids]
            assert not [x for x in owners if first_id <= int(x) < first_id + 65536]
    finally:
        job.delete()
        job.wait_end()
        cluster.frontend("rm", "-f", "context.py")


def test_the_stanza_alone_is_enough(cluster: Cluster) -> None:
    """On every node, without an epilogue."""
    with replaced(cluster, EPILOGUE, NOTHING):
        job, ids = started(cluster)
        job.delete()
        job.wait_end()
        cluster.assert_nothing_left(job, ids)
    assert layers(cluster, job) == {"stanza"}


def test_oar_gives_a_node_that_is_not_clean_to_nobody_until_it_is(cluster: Cluster) -> None:
    """The node check tells of what the reaper cannot destroy, and falls silent by itself."""
    node = cluster.nodes[0]
    stuck = "/var/lib/oar-lxc/stuck"

    def state() -> str:
        listing = cluster.frontend("oarnodes", "-s").stdout
        found = re.search(rf"^{node}:?\n +\d+ *: *(\w+)", listing, re.MULTILINE)
        assert found is not None
        return found[1]

    def check(state_wanted: str) -> None:
        cluster.on(node, "/etc/oar/check.d/oar-lxc")
        cluster.look_at_nodes()
        wait_until(f"{node} is {state_wanted}", lambda: state() == state_wanted, 120)

    assert state() == "Alive"
    cluster.on(node, "sh", "-c", f"echo 'failed: job 9 of alice: …; left: 1 cgroups' > {stuck}")
    try:
        check("Suspected")
        assert "job 9" in cluster.on(node, "cat", "/var/lib/oar/checklogs/oar-lxc").stdout
    finally:
        # The reaper has nothing to complain of: it removes both.
        cluster.on(node, "oar-lxc-node", "reap")
    assert cluster.on(node, "test", "-e", stuck, check=False).status == 1
    check("Alive")


@in_setup("hooks")
def test_the_epilogue_alone_is_enough(any_setup: Cluster) -> None:
    """From the first node, on all: the set-up without a stanza."""
    cluster = any_setup
    job, ids = started(cluster)
    job.delete()
    job.wait_end()
    cluster.assert_nothing_left(job, ids)
    assert layers(cluster, job) == {"epilogue"}


def reap(cluster: Cluster, *options: str) -> list[dict[str, object]]:
    """Reap on all nodes, from the server; return what was done about each job."""
    result = cluster.on("server", "oar-lxc", "reap", "--everywhere", "--json", *options)
    found = json.loads(result.stdout)
    assert found["unreachable"] == {}
    jobs: list[dict[str, object]] = found["jobs"]
    return jobs


def of(jobs: Sequence[dict[str, object]], job: SubmittedJob) -> list[tuple[object, object]]:
    """Return what was done about one job, and why."""
    return [(one["action"], one["why"]) for one in jobs if one["job_id"] == job.id]


def lasting(
    cluster: Cluster, node: str, job: SubmittedJob, first_id: int
) -> dict[str, list[object]]:
    """Return what a node has of a living job, but for copies of its mounts, which come and go."""
    found = cluster.left(node, job, first_id)
    return {**found, "mounts": sorted({str(x).partition(": ")[2] for x in found["mounts"]})}


@in_setup("no-cpuset")
def test_the_reaper_alone_is_enough_with_the_word_of_oar(any_setup: Cluster) -> None:
    """No hook destroys anything and no cpuset tells of a job's end; the living are left alone."""
    cluster = any_setup
    with replaced(cluster, NODE_COMMAND, WITHOUT_DESTROY):
        living, living_ids = started(cluster)
        job, ids = started(cluster)
        job.delete()
        job.wait_end()
        for node, first_id in ids.items():
            assert {"cgroups", "mounts", "links", "files"} <= set(
                cluster.left(node, job, first_id)
            )
        before = {node: lasting(cluster, node, living, x) for node, x in living_ids.items()}
        (action,) = {action for action, _ in of(reap(cluster), job)}
        assert action == "left alone"  # OAR and its hooks get their time
        said = reap(cluster, "--grace", "0")
        assert of(said, job) == [("destroyed", "OAR says that it has ended")] * len(ids)
        assert {action for action, _ in of(said, living)} == {"left alone"}
        after = {node: lasting(cluster, node, living, x) for node, x in living_ids.items()}
        assert after == before
        cluster.assert_nothing_left(job, ids)
    assert layers(cluster, job) == {"reaper"}
    living.delete()
    living.wait_end()
    cluster.assert_nothing_left(living, living_ids)
