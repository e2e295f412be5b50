"""Destroy what dead jobs left on this node, and note what cannot be destroyed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from oar_lxc.errors import OarLxcError, printable
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.node_log import NodeLog
from oar_lxc.linux.removal import remove_tree
from oar_lxc.linux.run import run
from oar_lxc.model.layout import RECORDS, TRASH, JobLayout
from oar_lxc.model.reaped import DESTROYED, FAILED, LEFT_ALONE, WOULD_DESTROY, Reaped
from oar_lxc.oar.paths import NODE_CHECK
from oar_lxc.root.account import job_uid
from oar_lxc.root.destroy import REAPER, Destruction
from oar_lxc.root.files import forget, write_anyway
from oar_lxc.root.liveness import Finding, Judge
from oar_lxc.root.standstill import resume_stopped
from oar_lxc.root.trash import list_trash

STUCK = "stuck"  # file below the state directory for the node check: what is not destroyed
TRASH_TIMEOUT = 1800.0  # seconds for one directory; the next run continues


def preview(judge: Judge) -> Iterator[Reaped]:
    """Yield what :func:`reap` would do; change nothing."""
    for found in judge.find_jobs():
        action = WOULD_DESTROY if found.dead else LEFT_ALONE
        yield Reaped(found.job_id, found.user, action, found.why)


def reap(judge: Judge, log: NodeLog, time_each: float) -> Iterator[Reaped]:
    """Destroy the dead jobs one after the other, and yield each result when it is there.

    Args:
        judge: tells which jobs are dead.
        log: the node's log.
        time_each: seconds for one job.
    """
    with suppress(OSError):
        resume_stopped(log)
    stuck = []
    for found in judge.find_jobs():
        if not found.dead:
            yield Reaped(found.job_id, found.user, LEFT_ALONE, found.why)
            continue
        done, fails = _destroy(judge, found, log.bind(job=found.job_id), time_each)
        if fails:
            stuck.append(done)
        yield done
    rest: tuple[tuple[str, Callable[[], None]], ...] = (
        ("trash", lambda: _empty_trash(judge, log)),
        ("half written", lambda: _forget_half_written(judge)),
        ("report", lambda: _report(judge.state / STUCK, stuck)),
    )
    for name, act in rest:
        with suppress(OSError, OarLxcError), log.step(name):
            act()


def _destroy(judge: Judge, found: Finding, log: NodeLog, seconds: float) -> tuple[Reaped, bool]:
    """Destroy a job; return the result, and whether the node must get no other jobs."""
    log.write("reap", why=found.why)
    layout = JobLayout(found.job_id, judge.state)
    uid = job_uid(layout, found.user)
    destruction = Destruction(layout, found.user, uid, layer=REAPER, whole=True)
    done = Reaped(found.job_id, found.user, DESTROYED, found.why)
    try:
        left = destruction.run(log, Deadline.after(seconds))
    except (OarLxcError, OSError) as error:  # go on with the other jobs
        return replace(done, action=FAILED, left=printable(str(error))), True
    return replace(done, action=FAILED, left=str(left)) if left else done, left.fails


def _empty_trash(judge: Judge, log: NodeLog) -> None:
    for path in list_trash(judge.state / TRASH):
        with suppress(OarLxcError), log.step(f"trash {path.name}"):
            remove_tree(path, TRASH_TIMEOUT)


def _forget_half_written(judge: Judge) -> None:
    """Remove half-written records, which killed writers left behind."""
    for path in (judge.state / RECORDS).glob(".*.json.oar-lxc"):
        with suppress(FileNotFoundError):
            if abs(time.time() - path.lstat().st_mtime) >= judge.grace:
                forget(path)


def _report(path: Path, stuck: list[Reaped]) -> None:
    """Write the file of what could not be destroyed, and run OAR's node check, which reads it."""
    if stuck:
        write_anyway(path, "".join(f"{one}\n" for one in stuck), 0o644)
    else:
        forget(path)
    if NODE_CHECK.exists():
        with suppress(OarLxcError):
            run([str(NODE_CHECK)], timeout=10)
