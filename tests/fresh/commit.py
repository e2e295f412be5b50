"""The last commit of a checkout, for a machine that shall have nothing else of it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from oar_lxc.linux.run import run
from oar_lxc.sandbox.report import Report

# Where root's first `git clone` puts it. In two parts: no file names the place that it lies in.
PLACE = "/root" + "/oar_lxc"


def copy_commit(checkout: Path, target: Path, report: Report) -> None:
    """Make a repository that has the last commit of a checkout, and can be cloned.

    Args:
        checkout: the checkout.
        target: where the repository is made.
        report: is told which commit it is, and whether the checkout has something else.
    """
    with tempfile.NamedTemporaryFile("w", prefix="oar-lxc-fresh.") as config:
        # The checkout may be somebody else's, and git asks root whether that is meant.
        config.write("[safe]\n\tdirectory = *\n")
        config.flush()
        env = os.environ | {"GIT_CONFIG_GLOBAL": config.name}
        run(["git", "clone", "-q", "--bare", "--depth=1", checkout.as_uri(), str(target)], env=env)
        status = ["git", "-C", str(checkout), "status", "--porcelain"]
        changed = run(status, env=env).stdout.splitlines()
        commit = run(["git", "-C", str(target), "log", "-1", "--format=%h %s"], env=env)
    report.line(f"the clone is of {commit.stdout.strip()}")
    if changed:
        report.line(
            f"{len(changed)} files of this checkout differ from it: commit what shall be tried"
        )
