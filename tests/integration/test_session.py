"""Containers of a real job: what the kernel says of them, and how they end."""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.linux.run import Result
from oar_lxc.model.layout import BRIDGE_INSIDE, IMAGES, STATE, JobLayout
from oar_lxc.model.published import READY
from tests import kernel
from tests.integration.attacks import in_network
from tests.integration.conftest import (
    IMAGE,
    containers_of,
    left,
    left_of_containers,
    next_id,
    published,
)
from tests.integration.jobs import PROGRAM, Running, close, start_program, start_script
from tests.pretend import PYTHON, PretendJob, checkout, ordinary_user, pretend_job
from tests.unit.fakes.programs import wait_until


@pytest.fixture(scope="module")
def running(user: str) -> Iterator[Running]:
    """Return a job with two containers, for tests that only look."""
    with pretend_job(next_id(), user) as job:
        first_id = published(job).first_id
        running = start_script(job, "--per-node", "2")
        try:
            yield running
        finally:
            close(running.process)
    assert left(job, first_id) == {}


def test_inits_run_inside_the_jobs_cgroups_and_cpus(running: Running) -> None:
    for container in running.containers().values():
        pid = container["pid"]
        cgroups = [line.split(":", 2) for line in kernel.read(f"/proc/{pid}/cgroup").splitlines()]
        cpuset = next(path for _, names, path in cgroups if names == "cpuset")
        assert cpuset.startswith(f"{running.job.cgroup}/lxc/")
        for _, names, path in cgroups:
            if names in ("cpu", "cpuacct", "devices", "freezer"):
                assert path.startswith(f"{running.job.cgroup}/lxc/"), names
        status = kernel.read(f"/proc/{pid}/status")
        assert f"\nCpus_allowed_list:\t{running.job.cpus}\n" in status
        assert container["cpus"] == running.job.cpus
        assert container["cgroup"] == cpuset


def test_inits_run_under_the_jobs_ids(running: Running) -> None:
    first_id = published(running.job).first_id
    for container in running.containers().values():
        status = kernel.read(f"/proc/{container['pid']}/status")
        for kind in ("Uid", "Gid"):
            match = re.search(rf"^{kind}:\t(\d+)\t(\d+)\t(\d+)\t(\d+)$", status, re.MULTILINE)
            assert match is not None
            assert set(match.groups()) == {str(first_id)}
        # All ids are of the job's range, but for the user's own.
        account = pwd.getpwnam(running.job.user)
        for name, own in (("uid_map", account.pw_uid), ("gid_map", account.pw_gid)):
            lines = kernel.read(f"/proc/{container['pid']}/{name}").splitlines()
            assert [tuple(map(int, line.split())) for line in lines] == [
                (0, first_id, own),
                (own, own, 1),
                (own + 1, first_id + own + 1, 65535 - own),
            ]


def test_a_container_counts_the_jobs_cpus(running: Running) -> None:
    assert running.inside("vm1", "nproc") == "1"


def test_containers_are_systems_that_came_up(running: Running) -> None:
    assert running.inside("vm1", "cat /proc/1/comm") == "systemd"
    assert running.inside("vm1", "systemctl --failed --no-legend --plain") == ""
    assert running.inside("vm2", "hostname; cat /etc/hostname").split() == ["vm2", "vm2"]
    assert running.inside("vm1", "stat -c %a / /etc /root").split() == ["755", "755", "700"]


def test_what_one_writes_is_seen_by_no_other_and_not_in_the_image(running: Running) -> None:
    running.inside("vm1", "echo mine > /srv/file; rm /etc/debian_version")
    assert running.inside("vm2", "ls /srv; cat /etc/debian_version").startswith("12")
    rootfs = STATE / IMAGES / IMAGE / "rootfs"
    assert not (rootfs / "srv/file").exists()
    assert (rootfs / "etc/debian_version").exists()
    assert running.inside("vm1", "cat /srv/file; ls /etc/debian_version || true") == "mine"


def test_containers_reach_each_other_by_name(running: Running) -> None:
    assert "1 received" in running.inside("vm1", "ping -c 1 -W 5 vm2")
    address = running.containers()["vm2"]["address"]
    assert running.inside("vm2", "ip -4 -o address show dev eth0").split()[3] == f"{address}/21"


def test_containers_see_only_their_own_processes(running: Running) -> None:
    host = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    inside = running.inside("vm1", "ls /proc | grep -c '^[0-9]'")
    assert int(inside) < len(host)
    assert running.inside("vm1", "ps -e -o comm= | grep -c '^systemd$'") == "1"


@pytest.mark.parametrize(
    ("command", "status"),
    [("true", 0), ("exit 3", 3), ("no-such-command", 127), ("kill -9 $$", 137)],
)
def test_the_status_of_a_command_is_passed_on(running: Running, command: str, status: int) -> None:
    assert running.cli("exec", "vm1", "--", "sh", "-c", command).status == status


def test_a_command_that_does_not_exist_is_named(running: Running) -> None:
    done = running.cli("exec", "vm1", "--", "no-such-command")
    assert done.status == 127
    assert "no-such-command: no such command in vm1" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_container_is_one_sentence(running: Running) -> None:
    done = running.cli("exec", "vm9", "--", "true")
    assert done.status == 1
    assert done.stderr.endswith("has no such container; it has: vm1, vm2\n")


def test_ssh_works_with_the_key_of_the_job_and_checks_the_hosts(running: Running) -> None:
    done = running.cli("ssh", "vm2", "hostname; id -u; exit 5")
    assert (done.status, done.stdout) == (5, "vm2\n0\n")
    assert "Warning" not in done.stderr


def ssh(running: Running, known: str, key: Path) -> Result:
    """Run ssh as a user would without oar-lxc, with its strictest checks."""
    directory = JobLayout(running.job.id).private / "ssh"
    running.job.run(["mkdir", "-p", str(directory)])
    (directory / "known_hosts").write_text(known)
    proxy = running.job.attach_command("connect", "vm1")
    options = {
        "ProxyCommand": shlex.join(proxy),
        "UserKnownHostsFile": str(directory / "known_hosts"),
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "IdentityFile": str(key),
        "IdentitiesOnly": "yes",
    }
    argv = ["ssh", "-F", "/dev/null"]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    return running.job.run([*argv, "root@vm1", "hostname"])


def test_another_host_key_is_refused(running: Running) -> None:
    private = JobLayout(running.job.id).private
    good = running.containers()["vm1"]["host_key"]
    wrong = " ".join((private / "id_ed25519.pub").read_text().split()[:2])
    assert ssh(running, f"vm1 {good}\n", private / "id_ed25519").stdout == "vm1\n"
    refused = ssh(running, f"vm1 {wrong}\n", private / "id_ed25519")
    assert refused.status == 255
    assert "IDENTIFICATION HAS CHANGED" in refused.stderr


def test_another_users_key_is_refused(running: Running) -> None:
    good = running.containers()["vm1"]["host_key"]
    other = JobLayout(running.job.id).private / "ssh/other"
    running.job.run(["mkdir", "-p", str(other.parent)])
    running.job.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)])
    refused = ssh(running, f"vm1 {good}\n", other)
    assert refused.status == 255
    assert "Permission denied" in refused.stderr


def test_another_user_gets_into_no_container(running: Running, other_user: str) -> None:
    become = ["setpriv", "--reuid", other_user, "--regid", other_user, "--init-groups"]
    for arguments in (["attach", "vm1", "true"], ["connect", "vm1"]):
        done = subprocess.run(
            [*become, *running.job.attach_command(*arguments)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(checkout())},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr == (
            f"oar-lxc: job {running.job.id} belongs to {running.job.user}, not to {other_user}\n"
        )


def test_a_bridge_that_a_killed_launch_left_half_made_is_made_anew(job: PretendJob) -> None:
    make = [*in_network(job), "ip", "link", "add", BRIDGE_INSIDE, "type", "bridge"]
    assert job.run(make).status == 0
    assert job.script("--wait", "ssh", "--", "true").status == 0  # the node reaches it


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("pass", 0, ""),
        ("raise ValueError('of the user')", 1, "ValueError: of the user"),
        ("sys.exit(7)", 7, ""),
        ("session.run(['no-such'], containers=['vm9'])", 1, "the session has no such container"),
    ],
)
def test_however_the_block_ends_no_container_is_left(
    job: PretendJob, body: str, status: int, said: str
) -> None:
    process, pids = start_program(job, body)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (status, "after the block\n" if status == 0 else "")
    assert said in err
    assert left_of_containers(job) == []
    assert all(kernel.is_dead(pid) for pid in pids)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGUSR2, 140), (signal.SIGINT, -signal.SIGINT)],
)
@pytest.mark.parametrize("body", ["session.wait()", "session.run(['sleep', '60'])"])
def test_a_signal_ends_the_containers(
    job: PretendJob, number: signal.Signals, status: int, body: str
) -> None:
    process, pids = start_program(job, body)
    time.sleep(0.3)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (status, "")
    assert left_of_containers(job) == []
    assert all(kernel.is_dead(pid) for pid in pids)


def run_in(job: PretendJob, name: str) -> bool:
    """Whether a program of a name runs in a container of a job."""
    first = published(job).first_id
    for pid in kernel.processes():
        status = kernel.read(f"/proc/{pid}/status")
        owner = [int(line.split()[1]) for line in status.splitlines() if line.startswith("Uid:")]
        named = status.startswith(f"Name:\t{name}\n")
        if named and owner and first <= owner[0] < first + kernel.ID_COUNT:
            return True
    return False


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("script", ["lxc_job.py", "one_vm.py", "per_core.py"])
def test_a_job_script_that_a_signal_ends_shows_no_traceback(
    job: PretendJob, script: str, number: signal.Signals, status: int
) -> None:
    """Whether during the launch or after it, to all processes of the terminal as Ctrl-C does."""
    for reached in (lambda: os.listdir(containers_of(job)), lambda: run_in(job, "sshd")):
        arguments = [] if script == "one_vm.py" else ["--" * (script[0] == "l"), "sleep", "60"]
        argv = [PYTHON, str(checkout() / "jobscripts" / script), *filter(None, arguments)]
        process = job.start(argv)
        try:
            assert wait_until(reached, 30)
        finally:
            os.killpg(process.pid, number)
            _, said = process.communicate(timeout=30)
        assert "Traceback" not in said
        assert process.returncode == status
        assert left_of_containers(job) == []


def test_a_signal_during_the_launch_leaves_no_container(job: PretendJob) -> None:
    for delay in (0.3, 0.5, 0.7):
        process = job.start([PYTHON, "-c", PROGRAM.format(body="session.wait()")])
        time.sleep(delay)
        process.terminate()
        process.communicate(timeout=30)
        assert left_of_containers(job) == []


def test_sessions_follow_each_other(job: PretendJob) -> None:
    for _ in range(2):
        process, _ = start_program(job, "pass")
        assert process.communicate(timeout=30)[1] == ""
        assert process.returncode == 0
    assert left_of_containers(job) == []


def files_of(user: str) -> set[str]:
    """Return the files of a user where programs leave some: home, temporary and run-time ones."""
    places = [pwd.getpwnam(user).pw_dir, "/tmp", "/var/tmp", "/dev/shm", "/run"]
    argv = ["find", *places, "-xdev", "-user", user, "-print0"]
    return set(subprocess.run(argv, capture_output=True, text=True).stdout.split("\0"))


def test_a_session_leaves_no_file_outside_of_the_jobs_directory(job: PretendJob) -> None:
    before = files_of(job.user)
    assert job.script("--", "hostname").status == 0
    assert files_of(job.user) == before


def test_outcomes_have_status_and_streams(job: PretendJob) -> None:
    body = (
        "print([(o.status, o.stdout, o.stderr) for o in"
        " session.run(['sh', '-c', 'cat; hostname >&2; exit 3'], stdin='in')]);"
        "print(session.run(['sleep', '60'], ['vm1'], timeout=0.5)[0].status)"
    )
    process, _ = start_program(job, body)
    out, err = process.communicate(timeout=30)
    assert out.splitlines()[:2] == [
        "[(3, 'in', 'vm1\\n'), (3, 'in', 'vm2\\n')]",
        "124",
    ], err


# Asks a container again and again until it answers as it shall; the test's own limit ends it.
ASK = """
    from oar_lxc import OarLxcError
    def ask(argv, well):
        said = ""
        while not well(said):
            try: said = session.run(argv, ["vm1"])[0].stdout
            except OarLxcError as error: said = str(error)
        return said
    session.wait_ready()
"""


def test_containers_that_end_themselves_are_told_of_and_no_obstacle(job: PretendJob) -> None:
    body = ASK + (
        "    session.run(['poweroff'], ['vm1'])\n"
        "    print(ask(['true'], lambda said: 'not RUNNING' in said and 'STOPPED' in said))\n"
    )
    process, _ = start_program(job, body)
    out, err = process.communicate(timeout=60)
    assert "container vm1 on node" in out, err
    assert "it is STOPPED, not RUNNING" in out
    assert process.returncode == 0
    assert left_of_containers(job) == []


def test_a_container_can_be_booted_again_from_inside(job: PretendJob) -> None:
    body = ASK + (
        "    session.run(['touch', '/srv/kept'], ['vm1'])\n"
        "    started = ['cut', '-d', ' ', '-f', '22', '/proc/1/stat']\n"
        "    first = ask(started, lambda said: said.strip().isdigit())\n"
        "    session.run(['reboot'], ['vm1'])\n"
        "    ask(started, lambda said: said.strip().isdigit() and said != first)\n"
        "    print(session.run(['ls', '/srv'], ['vm1'])[0].stdout)\n"
    )
    process, _ = start_program(job, body)
    out, err = process.communicate(timeout=60)
    assert out.startswith("kept\n"), err
    assert left_of_containers(job) == []


def test_an_image_that_does_not_start_is_told_with_the_log(job: PretendJob) -> None:
    broken = STATE / IMAGES / "oar-lxc-test-broken"
    (broken / "rootfs/etc").mkdir(parents=True)
    (broken / "rootfs/proc").touch()  # no place for a mount
    try:
        done = job.script("--image", broken.name, "--per-node", "2")
    finally:
        subprocess.run(["rm", "-rf", str(broken)], check=True)
    assert done.status == 1
    assert done.stderr.startswith("lxc_job.py: launch failed")
    assert re.search(rf"container vm[12] on node {job.node}: .*\n +\S", done.stderr)
    assert "Traceback" not in done.stderr
    assert left_of_containers(job) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--image", "nosuch"), "image nosuch does not exist on this node; images here: "),
        (("--per-node", "3000"), "addresses for containers; container number"),
        (("--", "no-such-command"), "oar-lxc: no-such-command: no such command in vm1"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    job: PretendJob, arguments: tuple[str, ...], sentence: str
) -> None:
    done = job.script(*arguments)
    assert done.status != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert left_of_containers(job) == []


@pytest.mark.parametrize(
    ("name", "size"),
    # Pages of 4 KiB, one a file at least: where the first files, all configurations, or half of
    # what is unpacked fit; where no key, or one of two pairs fits.
    [
        *(("containers", pages) for pages in (4, 8, 64, 120)),
        *(("private", pages) for pages in (4, 8)),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    job: PretendJob, name: str, size: int
) -> None:
    directory = JobLayout(job.id).directory / name
    status = directory.stat()
    options = f"size={size}k,uid={status.st_uid},gid={status.st_gid}"
    options += f",mode={status.st_mode & 0o7777:o}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], check=True)
    done = job.script("--per-node", "8")
    assert done.status == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert "not destroyed" not in done.stdout + done.stderr
    assert os.listdir(containers_of(job)) == []


def test_what_a_user_puts_beside_the_containers_is_no_obstacle(job: PretendJob) -> None:
    job.run(["touch", str(containers_of(job) / "notes")])
    job.run(["mkdir", str(containers_of(job) / "data")])
    job.run(["ln", "-s", "/nowhere", str(containers_of(job) / "link")])
    done = job.script("--wait", "running", "--", "hostname")
    assert (done.status, done.stderr) == (0, "")
    assert "vm1: vm1\n" in done.stdout
    assert "not destroyed" not in done.stdout
    assert not (containers_of(job) / "vm1").exists()


def test_the_timeline_tells_what_each_phase_took(running: Running) -> None:
    phases = json.loads(running.cli("timeline", "--json").stdout)
    assert [phase["phase"] for phase in phases] == ["prepare", "image", "create", "start", "ready"]
    prepare, *rest = phases
    assert {"namespaces", "images", "cgroups", "links"} <= set(prepare["steps"])
    for before, after in zip(phases, rest, strict=False):
        assert before["begin"] + before["seconds"] <= after["begin"] + 0.01
    assert all(phase["seconds"] > 0 for phase in phases)


def test_a_user_whose_name_is_all_digits_has_containers() -> None:
    """Where a program takes names and ids, such a name would be the id of somebody else."""
    with ordinary_user(f"{next_id()}{os.getpid()}") as name, pretend_job(next_id(), name) as job:
        first_id = published(job).first_id
        assert published(job).state == READY, published(job).reason
        done = job.script("--wait", "running", "--", "hostname")
        assert (done.status, done.stdout.splitlines()[-1]) == (0, "vm1: vm1"), done.stderr
    assert left(job, first_id) == {}


REACH = "perl -MIO::Socket::INET -e 'exit !IO::Socket::INET->new(\"$ARGV[0]:22\")'"


def test_a_container_that_reboots_from_inside_is_on_the_network_again(job: PretendJob) -> None:
    """LXC's monitor makes its device anew, in the job's network."""
    running = start_script(job, "--per-node", "2", "--wait", "ssh")
    try:
        before = running.containers()["vm1"]["pid"]
        running.cli("exec", "vm1", "--", "reboot")
        assert wait_until(lambda: running.containers()["vm1"]["pid"] not in (-1, 0, before))
        assert wait_until(
            lambda: running.cli("exec", "vm2", "--", "sh", "-c", f"{REACH} vm1").status == 0
        )
        assert running.inside("vm1", f"{REACH} vm2; echo $?") == "0"
    finally:
        close(running.process)
