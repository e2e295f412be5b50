"""``python -m tests.matrix``: what goes wrong, who cleans up, what is left."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from oar_lxc.sandbox.cluster import Sandbox
from tests.e2e.conftest import bring_up, here
from tests.matrix import table
from tests.matrix.registry import ALL_SETUPS, DEFAULT_SETUPS, Fault, load
from tests.matrix.runner import Runner, interruptible, say, world_of
from tests.matrix.table import Result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="tests.matrix", description=__doc__)
    parser.add_argument(
        "--setup",
        choices=(*ALL_SETUPS, "all"),
        help="the set-up (stanza, then no-cpuset); all: hooks too",
    )
    parser.add_argument("--fault", action="append", metavar="NAME", help="this one; repeatable")
    parser.add_argument("--short", action="store_true", help="a few quick ones, with the stanza")
    parser.add_argument("--list", action="store_true", help="list the faults")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--rst", type=Path, metavar="FILE", help="write the table there")
    return parser.parse_args(argv)


def chosen(options: argparse.Namespace, faults: dict[str, Fault], setup: str) -> list[Fault]:
    """Return the faults to run in a set-up."""
    found = [fault for fault in faults.values() if setup in fault.setups]
    if options.fault:
        return [fault for fault in found if fault.name in options.fault]
    return [fault for fault in found if fault.short or not options.short]


def setups(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the set-ups to run in."""
    names: tuple[str, ...] = DEFAULT_SETUPS[:1] if options.short else DEFAULT_SETUPS
    if options.setup:
        names = ALL_SETUPS if options.setup == "all" else (options.setup,)
    return tuple(dict.fromkeys(map(here, names)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rows; return 1 where one was not good."""
    options = parse(argv)
    faults = load()
    if options.list:
        for fault in faults.values():
            print(f"{fault.name:<28} {', '.join(fault.setups):<26} {fault.text}")
        return 0
    unknown = set(options.fault or ()) - faults.keys()
    if unknown:
        print(f"no such fault: {', '.join(sorted(unknown))}; see --list", file=sys.stderr)
        return 2
    sandbox = Sandbox(say=say)
    results: list[Result] = []
    try:
        with interruptible():
            for setup in setups(options):
                rows = chosen(options, faults, setup)
                if rows:
                    with world_of(sandbox, setup) as world:
                        for result in Runner(world).run(rows):
                            results.append(result)
                            keep(options, results)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        results.append(Result("interrupted", "interrupted", "-", failed="not all rows were run"))
    finally:
        bring_up(sandbox, "stanza")
    keep(options, results)
    print(table.plain(results))
    bad = [result for result in results if not result.good]
    total = sum(result.row_seconds for result in results)
    print(f"{len(results)} rows in {total:.0f} s, {len(bad)} not good")
    return 1 if bad or not results else 0


def keep(options: argparse.Namespace, results: Sequence[Result]) -> None:
    """Write what was asked for."""
    if options.json:
        data = [{**asdict(result), "good": result.good} for result in results]
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    if options.rst:
        options.rst.write_text(table.rst(results))


if __name__ == "__main__":
    sys.exit(main())
