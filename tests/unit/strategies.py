"""What hypothesis tries on the parsers, and how long it may."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

# What it computes of characters and of our sources, a second for each process that runs tests.
set_hypothesis_home_dir(Path(__file__).parents[2] / ".pytest_cache/hypothesis")

# The same examples in every run, and nothing kept on disk: a failure here is a failure everywhere.
# Every example of these tests writes its file anew, so that they may share one directory.
quick = settings(
    max_examples=25,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# Text as a hostile user would have it: any character, and those that parsers trip over.
hostile = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("\0\n\r\t\v\f \x1c\u2028;'\"$`\\/.:²١"),
    )
)
_letters = st.sampled_from("azAZ09")
nodes = st.builds(
    lambda first, middle, last: first + middle + last,
    _letters,
    st.text("a9-", max_size=6) | st.sampled_from([".example", "-1.a"]),
    _letters,
)
users = st.builds(
    lambda first, rest: first + rest,
    st.sampled_from("azAZ09_"),
    st.text("azAZ09_.@-", max_size=40),
)
job_ids = st.integers(1, 2**31 - 1)
