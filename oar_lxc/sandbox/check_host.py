"""Say at once whether this machine can hold a sandbox; needs nothing but Python, as make does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from oar_lxc.errors import OarLxcError
from oar_lxc.sandbox import host
from oar_lxc.sandbox.state import CACHE, State, recommended
from oar_lxc.sandbox.suites import SUITES


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if this machine can hold it; else say why not and what to do, and return 1."""
    parser = argparse.ArgumentParser(prog="python3 -m oar_lxc.sandbox.check_host")
    parser.add_argument("--suite", choices=list(SUITES), help="the Debian release of the machines")
    options = parser.parse_args(arguments)
    state = State()
    try:
        settings = recommended(state, options.suite)
        here = host.look((state.root, CACHE), settings)
        host.refuse(host.problems(here, settings.nodes, state.settings() is None))
    except OarLxcError as error:
        print(f"make: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
