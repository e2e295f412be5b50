"""Images on a cluster: a user's own, in jobs of that user, and pushed ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.model.layout import CONFIG
from tests.e2e.cluster import Cluster, SubmittedJob, wait_until

SCRIPT = "./jobscripts/lxc_job.py"
ARCHIVE = "/root/small.tar.zst"
PUSHED = "pushed:2"


@pytest.fixture(scope="module")
def small(cluster: Cluster) -> Iterator[bytes]:
    """Return an archive with the system of the recipe busybox."""
    cluster.on("node1", "oar-lxc", "image", "build", "busybox", "--store", "/root/built")
    cluster.on("node1", "tar", "--zstd", "-C", "/root/built/busybox/rootfs", "-cf", ARCHIVE, ".")
    pid = cluster.sandbox.machine("node1").pid
    with open(f"/proc/{pid}/root{ARCHIVE}", "rb") as file:  # noqa: PTH123
        data = file.read()
    yield data
    cluster.on("node1", "rm", "-rf", "/root/built", ARCHIVE)


@pytest.fixture(scope="module")
def own(cluster: Cluster, small: bytes) -> Iterator[str]:
    """Let alice import an image of her own on the frontend."""
    machine = cluster.sandbox.machine("frontend")
    machine.write("/home/alice/small.tar.zst", small)
    cluster.frontend("oar-lxc", "image", "import", "own:1", "small.tar.zst")
    yield "own:1"
    cluster.frontend("oar-lxc", "image", "rm", "own:1")
    cluster.frontend("rm", "small.tar.zst")
    # Other tests look for what jobs leave in the home.
    assert cluster.frontend("ls", ".local/share").stdout == ""


def test_a_job_uses_an_image_of_its_user(cluster: Cluster, own: str) -> None:
    """On both nodes, unpacked there; ssh answers; what a job sees is listed."""
    command = f"{SCRIPT} --image {own} --per-node 2 --wait ssh"
    job = cluster.submit(command, "nodes=2,walltime=0:10:0")
    job.wait_output("connect from the frontend:")
    ids = cluster.first_ids(job)
    for name in ("vm1", "vm4"):
        done = cluster.frontend("oar-lxc", "ssh", f"{job.id}/{name}", "hostname")
        assert done.stdout.strip() == name
    # Root has unpacked nothing: the files are of the job's ids.
    directory = f"/var/lib/oar-lxc/jobs/{job.id}/containers/.images"
    owners = cluster.on("node1", "sh", "-c", f"stat -c %u {directory}/*/rootfs/bin/busybox").stdout
    assert owners.split() == [str(ids["node1"])]
    job.delete()
    job.wait_end()
    cluster.assert_nothing_left(job, ids)


def test_an_image_is_its_users_alone(cluster: Cluster, own: str) -> None:
    job = cluster.submit(f"{SCRIPT} --image {own} -- true", user="bob")
    job.wait_end()
    assert f"image {own} does not exist on this node; images here: " in job.output("stderr")
    listed = cluster.frontend("oar-lxc", "image", "list", "--json", user="bob").stdout
    assert json.loads(listed) == []


@pytest.fixture
def on_server(cluster: Cluster, small: bytes) -> Iterator[str]:
    """Let the server have an image that it can push; return its digest."""
    cluster.sandbox.machine("server").write(ARCHIVE, small)
    told = cluster.on("server", "oar-lxc", "image", "import", PUSHED, ARCHIVE).stdout
    yield told.split()[1]
    for node in cluster.nodes:
        cluster.on(node, "oar-lxc", "image", "rm", PUSHED, "--force", check=False)
    cluster.on("server", "oar-lxc", "image", "rm", PUSHED)
    cluster.on("server", "rm", ARCHIVE)


@pytest.fixture
def separate(cluster: Cluster, on_server: str) -> Iterator[str]:
    """Let each node have a store on its own disk, which the others do not see; return its path."""
    store, kept = "/var/lib/oar-lxc/separate/images", f"{CONFIG}.kept"
    for node in cluster.nodes:
        line = f"cp -a {CONFIG} {kept}; printf '[images]\\nstore = \"{store}\"\\n' >> {CONFIG}"
        cluster.on(node, "sh", "-c", line)
    yield store
    for node in cluster.nodes:
        cluster.on(node, "mv", kept, str(CONFIG))
        cluster.on(node, "rm", "-r", str(Path(store).parent))


def push(cluster: Cluster, *options: str) -> dict[str, list[str]]:
    """Push the image from the server; return which nodes had it, and which have it now."""
    done = cluster.on("server", "oar-lxc", "image", "push", PUSHED, "--json", *options)
    found = json.loads(done.stdout)
    return {key: sorted(found[key]) for key in ("present", "done")}


def test_a_public_image_is_pushed_to_a_store_that_nodes_share(
    cluster: Cluster, on_server: str
) -> None:
    """From the server, and checked there; a second push has nothing to do."""
    assert push(cluster) == {"present": [], "done": list(cluster.nodes)}
    assert push(cluster) == {"present": list(cluster.nodes), "done": []}
    for node in cluster.nodes:
        told = cluster.on(node, "oar-lxc", "image", "verify", PUSHED).stdout
        assert told == f"{PUSHED} {on_server} ok\n"
    lost = cluster.on(
        "server", "oar-lxc", "image", "push", PUSHED, "--nodes", "nosuch", check=False
    )
    assert lost.status != 0
    assert "nosuch: " in lost.stderr


def test_a_public_image_is_pushed_to_the_store_of_each_node(
    cluster: Cluster, on_server: str, separate: str
) -> None:
    """To those that lack it; a job finds it on all of them, and nothing else."""
    first, second = cluster.nodes
    assert push(cluster, "--nodes", second) == {"present": [], "done": [second]}
    assert cluster.on(first, "ls", separate, check=False).status != 0
    assert push(cluster) == {"present": [second], "done": [first]}
    for node in cluster.nodes:
        (found,) = json.loads(cluster.on(node, "oar-lxc", "image", "list", "--json").stdout)
        assert (found["image"], found["digest"]) == (PUSHED, on_server)
        assert found["path"].startswith(f"{separate}/")
    job = cluster.submit(f"{SCRIPT} --image {PUSHED}", "nodes=2,walltime=0:5:0")
    job.wait_output("connect from the frontend:")
    ids = cluster.first_ids(job)
    found = {
        name: nodes for (name, whose), nodes in listed(cluster, job).items() if whose != "own"
    }
    assert found == {PUSHED: [list(cluster.nodes)]}
    for name in ("vm1", "vm2"):
        done = cluster.frontend("oar-lxc", "exec", f"{job.id}/{name}", "--", "hostname")
        assert done.stdout == f"{name}\n"
    used = cluster.on(first, "oar-lxc", "image", "rm", PUSHED, check=False)
    assert f"is in use on this machine, by job {job.id} of alice: end it" in used.stderr
    job.delete()
    job.wait_end()
    cluster.assert_nothing_left(job, ids)


def test_an_own_image_is_pushed_to_the_nodes_of_a_job(cluster: Cluster, own: str) -> None:
    """And the frontend lists what they have, before and after."""
    job = cluster.submit(SCRIPT, "nodes=2,walltime=0:10:0")
    job.wait_output("connect from the frontend:")
    ids = cluster.first_ids(job)
    before = listed(cluster, job)
    assert before["debian-12", "public"] == [list(cluster.nodes)]
    assert before[own, "own"] == [[]]
    cluster.frontend("oar-lxc", "image", "push", own, "--job", str(job.id))
    for node in cluster.nodes:
        path = f"/var/lib/oar-lxc/jobs/{job.id}/private/images/own@1/rootfs.tar.zst"
        assert cluster.on(node, "stat", "-c", "%U", path).stdout.strip() == "alice"
    assert listed(cluster, job) == before | {(own, "own"): [list(cluster.nodes), []]}
    table = cluster.frontend("oar-lxc", "image", "list", "--job", str(job.id)).stdout
    assert re.search(r"^debian-12 +public .* node1,node2$", table, re.MULTILINE), table
    job.delete()
    job.wait_end()
    cluster.assert_nothing_left(job, ids)


def test_users_push_no_public_image(cluster: Cluster, own: str) -> None:
    refused = cluster.frontend("oar-lxc", "image", "push", own, check=False)
    assert refused.status != 0
    assert "pushed by root on the OAR server" in refused.stderr


def test_a_user_builds_an_image_in_a_job(cluster: Cluster) -> None:
    """With the job's ids, which cannot enter her home; and uses it in the same job."""
    script = (
        "set -e; oar-lxc image build built:1 --recipe busybox;"
        f" {SCRIPT} --image built:1 --wait ssh -- hostname"
    )
    cluster.frontend("sh", "-c", f"printf '#!/bin/sh\\n{script}\\n' > build.sh; chmod +x build.sh")
    try:
        job = cluster.submit("./build.sh", "nodes=1,walltime=0:10:0")
        job.wait_end()
        assert "vm1: vm1\n" in job.output(), job.output("stderr")
        owners = ("find", ".local/share/oar-lxc", "!", "-user", "alice")
        assert cluster.frontend(*owners).stdout == ""
        cluster.assert_nothing_left(job, dict.fromkeys(cluster.nodes, 0))
    finally:
        cluster.frontend("oar-lxc", "image", "rm", "built:1", check=False)
        cluster.frontend("rm", "-f", "build.sh")


def test_a_build_that_is_cut_off_leaves_nothing(cluster: Cluster) -> None:
    command = "oar-lxc image build debian-12:cut"
    job = cluster.submit(command, "nodes=1,walltime=0:10:0")
    (ids,) = wait_until("apt runs with the job's ids", lambda: building(cluster, job), 90)
    job.delete()
    job.wait_end()
    node, first = ids
    of_job = ["-uid", f"+{first - 1}", "-uid", f"-{first + 65536}"]
    left = cluster.on(node, "find", "/tmp", "/var/lib/oar-lxc", *of_job).stdout
    assert left == ""
    cluster.assert_nothing_left(job, {node: first})
    assert "cut" not in cluster.frontend("oar-lxc", "image", "list").stdout


def listed(cluster: Cluster, job: SubmittedJob) -> dict[tuple[str, str], list[list[str]]]:
    """Return the nodes that have each image, by its name and whose it is, as a frontend does."""
    text = cluster.frontend("oar-lxc", "image", "list", "--job", str(job.id), "--json").stdout
    found: dict[tuple[str, str], list[list[str]]] = {}
    for one in json.loads(text):
        found.setdefault((one["image"], one["whose"]), []).append(one["nodes"])
    return found


def building(cluster: Cluster, job: SubmittedJob) -> list[tuple[str, int]]:
    """Return node and first id of a job in which apt runs with the ids of the job."""
    found = []
    for node in cluster.nodes:
        path = f"/var/lib/oar-lxc/jobs/{job.id}/job.json"
        text = cluster.on(node, "cat", path, check=False).stdout
        if text:
            first = json.loads(text)["first_id"]
            if cluster.on(node, "pgrep", "-u", str(first), "apt-get", check=False).stdout:
                found.append((node, first))
    return found
