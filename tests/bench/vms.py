"""Debian systems until their sshd answers: one, and sixteen."""

from __future__ import annotations

from tests.bench.figures import Figure
from tests.bench.ours import Launched, launch, our_job
from tests.bench.stock import stock
from tests.bench.timing import Spread, Timing, settle
from tests.pretend import ordinary_user

IMAGE = "debian-12"
FIRST_JOB = 911_000


def measure(rounds: int, *, short: bool = False) -> list[Figure]:
    """Measure the first system, and many at once, round by round beside the stock tools."""
    many = 4 if short else 16
    ours: dict[int, list[Launched]] = {1: [], many: []}
    theirs: dict[int, list[Timing]] = {1: [], many: []}
    job_id = FIRST_JOB
    with ordinary_user() as user, stock() as peer:
        for _ in range(rounds):
            for count in ours:
                job_id += 1
                settle()
                with our_job(job_id, user) as job:
                    launched = launch(job, IMAGE, count)
                    launched.destroy()
                    ours[count].append(launched)
                settle()
                theirs[count].append(peer.measure(count))
    loop = "lxc-copy -s; lxc-start (as root)"
    return [
        Figure(
            "vms",
            "first Debian VM answers ssh",
            "s",
            Spread(tuple(x.ready for x in ours[1])),
            loop,
            Spread(tuple(x.ready for x in theirs[1])),
            "<= 0.08 s more",
        ),
        Figure(
            "vms",
            f"{many} Debian VMs answer ssh",
            "s",
            Spread(tuple(x.ready for x in ours[many])),
            loop,
            Spread(tuple(x.ready for x in theirs[many])),
        ),
        Figure(
            "vms",
            "  CPU",
            "s",
            Spread(tuple(x.cpu for x in ours[many])),
            f"{many} x one",
            Spread(tuple(x.cpu * many for x in ours[1])),
            "ratio >= 0.83",
        ),
    ]
