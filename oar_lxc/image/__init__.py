"""Images: root file systems that containers share, named, identified by a digest, never changed.

An image is ``NAME/rootfs`` in the image directory of a node, owned by root with the ids as they
are inside a container; each job sees it through a read-only mount that shifts them. Users have
images of their own as archives in their homes.
"""

from oar_lxc.image.building import build, fingerprint
from oar_lxc.image.names import ImageName, check_name, image_directory
from oar_lxc.image.recipes import RECIPES
from oar_lxc.image.store import ARCHIVE, DIRECTORY, ROOTFS, Store, find_image, list_images

__all__ = [
    "ARCHIVE",
    "DIRECTORY",
    "RECIPES",
    "ROOTFS",
    "ImageName",
    "Store",
    "build",
    "check_name",
    "find_image",
    "fingerprint",
    "image_directory",
    "list_images",
]
