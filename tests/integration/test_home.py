"""The user's own id, home and files inside containers of a real job, and on the node."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import kernel
from tests.integration.attacks import as_root_inside
from tests.integration.conftest import left, left_of_containers, next_id, published
from tests.integration.jobs import Running, close, start_script, write_spec
from tests.pretend import PretendJob, pretend_job

SPEC = """
wait = "ssh"
[[group]]
name = "vm"
per_node = 2
home = true
mounts = ["/usr/share:/srv/read only"]
"""


@pytest.fixture(scope="module")
def running(user: str) -> Iterator[Running]:
    """Return a job with two containers that have the user's home."""
    with pretend_job(next_id(), user) as job:
        first_id = published(job).first_id
        running = start_script(job, "--spec", write_spec(job, SPEC))
        try:
            yield running
        finally:
            close(running.process)
    assert left(job, first_id) == {}


@pytest.fixture
def home(running: Running) -> Path:
    return Path(pwd.getpwnam(running.job.user).pw_dir)


def as_user(running: Running, line: str, vm: str = "vm1") -> tuple[int, str, str]:
    """Run a shell line in a container as the job's user, by a login over ssh from another."""
    inner = f"ssh -o BatchMode=yes {running.job.user}@{vm} {subprocess.list2cmdline([line])}"
    done = running.cli("exec", "vm2", "--", "sh", "-c", inner)
    return done.status, done.stdout.strip(), done.stderr


def test_the_user_exists_inside_with_id_group_home_and_shell(running: Running) -> None:
    account = pwd.getpwnam(running.job.user)
    found = running.inside("vm1", f"getent passwd {account.pw_name}").split(":")
    assert found[2:4] == [str(account.pw_uid), str(account.pw_gid)]
    assert found[5:] == [account.pw_dir, account.pw_shell]
    assert running.inside("vm1", f"id -gn {account.pw_name}") == account.pw_name
    assert running.inside("vm1", "getent passwd root www-data | wc -l") == "2"


def test_containers_let_each_other_in_without_a_question(running: Running) -> None:
    assert as_user(running, "id -u; pwd")[:2] == (
        0,
        f"{pwd.getpwnam(running.job.user).pw_uid}\n{pwd.getpwnam(running.job.user).pw_dir}",
    )
    ssh = "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes"
    assert running.inside("vm2", f"{ssh} vm1 hostname") == "vm1"
    address = running.containers()["vm1"]["address"]
    assert running.inside("vm2", f"{ssh} {address} hostname") == "vm1"
    become = f"setpriv --reuid={running.job.user} --regid={running.job.user} --init-groups"
    home = pwd.getpwnam(running.job.user).pw_dir
    assert running.inside("vm2", f"HOME={home} {become} {ssh} vm1 id -un") == running.job.user


def test_keys_inside_are_their_owners_alone(running: Running) -> None:
    user = running.job.user
    found = running.inside("vm1", f"cd /etc/ssh/oar-lxc && stat -c '%U %a' root {user}")
    assert found.splitlines() == ["root 600", f"{user} 600"]


def test_her_files_are_hers_on_both_sides(running: Running, home: Path) -> None:
    account = pwd.getpwnam(running.job.user)
    mine = home / "mine"
    mine.write_text("outside")
    os.chown(mine, account.pw_uid, account.pw_gid)
    mine.chmod(0o600)
    assert running.inside("vm1", f"stat -c '%U %G' {mine}; cat {mine}") == (
        f"{account.pw_name} {account.pw_name}\noutside"
    )
    status, _, err = as_user(running, f"echo inside > {home}/theirs && echo more >> {mine}")
    assert status == 0, err
    made = (home / "theirs").stat()
    assert (made.st_uid, made.st_gid) == (account.pw_uid, account.pw_gid)
    assert (home / "theirs").read_text() == "inside\n"
    assert mine.read_text() == "outsidemore\n"


def test_root_inside_leaves_no_file_of_its_own_in_her_home(running: Running, home: Path) -> None:
    for line in (
        "touch {}/roots",
        "mkdir {}/roots",
        "ln -s x {}/roots",
        "cp /etc/passwd {}/roots",
    ):
        done = running.cli("exec", "vm1", "--", "sh", "-c", line.format(home))
        assert done.status != 0
        assert "too large" in done.stderr  # EOVERFLOW: no id in the home is root's
    (home / "given").touch()
    account = pwd.getpwnam(running.job.user)
    os.chown(home / "given", account.pw_uid, account.pw_gid)
    for owner in ("0", "33", "65534"):
        assert running.cli("exec", "vm1", "--", "chown", owner, f"{home}/given").status != 0
    foreign = [p for p in home.rglob("*") if p.lstat().st_uid >= kernel.FIRST_ID]
    assert foreign == []
    assert not os.path.lexists(home / "roots")


def test_nobody_elses_private_files_can_be_read_or_changed(
    running: Running, other_user: str
) -> None:
    account = pwd.getpwnam(other_user)
    theirs = Path(account.pw_dir)
    tree = published(running.job).trees["/home"]
    secret = theirs / "secret"
    secret.write_text("secret")
    os.chown(secret, account.pw_uid, account.pw_gid)
    secret.chmod(0o600)
    theirs.chmod(0o755)
    seen = f"{tree}/{theirs.name}/secret"
    # Outside, through the job's own mount; as root of the job's ids, too.
    assert running.job.run(["cat", seen]).status != 0
    ids = running.job.run([*as_root_inside(running.job), "cat", seen])
    assert "Permission denied" in ids.stderr
    # Inside: only the user's own home is there.
    assert running.cli("exec", "vm1", "--", "ls", str(theirs)).status != 0


def test_what_is_read_only_is_seen_and_not_written_to(running: Running) -> None:
    assert "doc" in running.inside("vm1", "ls '/srv/read only'").split()
    done = running.cli("exec", "vm1", "--", "touch", "/srv/read only/x")
    assert "Read-only file system" in done.stderr


def test_trees_have_no_set_user_id_and_no_devices(running: Running) -> None:
    tree = published(running.job).trees["/home"]
    (line,) = (x for x in kernel.read("/proc/self/mounts").split("\n") if f" {tree} " in x)
    options = line.split(" ")[3].split(",")
    assert {"rw", "nosuid", "nodev", "idmapped"} <= set(options)
    inside = running.inside(
        "vm1", f"findmnt -n -o OPTIONS -T {pwd.getpwnam(running.job.user).pw_dir}"
    )
    assert {"nosuid", "nodev"} <= set(inside.split(","))


def test_without_the_home_she_has_an_empty_one_of_her_own(job: PretendJob) -> None:
    account = pwd.getpwnam(job.user)
    running = start_script(job, "--per-node", "1")
    try:
        look = f"stat -c '%U %a' {account.pw_dir}; ls -A {account.pw_dir}; stat -c %a /home /etc"
        assert running.inside("vm1", look).split() == [job.user, "700", "755", "755"]
        # What she makes inside is under her own id outside, and goes all the same.
        running.inside("vm1", f"chown {job.user} /srv; install -o {job.user} -d /srv/a/b /srv/c")
    finally:
        running.process.terminate()
        running.process.communicate(timeout=30)
    assert left_of_containers(job) == []


@pytest.mark.parametrize(
    ("mount", "sentence"),
    [
        ('"/nonexistent/data"', "mount /nonexistent/data does not exist"),
        ('"/root"', "mount /root cannot be read by "),
        ('"/usr/share:/srv:rw"', "mount /usr/share cannot be writable: it is not below"),
        ('"/home:/srv:rw"', "mount /home cannot be written to by "),
        (
            '"/usr/share:/data", "/etc:/data/no/such"',
            "group vm: mount /etc: its target /data/no/such cannot be made in what is mounted at "
            "/data: make /usr/share/no/such on the node first, or choose another target",
        ),
    ],
)
def test_what_may_not_be_mounted_is_one_sentence_and_nothing_starts(
    job: PretendJob, mount: str, sentence: str
) -> None:
    spec = write_spec(job, f'[[group]]\nname = "vm"\nper_node = 1\nmounts = [{mount}]\n')
    done = job.script("--spec", spec)
    assert done.status == 1
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert left_of_containers(job) == []


def test_a_job_is_destroyed_with_its_trees_and_nothing_of_the_home_is_touched(
    make_job: Callable[[], PretendJob],
) -> None:
    job = make_job()
    home = Path(pwd.getpwnam(job.user).pw_dir)
    (home / "kept").write_text("kept")
    below = home / "mount"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(below)], check=True)
    try:
        (below / "file").touch()
        other = make_job()
        assert Path(published(other).trees["/home"], home.name, "mount/file").exists()
        running = start_script(job, "--spec", write_spec(job, SPEC))
        for one in (job, other):
            assert one.destroy().status == 0
        close(running.process)
        assert (below / "file").exists()  # still mounted: what was unmounted was the job's
        assert (home / "kept").read_text() == "kept"
    finally:
        subprocess.run(["umount", str(below)], check=True)
