"""What processes of an older version rely on in the files of a newer one.

A job script goes on with the version that it has loaded, while the package's files become those of
the next one. It starts programs by the names below, with the requests below; and root reads what
the older version has written. Texts here are as a released version writes them: the next version
may write others, but must read these for as long as jobs of the older one can run.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from oar_lxc.agent.ledger import release
from oar_lxc.agent.main import OPERATIONS, read_request
from oar_lxc.linux import isolated
from oar_lxc.model import requests, wire
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.placement import V1
from oar_lxc.model.plan import Plan
from oar_lxc.model.published import PublishedJob
from oar_lxc.root.id_allocation import find_range, find_whose
from oar_lxc.root.main import parser
from oar_lxc.root.record import Record, read_record

# Started by job scripts, by agents, by hooks.
PROGRAMS = (
    "agent.main",
    "agent.attach",
    "agent.forward",
    "remote.fanout",
    "oar.hook",
    "root.main",
)
REQUESTS = {
    "launch": '{"plan": {"job_id": 42, "containers": [{"name": "vm1", "node": "node1", "address":'
    ' "10.0.0.2/21", "image": "debian-12", "group": "vm", "cores": 1, "first_core": 0, "memory":'
    ' 0, "processes": 0, "home": true, "mounts": [{"source": "/scratch", "target": "/scratch",'
    ' "writable": true}], "ports": [{"container": 80, "node": 8080}], "environment": {"A": "b"},'
    ' "ssh_keys": ["ssh-ed25519 AAAA"], "provision": "true", "provision_timeout": 600.0}]},'
    ' "keys": {"client": "k", "authorized": "a"}, "host_keys": {"vm1": "00"}, "names": {"token":'
    ' {"vm1": ["10.0.0.2", "key"]}}, "session": "token", "wait": "ssh", "timeout": 300.0,'
    ' "cores": {"node1": 2}, "variables": {"OAR_JOB_ID": "42"}}',
    "destroy": '{"session": "token", "grace": 10.0}',
    "exec": '{"containers": ["vm1"], "argv": ["hostname"], "stdin": "", "timeout": 5.0}',
    "watch": '{"session": "token"}',
    "release": '{"session": "token"}',
    "list": "{}",
    "stop": '{"containers": ["vm1"], "timeout": 10.0}',
}
RECORD = (
    '{"job_id": 42, "user": "alice", "boot": "b00t.7", "created": 1700000000.5, "first_id":'
    ' 603979776, "oar_cgroup": "/oar/alice_42", "ended": 0.0, "waits": false}\n'
)
PUBLISHED = (
    '{"job_id": 42, "user": "alice", "node": "node1", "nodes": ["node1", "node2"], "state":'
    ' "ready", "reason": "", "first_id": 603979776, "id_count": 65536, "uid": 1000, "gid": 1000,'
    ' "cgroups": ["/sys/fs/cgroup/cpuset/oar/alice_42/lxc"], "bridge": "olb42", "gateway":'
    ' "10.0.0.1", "pool": "10.0.0.0/8", "in_cpuset": true, "namespaces": true, "trees": {"/home":'
    ' "/var/lib/oar-lxc/jobs/42/trees/0"}, "prepared": {"all": 0.08}}\n'
)
LEDGER = (
    '{"next": 1, "sessions": {"token": {"owner": ["node1", "77", "12345"], "containers": [{"name":'
    ' "vm1", "node": "node1", "address": "10.0.0.2/21", "image": "debian-12", "group": "vm",'
    ' "cores": 1, "first_core": 0, "ports": [{"container": 80, "node": 8080}], "host_key":'
    ' "ssh-ed25519 AAAA"}]}}}'
)


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_keep_their_names(name: str) -> None:
    assert callable(import_module(f"oar_lxc.{name}").main)
    assert Path(isolated.__file__).parts[-3:] == ("oar_lxc", "linux", "isolated.py")


@pytest.mark.parametrize("operation", REQUESTS)
def test_requests_of_older_scripts_are_understood(operation: str) -> None:
    assert operation in OPERATIONS
    request = read_request(operation, REQUESTS[operation])
    told = json.loads(REQUESTS[operation])
    if isinstance(request, requests.Launch):
        assert isinstance(request.plan, Plan)
        assert request.plan.containers[0].ports[0].node == 8080
        del told["plan"], told["names"]
    again = json.loads(wire.encode(request))
    assert {key: again[key] for key in told} == told


def test_hooks_keep_their_words() -> None:
    """The stanza is in a file on the server until set-up is run again there."""
    common = ["--job", "42", "--user", "alice", "--cgroup", "/oar/alice_42"]
    nodes = ["--node", "node1", "--nodes", "node1,node2", "--users", "1000-5094"]
    parser().parse_args(["prepare", *common, *nodes, "--job-key", "/key"])
    parser().parse_args(["destroy", *common, "--layer", "stanza"])
    parser().parse_args(["reap", "--ended", "42", "--json"])


def test_root_reads_what_an_older_version_wrote(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    layout = JobLayout(42, tmp_path)
    layout.record.write_text(RECORD)
    record = read_record(layout.record)
    assert record == Record(42, "alice", "b00t.7", 1700000000.5, 603979776, "/oar/alice_42")
    assert record is not None
    assert record.placement == V1
    (tmp_path / "ranges.json").write_text('{"603979776": [1000, 19675]}\n')
    assert find_range(layout, 1000, record) == 603979776
    assert (603979776, 65536) in find_whose(layout, 1000, 0).others


def test_agents_read_what_an_older_version_wrote(tmp_path: Path) -> None:
    published = PublishedJob.from_json(PUBLISHED)
    assert json.loads(published.to_json()) == json.loads(PUBLISHED) | {
        "placement": V1,
        "unit": "",
    }
    assert published.cgroups == ("/sys/fs/cgroup/cpuset/oar/alice_42/lxc",)
    layout = JobLayout(42, tmp_path)
    layout.ledger.parent.mkdir(parents=True)
    layout.ledger.write_text(LEDGER)
    release(layout, "other")
    assert json.loads(layout.ledger.read_text()) == json.loads(LEDGER)
