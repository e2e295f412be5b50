"""Run a program of this package with modules of the system and of this package only.

``PYTHON -I …/oar_lxc/linux/isolated.py oar_lxc.MODULE [ARGUMENT …]`` runs a module's ``main``.
Python's ``-m`` would also import modules from the working directory, which another user may own,
and from the directories in the user's variables: a file ``random.py`` beside scripts is common.
``-I`` ignores both, but then Python finds this package only if it is installed for the system.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

PACKAGE = "oar_lxc"


def isolated(module: str, arguments: Sequence[str] = (), python: str = "") -> list[str]:
    """Return the command that runs a module of this package.

    Args:
        module: its full name.
        arguments: the module's arguments.
        python: the interpreter; that of this process by default.
    """
    return [python or sys.executable, "-I", __file__, module, *arguments]


def _run(module: str) -> None:
    place = __file__.rpartition("/")[0].rpartition("/")[0].rpartition("/")[0]
    # First only while this package is imported: other modules there must not hide the system's.
    sys.path.insert(0, place)
    __import__(PACKAGE)
    sys.path.remove(place)
    if place not in sys.path:
        sys.path.append(place)
    from oar_lxc.linux.quick_start import quick_start

    quick_start()
    __import__(module)
    sys.modules[module].main()


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    _run(sys.argv[0])
