"""Homes on an NFS server that takes root of this node for nobody."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.linux.run import run
from tests.integration.conftest import left, next_id, published
from tests.integration.jobs import Running, close, start_script
from tests.pretend import pretend_job

SERVED = Path("/srv/homes")  # as the server sees them
USER = "oarlxcnfs"
SPEC = """
wait = "ssh"
[[group]]
name = "vm"
per_node = 2
home = true
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """Return a job with two containers that have their user's home, which only she can enter."""
    SERVED.mkdir()
    run(["systemctl", "start", "nfs-server"], timeout=120)
    run(["exportfs", "-o", "rw,root_squash,no_subtree_check,fsid=1", f"localhost:{SERVED}"])
    run(["mount", "-t", "nfs4", f"localhost:{SERVED}", "/home"], timeout=120)
    try:
        run(["useradd", "-M", "-s", "/bin/bash", USER])
        account = pwd.getpwnam(USER)
        (SERVED / USER).mkdir(mode=0o700)
        os.chown(SERVED / USER, account.pw_uid, account.pw_gid)
        with pretend_job(next_id(), USER, "0-1") as job:
            first_id = published(job).first_id
            (SERVED / USER / "spec.toml").write_text(SPEC)
            running = start_script(job, "--spec", f"/home/{USER}/spec.toml")
            try:
                yield running
            finally:
                close(running.process)
        assert left(job, first_id) == {}
    finally:
        run(["umount", "/home"])
        run(["exportfs", "-u", f"localhost:{SERVED}"])


def as_user(running: Running, line: str) -> str:
    """Run a shell line in a container as the job's user."""
    become = f"setpriv --reuid={USER} --regid={USER} --init-groups"
    return running.inside("vm1", f"{become} sh -c '{line}'")


def test_root_of_the_node_is_kept_out(running: Running) -> None:
    with pytest.raises(PermissionError):
        os.listdir(f"/home/{USER}")


def test_her_files_are_hers_on_both_sides(running: Running) -> None:
    account = pwd.getpwnam(USER)
    as_user(running, f"umask 077; echo inside >/home/{USER}/mine")
    made = (SERVED / USER / "mine").stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (
        account.pw_uid,
        account.pw_gid,
        0o600,
    )
    assert as_user(running, f"cat /home/{USER}/mine") == "inside"


def test_root_inside_gets_nothing_of_them(running: Running) -> None:
    done = running.cli("exec", "vm1", "--", "cat", f"/home/{USER}/mine")
    assert (done.status, done.stdout) == (1, "")
    done = running.cli("exec", "vm1", "--", "touch", f"/home/{USER}/roots")
    assert done.status == 1
    assert not (SERVED / USER / "roots").exists()
