"""Stands in the place of ``oar-lxc-node`` on a node, runs the same code, and does one thing wrong.

A file ``plan.json`` says what. It happens once: the file ``fired`` tells that it did,
and from then on this is ``oar-lxc-node``.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path("/root/oar-lxc-matrix")  # on a node, where this is mounted from
NAMESPACES = ("kill maker", "no user namespaces", "no net namespaces")


def is_meant(plan: dict[str, object], argv: list[str]) -> bool:
    """Whether this call is the one in which it happens."""
    options = dict(itertools.pairwise(argv))
    return (
        argv[:1] == [plan["command"]]
        and options.get("--user") == plan["user"]
        and options.get("--job") not in plan["not_jobs"]  # type: ignore[operator]
        and plan.get("layer") in (None, options.get("--layer"))
        and not (HERE / "fired").exists()
    )


def fire(plan: dict[str, object]) -> None:
    """Do it, unless another call did."""
    try:
        file = os.open(HERE / "fired", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return
    os.write(file, f"{os.getpid()}".encode())
    os.fsync(file)
    if plan["act"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(plan["seconds"]))  # type: ignore[arg-type]


def patch(plan: dict[str, object]) -> None:
    """Let it happen when a step has ended."""
    from oar_lxc.linux.node_log import NodeLog

    step = NodeLog.step

    @contextmanager
    def stepped(self: NodeLog, name: str) -> Iterator[None]:
        with step(self, name):
            yield
        if name == plan["step"]:
            fire(plan)

    NodeLog.step = stepped  # type: ignore[method-assign, assignment]


def spoil(plan: dict[str, object]) -> None:
    """Let it happen when a prepare makes a job's namespaces."""
    from oar_lxc.linux.run import kill_children
    from oar_lxc.linux.setns import NEW_USER, unshare
    from oar_lxc.model.idmap import map_text
    from oar_lxc.root import job_namespaces

    make = job_namespaces.make

    def spoilt(*arguments: Any) -> None:
        fire(plan)
        make(*arguments)

    def kill_once(extents: Any) -> str:
        kill_children()
        job_namespaces.map_text = map_text  # type: ignore[attr-defined]
        return map_text(extents)

    def get_none(kinds: int) -> None:
        # In a user namespace that gives none: the kernel's own word.
        kind = str(plan["act"]).split()[1]
        unshare(NEW_USER)
        Path(f"/proc/sys/user/max_{kind}_namespaces").write_text("0")
        unshare(kinds if kind == "user" else kinds - NEW_USER)

    job_namespaces.make = spoilt  # type: ignore[assignment]
    if plan["act"] == "kill maker":
        job_namespaces.map_text = kill_once  # type: ignore[attr-defined]
    else:
        job_namespaces.unshare = get_none  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.path.append("/usr/lib/python3/dist-packages")
    wanted: dict[str, object] = json.loads((HERE / "plan.json").read_text())
    if is_meant(wanted, sys.argv[1:]):
        if wanted["act"] in NAMESPACES:
            spoil(wanted)
        elif wanted["step"]:
            patch(wanted)
        else:
            fire(wanted)
    from oar_lxc.root.main import main

    main()
