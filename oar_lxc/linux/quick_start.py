"""Let a program of this package start faster: its imports take most of the time of a hook."""

from __future__ import annotations

import gc
import sys
from types import ModuleType

OBJECTS = 100_000  # new objects until Python looks for garbage; imports make fewer


class _LateModule(ModuleType):
    """A module that is loaded at the first use of something in it."""

    def __getattr__(self, name: str) -> object:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        __import__(self.__name__)
        return getattr(sys.modules[self.__name__], name)


def quick_start() -> None:
    """Prepare for the imports; a program calls it before all others.

    dataclasses imports inspect, with half of Python's compiler, for classes without a docstring.
    """
    gc.set_threshold(OBJECTS)
    sys.modules.setdefault("inspect", _LateModule("inspect"))
