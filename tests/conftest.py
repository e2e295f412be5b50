"""What all tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

# What it computes of characters and of our sources, a second for each process that runs tests.
set_hypothesis_home_dir(Path(__file__).parents[1] / ".pytest_cache/hypothesis")
# The same examples in every run, and nothing kept of them: a failure here is a failure everywhere.
# Every example of a test writes its files anew, so that all may share one directory.
settings.register_profile(
    "same",
    max_examples=25,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Other examples in every run, and many; a failure is printed with what repeats it.
settings.register_profile(
    "deep",
    settings.get_profile("same"),
    max_examples=500,
    derandomize=False,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_configure() -> None:
    """Let signals end what tests start, also where this was started to ignore them.

    nohup(1) ignores SIGHUP, and a shell that puts a command into the background ignores SIGINT:
    programs inherit that.
    """
    for number, action in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, action)
