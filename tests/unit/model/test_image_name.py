"""Names of images: what is one, and the directory it has."""

from __future__ import annotations

import pytest
from hypothesis import given

from oar_lxc.errors import ImageError
from oar_lxc.model.image_name import ImageName, check_name
from tests.unit.strategies import hostile


@given(hostile)
def test_what_is_taken_for_a_name_stays_in_its_directory(text: str) -> None:
    try:
        directory = ImageName.parse(text).directory
    except ImageError:
        return
    assert directory.isascii()
    assert not set(directory) & set("/\0\n\\ :,")
    assert ".." not in directory
    assert not directory.startswith((".", "-"))
    assert ImageName.of_directory(directory) == ImageName.parse(text)


@pytest.mark.parametrize(
    ("text", "directory", "written"),
    [
        ("debian-12", "debian-12", "debian-12"),
        ("debian-12:latest", "debian-12", "debian-12"),
        ("debian-12:1.0", "debian-12@1.0", "debian-12:1.0"),
    ],
)
def test_a_name_has_a_directory_and_one_way_to_write_it(
    text: str, directory: str, written: str
) -> None:
    name = ImageName.parse(text)
    assert (name.directory, str(name)) == (directory, written)
    assert check_name(text) == text


@pytest.mark.parametrize(
    "text", ["", "A", "a/b", "../a", "a..b", ".a", "a:", "a:B", "a:b:c", "a@b", "a:../b", "a" * 65]
)
def test_what_is_no_name_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ImageError, match=r"is not an image name|has no tag") as caught:
        ImageName.parse(text)
    assert repr(text) in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("directory", ["a@latest", "a@", "@a", ".half-x", "Not"])
def test_other_directories_are_no_images(directory: str) -> None:
    assert ImageName.of_directory(directory) is None
