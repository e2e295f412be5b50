"""The list of users that may have containers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.model.idspans import DEFAULT, LOWEST, MOST_USERS, format_spans, number_of, parse_spans


def test_words_are_spans_of_user_ids() -> None:
    spans = parse_spans(["1000-1999", "20017"])
    assert spans == ((1000, 1999), (20017, 20017))
    assert format_spans(spans) == "1000-1999, 20017"
    assert [number_of(uid, spans) for uid in (999, 1000, 1999, 2000, 20017)] == [
        *(None, 0, 999),
        *(None, 1000),
    ]


def test_the_default_is_what_may_be_written() -> None:
    assert parse_spans(format_spans(DEFAULT).split(", ")) == DEFAULT


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "it is empty"),
        ([1000], '1000 is not "FIRST-LAST" or "UID"'),
        (["²"], "'²' is not"),
        (["1000-"], "'1000-' is not"),
        (["1000-1001\n"], "is not"),
        (["0"], "'0' is not within 1 to 603979775"),
        (["0-5"], "'0-5' is not within"),
        (["9-5"], "'9-5' is not within 1 to 603979775, the lower number first"),
        ([f"{LOWEST}"], "'603979776' is not within"),
        (["1000-1999", "5", "1999-2000"], "user id 1999 is in it twice"),
        ([f"1-{MOST_USERS + 1}"], "it has 4096 user ids, of which there may be 4095"),
    ],
)
def test_what_is_wrong_is_said(words: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_spans(words)


@given(st.lists(st.integers(1, LOWEST - 1), unique=True, min_size=1, max_size=30))
def test_numbers_are_of_one_user_each(uids: list[int]) -> None:
    spans = parse_spans(map(str, uids))
    assert [number_of(uid, spans) for uid in uids] == list(range(len(uids)))
