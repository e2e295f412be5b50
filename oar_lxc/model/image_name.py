"""Names of images, ``NAME[:TAG]``, and the names of their directories in a store."""

from __future__ import annotations

import re
from dataclasses import dataclass

from oar_lxc.errors import ImageUsageError

LATEST = "latest"
PUBLIC, OWN = "public", "own"  # for all users of a node, or for one

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
# No colon: in the options of an overlay mount, a colon ends a directory.
_SEPARATOR = "@"


@dataclass(frozen=True, order=True)
class ImageName:
    """The name of one image.

    Attributes:
        name: the part before the colon.
        tag: the part after the colon; :data:`LATEST` by default.
    """

    name: str
    tag: str = LATEST

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """Read ``NAME`` or ``NAME:TAG``.

        Raises:
            ImageUsageError: it is neither, or could be the path of another directory.
        """
        name, colon, tag = text.partition(":")
        if not _NAME.fullmatch(name) or ".." in name:
            raise ImageUsageError(
                f"image {text!r} is not an image name: small letters, digits, '.', '_' and '-', "
                "at most 64, then perhaps a colon and a tag"
            )
        if colon and (not _TAG.fullmatch(tag) or ".." in tag):
            raise ImageUsageError(
                f"image {text!r} has no tag after the colon: small letters, digits, '.', '_' and "
                "'-', at most 32"
            )
        return cls(name, tag or LATEST)

    @classmethod
    def of_directory(cls, directory: str) -> ImageName | None:
        """Return the image whose directory has this name; None if no image can have it."""
        name, separator, tag = directory.partition(_SEPARATOR)
        try:
            found = cls.parse(f"{name}:{tag}" if separator else name)
        except ImageUsageError:
            return None
        return found if found.directory == directory else None

    @property
    def directory(self) -> str:
        """The name of the image's directory in a store."""
        return self.name if self.tag == LATEST else f"{self.name}{_SEPARATOR}{self.tag}"

    def __str__(self) -> str:
        return self.name if self.tag == LATEST else f"{self.name}:{self.tag}"


def check_name(text: str) -> str:
    """Check an image's name, and return it unchanged.

    Raises:
        ImageUsageError: see :meth:`ImageName.parse`.
    """
    ImageName.parse(text)
    return text
