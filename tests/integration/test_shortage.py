"""What users can use up is refused to a job, and is no fault of the node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.linux.run import Result, run
from oar_lxc.model.layout import CONFIG, JobLayout
from tests.integration.conftest import left, published
from tests.integration.nodes import instead, oar_cgroups
from tests.pretend import CGROUPS, PYTHON, PretendJob, checkout


@pytest.fixture
def few(unprepared: PretendJob) -> Iterator[Path]:
    """Return a cgroup that allows for few processes."""
    path = CGROUPS / "pids" / f"oar-lxc-test-{unprepared.id}"
    path.mkdir()
    yield path
    end = time.monotonic() + 30
    while path.exists():
        try:
            path.rmdir()
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.01)


def prepare_with(job: PretendJob, few: Path, processes: int) -> Result:
    """Prepare for a job where there can be so many processes and threads, as with a full table."""
    (few / "pids.max").write_text(str(processes))
    script = f'echo $$ >{few}/cgroup.procs; exec "$@"'
    argv = ["sh", "-c", script, "sh", PYTHON, "-IS", str(checkout() / "oar-lxc-node"), "prepare"]
    argv += ["--job", str(job.id), "--user", job.user, "--cgroup", job.cgroup]
    return run([*argv, "--node", job.node, "--nodes", job.node], check=False)


def test_where_there_can_be_no_more_processes_the_job_is_refused(
    unprepared: PretendJob, few: Path
) -> None:
    done = prepare_with(unprepared, few, 1)
    assert done.status == 0, done.stderr
    refused = published(unprepared)
    assert refused.state == "refused"
    assert "has no more of what its users share" in refused.reason
    assert "Resource temporarily unavailable" in refused.reason
    assert JobLayout(unprepared.id).record.exists()
    assert unprepared.destroy().status == 0
    assert left(unprepared, 0) == {"cgroups": oar_cgroups(unprepared)}


def test_where_there_is_room_for_one_more_process_a_job_is_prepared(
    unprepared: PretendJob, few: Path
) -> None:
    """Nothing that root starts starts others, which would fail in ways of their own."""
    done = prepare_with(unprepared, few, 2)
    assert done.status == 0, done.stderr
    assert published(unprepared).state == "ready"


DESCRIPTION = """{{
  job_id => {id}, user => '{user}', name => '{user}_{id}', cpuset_path => '/oar',
  types => {{ lxc => 1 }}, nodes => {{ {node} => [0] }}, ssh_keys => {{}},
}}
"""
ALONE = ("unshare", "--mount", "--propagation", "private", "sh", "-c")


def test_a_stanza_that_can_start_nothing_leaves_the_node_in_service(
    unprepared: PretendJob, few: Path, tmp_path: Path
) -> None:
    (few / "pids.max").write_text("1")
    told = DESCRIPTION.format(id=unprepared.id, user=unprepared.user, node=unprepared.node)
    script = (
        "mount -t tmpfs none /usr/sbin; ln -s /bin/true /usr/sbin/oar-lxc-node; "
        f'echo $$ >{few}/cgroup.procs; exec "$@"'
    )
    stanza = tmp_path / "stanza.pl"
    stanza.write_text((checkout() / "hooks/job_resource_manager_stanza.pl").read_text() + "\n1;\n")
    for action, status in (("init", 0), ("clean", 127)):
        done = run([*ALONE, script, "sh", "perl", str(stanza), action], input=told, check=False)
        assert (done.status, "Resource temporarily unavailable" in done.stderr) == (status, True)


def test_a_prologue_that_can_start_nothing_leaves_the_node_in_service(
    unprepared: PretendJob, few: Path, tmp_path: Path
) -> None:
    (few / "pids.max").write_text("1")
    nodefile = tmp_path / "nodes"
    nodefile.write_text(f"{unprepared.node}\n")
    CONFIG.parent.mkdir(exist_ok=True)
    with instead(CONFIG, "missing"):
        CONFIG.write_text('[hooks]\nprepare = "prologue"\n')
        script = f'echo $$ >{few}/cgroup.procs; exec "$@"'
        argv = ["sh", "-c", script, "sh", PYTHON, "-m", "oar_lxc.oar.hook", "prologue"]
        argv += [str(unprepared.id), unprepared.user, str(nodefile)]
        done = run(argv, check=False, cwd=str(checkout()))
    assert done.status == 0, done.stderr
    assert "Resource temporarily unavailable" in done.stderr
