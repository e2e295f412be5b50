"""The Debian package of a node: its upgrade under a job, and its removal, refused and granted."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.linux.run import Result
from oar_lxc.sandbox.cluster import BUNDLE, DEB
from oar_lxc.setup import deb
from tests.e2e.cluster import ENDED, Cluster, SubmittedJob

SCRIPT = "./jobscripts/lxc_job.py"
NEWER = "/root/oar-lxc-newer.deb"
OAR_CONF = "/etc/oar/oar.conf"
NODE = "node2"
VERSION = "99.1"
IMAGES = "/var/lib/oar-lxc/store/images"
RANGES = "/var/lib/oar-lxc/ranges.json"
ASIDE = "/mnt/images"
# What may stay after a removal: the configuration, with what set-up made, and the state.
KEPT = {
    "/etc/csh/cshrc.d/oar-lxc",
    "/etc/logrotate.d/oar-lxc",
    "/etc/oar-lxc",
    "/etc/oar-lxc/oar-lxc.toml",
    "/etc/oar/check.d/oar-lxc",
    "/etc/sysctl.d/60-oar-lxc.conf",
    "/etc/systemd/journald.conf.d/60-oar-lxc.conf",
    "/etc/systemd/system/-.slice.d/60-oar-lxc.conf",
    "/etc/systemd/system/lxcfs.service.d/oar-lxc.conf",
    "/etc/systemd/system/multi-user.target.wants/oar-lxc-network.service",
    "/etc/systemd/system/oar-lxc-network.service",
    "/etc/systemd/system/oar-lxc-reap.service",
    "/etc/systemd/system/oar-lxc-reap.timer",
    "/etc/systemd/system/oar-node.service.d/10-oar-lxc.conf",
    "/etc/systemd/system/timers.target.wants/oar-lxc-reap.timer",
}
# Without what is not the package's own: the sandbox's mount; copies of others' files; what systemd
# and dpkg note of anything. The node's log and locks may be there or not.
FIND = r"""
find /etc /usr /var /run /opt -xdev -path '*oar[-_]lxc*' ! -path /var/lib/oar-lxc \
    ! -name '*.oar-lxc.bak' ! -path '/run/systemd/*' ! -path '/run/oar-lxc*.lock' \
    ! -path '/var/log/oar-lxc.log*' ! -path '/var/lib/dpkg/*' ! -path '/var/lib/systemd/*'
"""
KERNEL = r"""
nft list tables | grep oar_lxc
ip rule | grep -E '^3000[01]:'
ip -o link | grep -E 'olb|olv'
find /sys/fs/cgroup -type d -path '*oar-lxc/*'
systemctl list-units --all --no-legend --plain 'oar-lxc*'
true
"""


def dpkg(cluster: Cluster, *arguments: str) -> Result:
    """Run dpkg on the node."""
    return cluster.on(NODE, "dpkg", *arguments, check=False)


def status(cluster: Cluster) -> str:
    """Return what dpkg says of the package on the node: its state and its version."""
    query = ("-W", "-f", "${db:Status-Status} ${Version}", "oar-lxc")
    return cluster.on(NODE, "dpkg-query", *query, check=False).stdout


def containers(job: SubmittedJob) -> dict[str, tuple[str, int]]:
    """Return node and process id of the inits of a job's containers, by name."""
    text = job.cluster.frontend("oar-lxc", "list", str(job.id), "--json").stdout
    return {each["name"]: (each["node"], each["pid"]) for each in json.loads(text)}


def hostname(job: SubmittedJob, name: str) -> str:
    """Run a command in a container."""
    return job.cluster.frontend("oar-lxc", "exec", f"{job.id}/{name}", "--", "hostname").stdout


@pytest.fixture
def job(cluster: Cluster) -> Iterator[SubmittedJob]:
    """Return a job that runs on all nodes, with a container on each."""
    job = cluster.submit(SCRIPT)
    try:
        job.wait_output("connect from the frontend:")
        yield job
    finally:
        if job.state not in ENDED:
            job.delete()
            job.wait_end()


@pytest.fixture
def newer(cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """Let the node have the package of a newer version as a file; then give it back its own."""
    source = tmp_path / "checkout"
    for name in ("oar_lxc", "hooks", "jobscripts", "docs"):
        shutil.copytree(cluster.sandbox.state.checkout / name, source / name)
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(cluster.sandbox.state.checkout / name, source)
    init = source / "oar_lxc/__init__.py"
    init.write_text(init.read_text().replace('__version__ = "', f'__version__ = "{VERSION}+'))
    machine = cluster.sandbox.machine(NODE)
    machine.write(NEWER, deb.build(tmp_path, source).read_bytes())
    yield NEWER
    cluster.on(NODE, "dpkg", "-i", DEB)
    cluster.on(NODE, "rm", NEWER)


@pytest.fixture
def package(cluster: Cluster) -> Iterator[None]:
    """Give the node the package back, with its set-up."""
    yield
    cluster.on(NODE, "dpkg", "-i", DEB)
    cluster.on(NODE, "oar-lxc", "setup", "node", "--bundle", BUNDLE, "--image", "debian-12")


@pytest.fixture
def state_aside(cluster: Cluster) -> Iterator[None]:
    """Put aside what is to be there again: the images, a mount, and the table of ids."""
    take = f"mkdir {ASIDE}; mount --bind {IMAGES} {ASIDE}; umount {IMAGES}"
    keep = f"if [ -e {RANGES} ]; then cp -a {RANGES} {ASIDE}.json; fi"
    back = f"if [ -e {ASIDE}.json ]; then mv {ASIDE}.json {RANGES}; fi"
    give = f"mkdir -p {IMAGES}; mount --bind {ASIDE} {IMAGES}; umount {ASIDE}; rmdir {ASIDE}"
    cluster.on(NODE, "sh", "-ec", f"{keep}; {take}")
    yield
    cluster.on(NODE, "sh", "-ec", f"{give}; {back}")


def test_an_upgrade_keeps_the_job_that_runs(job: SubmittedJob, newer: str) -> None:
    """Containers go on, the commands reach them, and the new package destroys them."""
    cluster = job.cluster
    before, ids = containers(job), cluster.first_ids(job)
    done = dpkg(cluster, "-i", newer)
    assert done.status == 0, done.stderr
    assert status(cluster).startswith(f"installed {VERSION}+")
    assert containers(job) == before
    assert all(hostname(job, name) == f"{name}\n" for name in before)
    (name,) = (name for name, (node, _) in before.items() if node == NODE)
    assert "RUNNING" in cluster.frontend("oar-lxc", "show", f"{job.id}/{name}").stdout
    assert cluster.left(NODE, job, ids[NODE])
    job.delete()
    job.wait_end()
    cluster.assert_nothing_left(job, ids)


def test_a_removal_is_refused_while_a_job_has_anything(job: SubmittedJob) -> None:
    """The reason names the job; package and containers are what they were."""
    cluster = job.cluster
    before, installed = containers(job), status(cluster)
    verified = dpkg(cluster, "--verify", "oar-lxc").stdout  # the sandbox leaves out manual pages
    for action in ("--remove", "--purge"):
        done = dpkg(cluster, action, "oar-lxc")
        assert done.status == 1
        (said,) = [line for line in done.stderr.splitlines() if line.startswith("oar-lxc: ")]
        assert said.startswith(f"oar-lxc: this node has something of {job.id} (ids of jobs)")
        assert status(cluster) == installed
    assert dpkg(cluster, "--verify", "oar-lxc").stdout == verified
    assert containers(job) == before
    assert all(hostname(job, name) == f"{name}\n" for name in before)


@pytest.fixture
def no_hooks(cluster: Cluster) -> Iterator[None]:
    """Let OAR call neither prologue nor epilogue; the stanza stays."""
    kept = f"{OAR_CONF}.kept"
    cluster.on("server", "cp", "-a", OAR_CONF, kept)
    cluster.on("server", "sed", "-i", "-E", "s/^(PRO|EPI)LOGUE_EXEC_FILE=/#&/", OAR_CONF)
    yield
    cluster.on("server", "mv", kept, OAR_CONF)


@pytest.mark.usefixtures("package", "no_hooks")
def test_what_a_removal_leaves_does_nothing_and_calls_nothing(cluster: Cluster) -> None:
    """Configuration stays; units, node check, the stanza and jobs do without the package."""
    done = dpkg(cluster, "--remove", "oar-lxc")
    assert done.status == 0
    assert re.fullmatch(
        "oar-lxc: OAR suspects this node at its next job, unless .*\n", done.stderr
    )
    assert status(cluster).startswith("config-files ")
    assert set(cluster.on(NODE, "sh", "-c", FIND).stdout.split()) == KEPT
    for unit in ("oar-lxc-reap.service", "oar-lxc-network.service"):
        cluster.on(NODE, "systemctl", "restart", unit)
        assert cluster.on(NODE, "systemctl", "is-failed", unit, check=False).status != 0
    assert cluster.on(NODE, "/etc/oar/check.d/oar-lxc").stderr == ""
    job = cluster.oarsub("-p", f"network_address='{NODE}'", "-l", "core=1", "echo plain")
    assert job.wait_end() == "Terminated"
    assert job.output() == "plain\n"


@pytest.mark.usefixtures("package", "state_aside")
def test_a_purge_leaves_nothing(cluster: Cluster) -> None:
    """Neither files nor units, rules, links and cgroups."""
    done = dpkg(cluster, "--purge", "oar-lxc")
    assert done.status == 0
    assert "mounted" not in done.stderr
    assert dpkg(cluster, "--status", "oar-lxc").status == 1
    everything = re.sub("! -path '/(var/log|run)/oar-lxc[^']*'", "", FIND)
    assert cluster.on(NODE, "sh", "-c", everything).stdout == ""
    assert cluster.on(NODE, "sh", "-c", KERNEL).stdout == ""
    assert cluster.on(NODE, "ls", "-A", "/var/lib/oar-lxc").stdout == ""  # a mount
