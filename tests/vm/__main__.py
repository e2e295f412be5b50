"""Run a command in a clone of this checkout on a machine with a kernel of its own, as root.

The machine is Debian 13. Its kernel is Linux as an ordinary program: it has what this machine's
kernel may lack, such as netem and cgroup version 2 alone. The exit status is the command's; the
machine is gone afterwards.
"""

from __future__ import annotations

import argparse
import os
import sys

from oar_lxc.errors import OarLxcError
from oar_lxc.image.apt import host_sources
from oar_lxc.sandbox.report import Report
from tests.fresh.status import exit_status
from tests.vm import needs
from tests.vm.disk import SUITE, disk
from tests.vm.kernel import kernel
from tests.vm.machine import Order, VirtualMachine

LIMIT = 2400.0  # seconds
TESTS = ("tests/vm/inside", "tests/integration/test_version_2.py")
AFTER = "tests/vm/reset"
SCRIPT = f"""\
pytest() {{
    /usr/bin/python3 -m pytest -v --junitxml="$RESULTS/junit-$BOOT.xml" -p no:cacheprovider "$@"
}}
if [ "$BOOT" = 1 ]; then
    pytest {" ".join(TESTS)}
    /usr/bin/python3 -m {AFTER.replace("/", ".")}.cut
fi
pytest {AFTER}
"""


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm", description=__doc__)
    parser.add_argument(
        "--tools", default="", help="packages that the machine shall have, with blanks between"
    )
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help=f"seconds for the command ({LIMIT:.0f})"
    )
    parser.add_argument(
        "command", nargs="?", help="lines of bash (the tests that need another kernel)"
    )
    return parser.parse_args()


def main() -> int:
    """Return the exit status of the command, or 1 where there is no machine to run it on."""
    options = parse()
    script = options.command or SCRIPT
    environ = {name: os.environ[name] for name in ("CI",) if name in os.environ}
    order = Order(script, options.limit, environ)

    def work(report: Report) -> int:
        if found := needs.problems(needs.look()):
            raise OarLxcError(needs.refusal(found))
        sources = host_sources(SUITE)
        linux = kernel(report, sources)
        root = disk(report, sources, options.tools.split())
        return VirtualMachine(report, linux, root).call(order)

    return exit_status("tests.vm", work)


if __name__ == "__main__":
    sys.exit(main())
