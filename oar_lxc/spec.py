"""What a user asks for, as plain data."""

from __future__ import annotations

import re
from dataclasses import dataclass

from oar_lxc.errors import ImageError, SpecError
from oar_lxc.image import check_name

DEFAULT_IMAGE = "debian-12"
RUNNING = "running"
SSH = "ssh"
WAITS = (RUNNING, SSH)


@dataclass(frozen=True)
class Spec:
    """The containers of a job.

    Args:
        image: name of an image on the nodes.
        per_node: how many containers on each node.
        per_core: one container for each reserved core instead; ``per_node`` is not used then.
        name: what the containers' names start with; a number follows.

    Raises:
        SpecError: a value is not allowed.
    """

    image: str = DEFAULT_IMAGE
    per_node: int = 1
    per_core: bool = False
    name: str = "vm"

    def __post_init__(self) -> None:
        for key in ("image", "name"):
            if not isinstance(getattr(self, key), str):
                raise SpecError(f"{key} is {getattr(self, key)!r}; it is a text")
        try:
            check_name(self.image)
        except ImageError as error:
            raise SpecError(str(error)) from error
        if not isinstance(self.per_core, bool):
            raise SpecError(f"per_core is {self.per_core!r}; it is true or false")
        if isinstance(self.per_node, bool) or not isinstance(self.per_node, int):
            raise SpecError(f"per_node is {self.per_node!r}; it is a whole number")
        if self.per_node < 1:
            raise SpecError(f"per_node is {self.per_node}; at least 1 container a node is allowed")
        if not re.fullmatch(r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?", self.name):
            raise SpecError(
                f"name is {self.name!r}; it starts with a small letter and has small letters, "
                "digits and '-', at most 32"
            )
