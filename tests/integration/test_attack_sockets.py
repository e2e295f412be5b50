"""Another user takes the names at which LXC would listen for commands to containers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.conftest import containers_of, left_of_containers
from tests.integration.jobs import close, start_script
from tests.pretend import PYTHON, PretendJob

# The names of abstract sockets are one space for all users of a network namespace: it takes those
# that can be foreseen in the node's, and for ever those that it could learn of there. LXC listens
# in the job's.
_SQUATTER = """
import pathlib, re, socket, sys, time
containers, held = sys.argv[1], {}

def take(path):
    name = "\\0" + path
    if name not in held:
        try:
            one = socket.socket(socket.AF_UNIX)
            one.bind(name)
            one.listen()
            held[name] = one
        except OSError:
            pass

seen = {f"{containers}/{name}/command" for name in ("vm1", "vm2")}
for path in seen:
    take(path)
print("ready", flush=True)
while True:
    text = pathlib.Path("/proc/net/unix").read_text()
    for path in re.findall(r"@(\\S+/command)$", text, re.MULTILINE):
        if path.startswith(containers):
            seen |= {path, re.sub(r"vm\\d", "vm1", path), re.sub(r"vm\\d", "vm2", path)}
    for path in seen:
        take(path)
    time.sleep(0.01)
"""


@pytest.fixture
def _squatter(job: PretendJob, other_user: str) -> Iterator[None]:
    become = ["setpriv", "--reuid", other_user, "--regid", other_user, "--init-groups"]
    argv = [*become, PYTHON, "-c", _SQUATTER, str(containers_of(job))]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
            assert process.poll() is None
        finally:
            process.kill()


@pytest.mark.usefixtures("_squatter")
def test_containers_start_whatever_names_another_user_has_taken(job: PretendJob) -> None:
    for _ in range(2):
        running = start_script(job, "--per-node", "2", "--wait", "running")
        try:
            for action in ("restart", "stop", "start"):
                done = running.cli(action, "vm1", "vm2")
                assert (done.status, done.stderr) == (0, ""), action
            found = running.containers()
            assert {name: one["state"] for name, one in found.items()} == {
                "vm1": "RUNNING",
                "vm2": "RUNNING",
            }
            assert running.inside("vm2", "hostname") == "vm2"
        finally:
            running.process.terminate()
            running.process.wait(30)
            close(running.process)
        assert left_of_containers(job) == []


def test_a_name_too_long_for_an_address_is_found_all_the_same(job: PretendJob) -> None:
    program = (
        "from oar_lxc import Group, Session\n"
        f"with Session(Group(name='{'x' * 32}')) as session:\n"
        "    print(session.run(['hostname'])[0].stdout, end='')\n"
        "    session.stop()\n"
    )
    done = job.run([PYTHON, "-c", program])
    assert (done.status, done.stdout) == (0, "x" * 32 + "1\n"), done.stderr
    assert left_of_containers(job) == []
