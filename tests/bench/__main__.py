"""``python -m tests.bench``: measure, beside the stock tools in the same run. Needs root."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from oar_lxc import image
from tests.bench import hooks
from tests.bench.stock import stock
from tests.bench.timing import Spread, Timing, spreads
from tests.pretend import PYTHON, checkout, ordinary_user, pretend_job

FIRST_JOB = 910000


def measure_ours(job_id: int, user: str, count: int) -> Timing:
    """Run the job script in a pretend job and take the times that a user sees."""
    cpus = Path("/sys/fs/cgroup/cpuset/cpuset.cpus").read_text().strip()
    with pretend_job(job_id, user, cpus) as job:
        script = str(checkout() / "jobscripts/lxc_job.py")
        begin = time.monotonic()
        process = job.start([PYTHON, "-u", script, "--per-node", str(count)])
        with process:
            running = ready = 0.0
            started = 0
            for line in process.stdout or ():
                if re.search(r": started$", line):
                    started += 1
                    if started == count:
                        running = time.monotonic() - begin
                if line.startswith("connect from"):
                    ready = time.monotonic() - begin
                if line.startswith("end the job"):
                    break
            else:
                raise RuntimeError(process.stderr.read() if process.stderr else "no output")
            # What OAR does at oardel: no grace for the script, then the root side.
            process.kill()
            begin = time.monotonic()
            job.destroy()
            destroyed = time.monotonic() - begin
    return Timing(running, ready, destroyed)


def measure_containers(counts: list[int], rounds: int) -> dict[int, dict[str, dict[str, Spread]]]:
    """Measure both ways, round by round in turn, after one round that is not counted."""
    found = {}
    job_id = FIRST_JOB
    with ordinary_user() as user, stock() as peer:
        for count in counts:
            ours, theirs = [], []
            for number in range(rounds + 1):
                job_id += 1
                pair = measure_ours(job_id, user, count), peer.measure(count)
                if number:
                    ours.append(pair[0])
                    theirs.append(pair[1])
            found[count] = {"oar_lxc": spreads(ours), "stock": spreads(theirs)}
    return found


def main() -> None:
    """Measure and print tables, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--counts", default="1,4,16", help="containers per node (1,4,16)")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each (5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("python -m tests.bench: must be run as root")
    image.build("debian-12", say=lambda text: print(text, file=sys.stderr))
    counts = [int(word) for word in options.counts.split(",")]
    paid = hooks.measure(options.rounds * 4)
    empty = hooks.measure_empty(options.rounds * 2)
    containers = measure_containers(counts, options.rounds)
    if options.json:
        print(json.dumps(_data(containers, paid, empty), indent=1))
        return
    _print(containers, paid)
    table = Table("root side on one node, empty job", "seconds", box=None)
    for title, spread in empty.items():
        table.add_row(title, str(spread))
    Console(width=110, highlight=False).print(table)


def _print(
    containers: dict[int, dict[str, dict[str, Spread]]], paid: dict[str, tuple[Spread, Spread]]
) -> None:
    console = Console(width=110, highlight=False)
    console.print(f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs; seconds: ")
    console.print(
        "median (lowest–highest); ratio: stock / oar_lxc, above 1 where oar_lxc is faster"
    )
    table = Table("containers", "until", "oar_lxc", "stock tools", "ratio", box=None)
    for count, ways in containers.items():
        for until, ours in ways["oar_lxc"].items():
            theirs = ways["stock"][until]
            ratio = f"{theirs.median / ours.median:.2f}"
            table.add_row(str(count), until, str(ours), str(theirs), ratio)
    console.print(table)
    table = Table("hook, job without containers", "ours", "exit 0", "more", box=None)
    for title, (ours, theirs) in paid.items():
        more = f"{(ours.median - theirs.median) * 1000:+.1f} ms"
        table.add_row(title, str(ours), str(theirs), more)
    console.print(table)


def _data(
    containers: dict[int, dict[str, dict[str, Spread]]],
    paid: dict[str, tuple[Spread, Spread]],
    empty: dict[str, Spread],
) -> object:
    return {
        "containers": {
            count: {
                way: {k: asdict(s)["values"] for k, s in times.items()} for way, times in x.items()
            }
            for count, x in containers.items()
        },
        "empty": {title: spread.values for title, spread in empty.items()},
        "hooks": {title: {"ours": a.values, "exit 0": b.values} for title, (a, b) in paid.items()},
    }


if __name__ == "__main__":
    main()
