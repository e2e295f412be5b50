"""Two things at once: one in a thread, while the other waits for the kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beside(act: Callable[[], object]) -> Iterator[threading.Event]:
    """Call a function in a thread beside the block; at the end of the block it has returned.

    Where the node has no room for a thread, as its processes are too many, it is called before.

    Args:
        act: the function; what it raises is raised at the end of the block.

    Yields:
        What is set once it has returned.
    """
    raised: list[BaseException] = []
    over = threading.Event()

    def call() -> None:
        try:
            act()
        except BaseException as error:
            raised.append(error)
        finally:
            over.set()

    try:
        threading.Thread(target=call).start()
    except RuntimeError:
        call()
    try:
        yield over
    finally:
        over.wait()
    if raised:
        raise raised[0]
