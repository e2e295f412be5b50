"""Run a function in a thread while the caller waits for the kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def in_background(act: Callable[[], object]) -> Iterator[threading.Event]:
    """Call a function in a thread beside the block, and wait for it at the end of the block.

    If the node allows no more threads, the function runs before the block.

    Args:
        act: the function; its exception is raised at the end of the block.

    Yields:
        An event that is set once the function has returned.
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
