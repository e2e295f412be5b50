"""Many small rootless containers: made, started and destroyed, beside the stock loop."""

from __future__ import annotations

from collections.abc import Iterable

from tests.bench.figures import Figure
from tests.bench.loop import stock_job
from tests.bench.ours import launch, our_job
from tests.bench.timing import Spread, settle
from tests.pretend import ordinary_user

ROW = "small"
IMAGE = "busybox"
FIRST_JOB = 910_000


def measure(rounds: int, *, short: bool = False) -> list[Figure]:
    """Measure all ways in turn, round by round."""
    count = 10 if short else 100
    names = [f"s{number}" for number in range(1, count + 1)]
    start: list[float] = []
    cpu: list[float] = []
    hook: list[float] = []
    end: list[float] = []
    loop: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    gone: list[float] = []
    with ordinary_user() as user:
        for number in range(rounds):
            with our_job(FIRST_JOB + 3 * number, user) as job:
                settle()
                first = launch(job, IMAGE, count, "running")
                end.append(first.end())
                settle()
                second = launch(job, IMAGE, count, "running")
                hook.append(second.destroy())
                start += [first.running, second.running]
                cpu += [first.cpu, second.cpu]
            for at_once, found in loop.items():
                settle()
                with stock_job(FIRST_JOB + 3 * number + at_once, user, IMAGE) as stock:
                    found.append(stock.start(names, at_once))
                    if at_once == 1:
                        gone.append(stock.destroy(names))
    each = [seconds * 1000 / count for seconds in cpu]
    plain, parallel = "lxc-copy -s; lxc-start", "the same, xargs -P2"
    work = f"create + start {count} small"
    return [
        Figure(ROW, work, "s", spread(start), plain, spread(s for s, _ in loop[1]), "ratio >= 9"),
        Figure(ROW, work, "s", spread(start), parallel, spread(s for s, _ in loop[2]), "> 1"),
        Figure(
            ROW,
            "  CPU per container",
            "ms",
            spread(each),
            plain,
            spread(c * 1000 / count for _, c in loop[1]),
            "ratio >= 5",
        ),
        Figure(
            ROW,
            f"destroy {count}, verified gone (hook)",
            "s",
            spread(hook),
            "lxc-destroy -f",
            spread(gone),
            "<= 0.25 s",
        ),
        Figure(
            ROW,
            f"destroy {count} (script's end)",
            "s",
            spread(end),
            "lxc-destroy -f",
            spread(gone),
        ),
    ]


def spread(values: Iterable[float]) -> Spread:
    """Return several measurements of one thing."""
    return Spread(tuple(values))
