"""Make the users of the sandbox and their homes; frontend and nodes share /home, as over NFS."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from oar_lxc.sandbox.machine import Machine

USERS = {"alice": 2001, "bob": 2002}
JOBSCRIPTS = "jobscripts"
SKELETON = Path("/etc/skel")


def make(homes: Path, jobscripts: Path) -> None:
    """Make the home directories, each with the repository's job scripts.

    Args:
        homes: the directory that will be /home.
        jobscripts: the repository's job scripts; they replace the users' earlier copies.
    """
    for name, uid in USERS.items():
        home = homes / name
        if not home.is_dir():
            home.mkdir(mode=0o755, parents=True)
            for file in SKELETON.iterdir():
                shutil.copyfile(file, home / file.name)
        copy = home / JOBSCRIPTS
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(jobscripts, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (home, *home.glob(".[a-z]*"), copy, *copy.rglob("*")):
            os.chown(path, uid, uid, follow_symlinks=False)


def add_users(machine: Machine) -> None:
    """Add the users to a machine, with the same ids on all machines."""
    for name, uid in USERS.items():
        if machine.run(["id", name], check=False).status != 0:
            machine.run(["groupadd", "-g", str(uid), name])
            identity = ["-u", str(uid), "-g", str(uid), "-d", f"/home/{name}", "-M"]
            machine.run(["useradd", *identity, "-s", "/bin/bash", name])
