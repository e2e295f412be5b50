"""What a user may ask for."""

from __future__ import annotations

from typing import Any

import pytest

from oar_lxc.errors import SpecError, UsageError
from oar_lxc.spec import Spec


def test_by_default_one_container_a_node_is_asked_for() -> None:
    assert Spec() == Spec("debian-12", per_node=1, per_core=False, name="vm")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": "../../etc"}, "image '../../etc' is not an image name"),
        ({"image": ".."}, "image '..' is not an image name"),
        ({"image": "a..b"}, "image 'a..b' is not an image name"),
        ({"image": ""}, "image '' is not an image name"),
        ({"image": "Debian"}, "image 'Debian' is not an image name"),
        ({"image": "x" * 65}, "at most 64"),
        ({"image": "debian\n"}, "is not an image name"),
        ({"per_node": 0}, "per_node is 0; at least 1"),
        ({"per_node": -3}, "per_node is -3; at least 1"),
        ({"per_node": 1.5}, "per_node is 1.5; it is a whole number"),
        ({"per_node": True}, "per_node is True; it is a whole number"),
        ({"per_node": "2"}, "per_node is '2'; it is a whole number"),
        ({"name": ""}, "name is ''; it starts with a small letter"),
        ({"name": "a b"}, "name is 'a b'"),
        ({"name": "../x"}, "name is '../x'"),
        ({"name": "-x"}, "name is '-x'"),
        ({"name": "x-"}, "name is 'x-'"),
        ({"name": "1x"}, "name is '1x'"),
        ({"name": "x" * 33}, "at most 32"),
        ({"name": "vm\n"}, "name is 'vm"),
    ],
)
def test_what_cannot_be_is_one_sentence_that_names_the_value(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        Spec(**values)
    assert isinstance(caught.value, UsageError)
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a", "vm", "web-server", "x" * 32])
def test_a_name_may_have_letters_digits_and_dashes(name: str) -> None:
    assert Spec(name=name).name == name
