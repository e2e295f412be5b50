"""Run a program of this package, and let nothing but the system and this package into it.

``PYTHON -I …/oar_lxc/linux/isolated.py oar_lxc.MODULE [ARGUMENT …]`` runs a module's ``main``.
Python's ``-m`` would take modules from the working directory, which may be anybody's, and from
where the user's variables point: a file ``random.py`` beside one's scripts is common. With ``-I``
it takes neither, but would not find this package where it is not the system's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

PACKAGE = "oar_lxc"


def isolated(module: str, arguments: Sequence[str] = (), python: str = "") -> list[str]:
    """Return the command that runs a module of this package.

    Args:
        module: its full name.
        arguments: what follows.
        python: the interpreter; the one of this process by default.
    """
    return [python or sys.executable, "-I", __file__, module, *arguments]


def _run(module: str) -> None:
    place = __file__.rpartition("/")[0].rpartition("/")[0].rpartition("/")[0]
    # First for this package alone: what else is there must not come before the system's.
    sys.path.insert(0, place)
    __import__(PACKAGE)
    sys.path.remove(place)
    if place not in sys.path:
        sys.path.append(place)
    __import__(module)
    sys.modules[module].main()


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    _run(sys.argv[0])
