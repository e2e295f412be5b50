"""``python -m tests.bench``: measure, beside the stock tools in the same run. Needs root."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from oar_lxc.image.building import build
from tests.bench import (
    engines,
    fanout,
    hooks,
    importing,
    many,
    nodes,
    reach,
    small,
    tcp,
    vms,
)
from tests.bench.figures import Figure, machine, show

# Row → what measures it. Each is called with the rounds, and whether it shall be short.
ROWS: dict[str, Callable[..., list[Figure]]] = {
    "small": small.measure,
    "engines": engines.measure,
    "vms": vms.measure,
    "hooks": hooks.measure,
    "empty": hooks.measure_empty,
    "many": many.measure,
    "fanout": fanout.measure,
    "nodes": nodes.measure,
    "reach": reach.measure,
    "tcp": tcp.measure,
    "import": importing.measure,
}


def main() -> None:
    """Measure row by row, and print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"what to measure (all): {', '.join(ROWS)}"
    )
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each (5)")
    parser.add_argument("--short", action="store_true", help="one round, with few containers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there as JSON")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are: {', '.join(ROWS)}")
    # What was made is taken down, also where this is told to end.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if os.geteuid() != 0:
        sys.exit("python -m tests.bench: must be run as root")
    for name in ("busybox", "debian-12"):
        build(name, say=lambda text: print(text, file=sys.stderr))
    head = machine()
    figures: list[Figure] = []
    for row in options.rows or ROWS:
        print(f"measuring {row}", file=sys.stderr, flush=True)
        figures += ROWS[row](1 if options.short else options.rounds, short=options.short)
    show(figures, head)
    if options.json:
        data = {"machine": head, "figures": [figure.to_data() for figure in figures]}
        options.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
