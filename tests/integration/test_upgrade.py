"""A job that runs while another version of the package takes the place of its own, on real LXC.

The other version has the same modules, none of which lets itself be loaded beside those of the
first: what a process has not loaded before, it cannot load any more.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oar_lxc.linux.run import Result, run
from oar_lxc.model.layout import JobLayout
from tests import kernel
from tests.integration.attacks import assert_gone
from tests.integration.conftest import left_of_containers, published
from tests.pretend import PYTHON, PretendJob, checkout

FUTURE = "from __future__ import annotations\n"
CHECK = 'import oar_lxc\nassert oar_lxc.__version__ == "99", "modules of two versions"\n'
# These run without the package, or before it is found.
PROGRAMS = ("__init__.py", "linux/isolated.py", "container/starter.py")

SCRIPT = """
import sys
from oar_lxc import Group, Session
def tell(node, event):
    print(event.kind, event.container, flush=True)
with Session(Group(per_node=2), wait=sys.argv[1], on_progress=tell) as session:
    print("up", flush=True)
    sys.stdin.readline()
    outcomes = session.run(["cat", "/etc/hostname"])
    print(*(outcome.stdout.strip() for outcome in outcomes), flush=True)
    with Session(Group(name="late"), on_progress=tell) as second:
        print(second.containers[0].name, flush=True)
print("over", flush=True)
"""

WATCH = """
from oar_lxc import Group, Session
def tell(node, event):
    print(event.kind, event.container, flush=True)
with Session(Group(per_node=2), on_progress=tell) as session:
    print("up", flush=True)
    session.wait()
"""


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a directory of which users read the package."""
    place = Path(tmp_path_factory.mktemp("version"))
    for parent in (place, *place.parents[:2]):
        parent.chmod(parent.stat().st_mode | 0o055)
    shutil.copytree(checkout() / "oar_lxc", place / "oar_lxc")
    yield place
    shutil.rmtree(place)  # each destroy looks through /tmp


def upgrade(place: Path) -> None:
    """Replace each file of the package, as a package manager does."""
    package = place / "oar_lxc"
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        text = path.read_text()
        if name == "__init__.py":
            text = text.replace("__version__ = ", '__version__ = "99"  # ')
        elif name not in PROGRAMS:
            text = text.replace(FUTURE, FUTURE + CHECK)
        new = path.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o644)
        new.rename(path)
    for cache in [*package.rglob("__pycache__")]:
        shutil.rmtree(cache)


@contextmanager
def running(
    job: PretendJob, place: Path, script: str = SCRIPT, wait: str = "running"
) -> Iterator[subprocess.Popen[str]]:
    """Run a script with the package as it is now; kill it at the end of the block."""
    environ = {**job.environ(), "PYTHONPATH": str(place)}
    process = job.start([PYTHON, "-c", script, wait], environ, stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def cli(job: PretendJob, place: Path, *arguments: str) -> Result:
    """Run ``oar-lxc`` of what the package is now."""
    environ = {**job.environ(), "PYTHONPATH": str(place)}
    process = job.start([PYTHON, "-m", "oar_lxc.cli.main", *arguments], environ)
    out, err = process.communicate(timeout=60)
    return Result(arguments, process.returncode, out, err)


def read_until(process: subprocess.Popen[str], line: str) -> list[str]:
    """Read what a script writes up to a line."""
    lines: list[str] = []
    assert process.stdout is not None
    for one in process.stdout:
        lines.append(one.strip())
        if lines[-1] == line:
            return lines
    raise AssertionError((lines, process.communicate()[1]))


def test_a_job_keeps_working_when_the_package_is_upgraded(
    make_job: Callable[[], PretendJob], place: Path
) -> None:
    job = make_job()
    with running(job, place) as process:
        read_until(process, "up")
        upgrade(place)
        assert "99" in cli(job, place, "--version").stdout
        listed = cli(job, place, "list")
        assert listed.status == 0, listed.stderr
        assert "vm2" in listed.stdout
        assert cli(job, place, "exec", "vm2", "--", "cat", "/etc/hostname").stdout == "vm2\n"
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        read_until(process, "vm1 vm2")
        lines = read_until(process, "late1")  # a session within: its agents are the new version's
        assert "started late1" in lines
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")
        assert out.endswith("gone vm2\nover\n")
    assert left_of_containers(job) == []


def test_who_watches_the_containers_goes_on_watching(
    make_job: Callable[[], PretendJob], place: Path
) -> None:
    job = make_job()
    with running(job, place, WATCH) as process:
        read_until(process, "up")
        assert cli(job, place, "stop", "--timeout", "0", "vm2").status == 0
        read_until(process, "stopped vm2")
        upgrade(place)
        assert cli(job, place, "stop", "--timeout", "0", "vm1").status == 0
        read_until(process, "stopped vm1")
        process.terminate()
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (128 + 15, "gone vm1\ngone vm2\n", "")
    assert left_of_containers(job) == []


def test_a_job_that_waits_in_its_launch_gets_through_an_upgrade(
    make_job: Callable[[], PretendJob], place: Path
) -> None:
    job = make_job()
    with running(job, place, wait="test -e /go") as process:
        read_until(process, "started vm2")
        upgrade(place)
        for name in ("vm1", "vm2"):
            assert cli(job, place, "exec", name, "--", "touch", "/go").status == 0
        read_until(process, "up")
        out, err = process.communicate("\n", timeout=60)
        assert (process.returncode, err) == (0, "")
        assert out.endswith("over\n")
    assert left_of_containers(job) == []


def test_the_new_version_destroys_what_the_old_one_left(
    make_job: Callable[[], PretendJob], place: Path
) -> None:
    job = make_job()
    with running(job, place) as process:
        read_until(process, "up")
        upgrade(place)
        process.kill()
        process.communicate()
        command = place / "oar-lxc-node"
        command.write_text(
            (checkout() / "oar-lxc-node").read_text().replace(str(checkout()), str(place))
        )
        argv = [PYTHON, "-IS", str(command), "destroy", "--job", str(job.id), "--user", job.user]
        assert run([*argv, "--cgroup", job.cgroup]).stderr == ""


VETH = "link add vetholder0 type veth peer name vetholder1 netns {pid}\n"
VETH += "link set vetholder0 master olb{job} up\n"


def as_by_version_0_1(job: PretendJob) -> subprocess.Popen[str]:
    """Make a prepared job what version 0.1 made; return a container's init of its."""
    layout, first_id = JobLayout(job.id), published(job).first_id
    inside = ["unshare", "--net", "--user", "sh", "-c", "echo; exec sleep 600"]
    become = ["setpriv", f"--reuid={first_id}", f"--regid={first_id}", "--clear-groups", "--"]
    init = subprocess.Popen([*become, *inside], stdout=subprocess.PIPE, text=True)
    assert init.stdout is not None
    assert init.stdout.readline() == "\n"
    for path in (layout.user_namespace, layout.network_namespace):
        run(["umount", str(path)])
    shutil.rmtree(layout.namespaces)
    run(["ip", "link", "del", layout.uplink], check=False)  # it went with its namespace
    run(["ip", "-batch", "-"], input=VETH.format(pid=init.pid, job=job.id))
    data = json.loads(layout.published.read_text())
    del data["namespaces"]
    layout.published.write_text(json.dumps(data))
    return init


def test_a_job_that_version_0_1_prepared_is_destroyed(job: PretendJob) -> None:
    with as_by_version_0_1(job) as init:
        assert kernel.find_links(job.id, job.user, 0) == [f"olb{job.id}", "vetholder0"]
        assert_gone(job)
        assert init.wait(5) == -9


def test_a_job_that_version_0_1_prepared_is_told_to_be_submitted_again(job: PretendJob) -> None:
    with as_by_version_0_1(job):
        done = job.script("--", "true")
        assert done.status == 1
        assert done.stderr == (
            f"lxc_job.py: node {job.node} was prepared for job {job.id} by an older version of "
            "oar-lxc, which was upgraded since: submit the job again\n"
        )
        assert_gone(job)
