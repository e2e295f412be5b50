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

    def get_annotations(self, thing: object, **options: object) -> object:
        """Answer of a class, for which dataclasses of Python 3.13 ask, without loading inspect."""
        if isinstance(thing, type) and not options:
            return dict(vars(thing).get("__annotations__", {}))
        return self.__getattr__("get_annotations")(thing, **options)  # type: ignore[operator]


def quick_start() -> None:
    """Prepare for the imports; a program calls it before all others.

    dataclasses imports inspect, with half of Python's compiler, for classes without a docstring,
    and in Python 3.13 for the annotations of each.
    """
    gc.set_threshold(OBJECTS)
    sys.modules.setdefault("inspect", _LateModule("inspect"))
