"""Run a command in a clone of this checkout on a fresh, minimal Debian, as root.

The machine is a container with systemd; it has make, git and how to reach Debian's and Python's
packages. It has the last commit, and is gone afterwards. The exit status is the command's.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import PurePosixPath

from oar_lxc.sandbox.report import Report
from oar_lxc.sandbox.suites import SUITES, cgroup_version, default
from tests.fresh.commit import PLACE
from tests.fresh.machine import FreshMachine
from tests.fresh.status import exit_status

COMMAND = "make demo; make test"


def place(text: str) -> str:
    """Return where the clone is to be, as it was given."""
    if not PurePosixPath(text).is_absolute() or len(PurePosixPath(text).parts) < 3:
        raise argparse.ArgumentTypeError(f"{text!r}: give an absolute path below a directory")
    return text


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.fresh", description=__doc__)
    parser.add_argument(
        "--suite",
        choices=list(SUITES),
        default=default(cgroup_version()),
        help="the Debian release (%(default)s)",
    )
    parser.add_argument(
        "--place", type=place, default=PLACE, help=f"where the clone is, on the machine ({PLACE})"
    )
    parser.add_argument(
        "command", nargs="?", default=COMMAND, help=f"lines of bash, to run in it ({COMMAND!r})"
    )
    return parser.parse_args()


def main() -> int:
    """Return the exit status of the command, or 1 where there is no machine to run it on."""
    options = parse()
    if os.geteuid() != 0:
        print("tests.fresh: this needs root: it boots a machine in a container", file=sys.stderr)
        return 1

    def work(report: Report) -> int:
        machine = FreshMachine(report, options.suite)
        with machine.running(options.place):
            return machine.call(options.command, options.place)

    return exit_status("tests.fresh", work)


if __name__ == "__main__":
    sys.exit(main())
