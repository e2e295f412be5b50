"""Images: root file systems that containers share. A digest identifies each; none ever changes.

An image is ``NAME/rootfs`` in a node's store. Its files have the ids that they have inside a
container; each job sees it through a read-only mount that shifts them. Users have images of their
own as archives in their homes.

Users and root run it. It imports :mod:`oar_lxc.linux` and :mod:`oar_lxc.model`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oar_lxc.image.building import build, build_image
    from oar_lxc.image.recipes import RECIPES, recipe_for
    from oar_lxc.image.store import ARCHIVE, DIRECTORY, ROOTFS, Store, find_image, list_images
    from oar_lxc.model.image_name import ImageName, check_name, image_directory

__all__ = [
    "ARCHIVE",
    "DIRECTORY",
    "RECIPES",
    "ROOTFS",
    "ImageName",
    "Store",
    "build",
    "build_image",
    "check_name",
    "find_image",
    "image_directory",
    "list_images",
    "recipe_for",
]

_HOMES = {
    "oar_lxc.image.building": ("build", "build_image"),
    "oar_lxc.model.image_name": ("ImageName", "check_name", "image_directory"),
    "oar_lxc.image.recipes": ("RECIPES", "recipe_for"),
    "oar_lxc.image.store": (
        "ARCHIVE",
        "DIRECTORY",
        "ROOTFS",
        "Store",
        "find_image",
        "list_images",
    ),
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: a launch needs few of them, a hook fewer."""
    for module, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
