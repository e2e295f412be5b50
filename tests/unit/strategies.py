"""What hypothesis tries on the parsers."""

from __future__ import annotations

from hypothesis import strategies as st

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
