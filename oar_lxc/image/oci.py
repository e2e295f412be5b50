"""Find the images of OCI and Docker in layouts and archives, and their layers.

Docker's form has a file ``manifest.json``, the form of OCI ``index.json``; many archives have
both. See https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from oar_lxc.errors import ImageError
from oar_lxc.image.formats import Contents
from oar_lxc.image.layers import Layer, OnData
from oar_lxc.image.tarstream import DamagedError

DOCKER, INDEX, LAYOUT = "manifest.json", "index.json", "oci-layout"
_MOST = 16 << 20  # bytes of a manifest at most
_MOST_LINKS = 8
_DEEPEST = 4  # levels of indexes in indexes
_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"
_REFERS = "vnd.docker.reference.type"
# The kernel's names of machines, and their names in images.
_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i686": "386",
    "armv7l": "arm",
    "armv6l": "arm",
}


@dataclass(frozen=True)
class Blob:
    """A part of a file.

    Attributes:
        path: the file.
        at: position of its first byte in the file.
        size: bytes.
    """

    path: Path
    at: int
    size: int


# Opens a blob, unpacked. Arguments: the blob, and a function that is called with all data read.
Open = Callable[[Blob, "OnData | None"], Any]


class ImageFiles(Protocol):
    """The files of an image of OCI or Docker: in a directory or in an archive."""

    def find(self, name: str) -> Blob | None:
        """Return a file by its name; None if there is none."""


class DirectoryFiles:
    """A directory with the files of an image."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, name: str) -> Blob | None:
        """Return a file by its name; None if there is none."""
        parts = PurePosixPath(name).parts
        path = self._root.joinpath(*parts)
        if not parts or ".." in parts or name.startswith("/") or not path.is_file():
            return None
        return Blob(path, 0, path.stat().st_size)


class ArchiveFiles:
    """An archive with the files of an image.

    Args:
        path: the archive, not packed.
        contents: its members.
        top: the directory in it that has the files.
    """

    def __init__(self, path: Path, contents: Contents, top: str = "") -> None:
        self._path, self._contents, self._top = path, contents, top

    def find(self, name: str) -> Blob | None:
        """Return a file by its name; None if there is none."""
        wanted = os.path.normpath(f"{self._top}/{name}" if self._top else name)
        for _ in range(_MOST_LINKS):
            if wanted in self._contents.files:
                return Blob(self._path, *self._contents.files[wanted])
            target = self._contents.links.get(wanted)
            if target is None:
                return None
            # Docker writes links beside the layers, for a layer that occurs under several names.
            beside = os.path.normpath(f"{wanted.rpartition('/')[0]}/{target}")
            whole = os.path.normpath(target)
            wanted = beside if target.startswith("..") or beside in self._contents.files else whole
        return None


@dataclass(frozen=True)
class Found:
    """One image.

    Attributes:
        layers: from the bottom to the top.
        remarks: sentences for the user about it.
    """

    layers: tuple[Layer, ...]
    remarks: tuple[str, ...] = ()


def top_of_image(contents: Contents) -> str | None:
    """Return the directory of an archive with the files of an image; None if there is none."""
    files = contents.files
    if contents.is_tree:
        return None
    if DOCKER in files or (INDEX in files and LAYOUT in files):
        return ""
    for name in files:
        top, _, last = name.rpartition("/")
        if last == LAYOUT and f"{top}/{INDEX}" in files:
            return top
    return None


def is_image(files: ImageFiles) -> bool:
    """Whether files are an image of OCI or Docker.

    Raises:
        ImageError: the image has a form that cannot be read.
    """
    docker = files.find(DOCKER)
    if docker:
        data = _json(docker, DOCKER)
        if isinstance(data, list) and all(
            isinstance(one, dict) and "Layers" in one for one in data
        ):
            return bool(data)
        if isinstance(data, dict) and "schemaVersion" in data and files.find("version"):
            raise ImageError(
                "it is what skopeo writes as dir:, which is not read: `skopeo copy dir:DIRECTORY "
                "oci:OTHER:latest` makes a layout of it"
            )
    return bool(files.find(INDEX) and files.find(LAYOUT))


def find_image(
    files: ImageFiles, reference: str, name: str, transport: str, open_blob: Open
) -> Found:
    """Return the layers of an image.

    Args:
        files: the image's files.
        reference: the image to take of several: a name with or without its tag, or ``@`` and a
            number. Empty if there is only one.
        name: the image's name in errors.
        transport: the form that the user asked for, in skopeo's words; empty for any form.
        open_blob: opens a blob, unpacked.

    Raises:
        ImageError: there is no such image, more than one, or it cannot be read.
    """
    if files.find(DOCKER) and not (transport.startswith("oci") and files.find(INDEX)):
        return _of_docker(files, reference, f"docker-archive:{name}", open_blob)
    word = transport if transport.startswith("oci") else ""
    word = word or ("oci" if isinstance(files, DirectoryFiles) else "oci-archive")
    return _of_oci(files, reference, f"{word}:{name}", open_blob)


# Docker.


def _of_docker(files: ImageFiles, reference: str, called: str, open_blob: Open) -> Found:
    images = _json_of(files, DOCKER)
    if not isinstance(images, list):
        raise DamagedError(f"{DOCKER} in it is not Docker's")
    names = [_list_of_texts(one.get("RepoTags") or []) for one in map(_object, images)]
    chosen = _object(images[_choose(names, reference, called)])
    config, paths = chosen.get("Config"), chosen.get("Layers")
    if not isinstance(config, str) or not isinstance(paths, list):
        raise DamagedError(f"{DOCKER} in it is not Docker's")
    facts = _object(_json_of(files, config))
    blobs = []
    for path in map(str, paths):
        blob = files.find(path)
        if blob is None:
            raise DamagedError(f"its layer {path} is not in it")
        blobs.append(blob)
    return _found(facts, blobs, open_blob)


# OCI.


def _of_oci(files: ImageFiles, reference: str, called: str, open_blob: Open) -> Found:
    index = _object(_json_of(files, INDEX))
    images = _manifests(index)
    names = []
    for one in images:
        notes = _object(one.get("annotations") or {})
        names.append([str(notes[key]) for key in (_NAME, _FULL_NAME) if notes.get(key)])
    # Several images with the same name, or all without one, are one image for several machines.
    if not reference and len({tuple(one) for one in names}) == 1 < len(images):
        chosen = _of_machine(images)
    else:
        chosen = images[_choose(names, reference, called)]
    for _ in range(_DEEPEST):
        manifest = _object(_json_of_digest(files, chosen))
        if "manifests" not in manifest:
            break
        chosen = _of_machine(_manifests(manifest))
    config, layers = manifest.get("config"), manifest.get("layers")
    if "fsLayers" in manifest:
        raise ImageError(
            "its manifest is of Docker's first form, which is not read: `skopeo copy` makes "
            "one that is"
        )
    if not isinstance(config, dict) or not isinstance(layers, list):
        raise DamagedError("its manifest names no layers")
    kind = str(config.get("mediaType", ""))
    if kind.endswith("+encrypted") or any(
        str(_object(one).get("mediaType", "")).endswith("+encrypted") for one in layers
    ):
        raise ImageError(
            "its layers are encrypted: `skopeo copy --decryption-key KEY` makes a copy that is not"
        )
    facts = _object(_json_of_digest(files, config))
    if "rootfs" not in facts:
        raise ImageError(f"it has no root file system, but {kind or 'something else'}")
    return _found(facts, [_blob_of(files, _object(one)) for one in layers], open_blob)


def _manifests(index: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the images that an index names, without its entries that refer to other entries."""
    found = index.get("manifests")
    if not isinstance(found, list):
        raise DamagedError(f"{INDEX} in it names no images")
    images = [
        one for one in map(_object, found) if _REFERS not in _object(one.get("annotations") or {})
    ]
    if not images:
        raise ImageError("there is no image in it")
    return images


def _of_machine(images: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the image for this machine's architecture."""
    if len(images) == 1:
        return images[0]
    here = _machine()
    seen = []
    for one in images:
        platform = _object(one.get("platform") or {})
        words = platform.get("os", "linux"), platform.get("architecture", "")
        if words == ("linux", here):
            return one
        seen.append("/".join(map(str, words)))
    raise ImageError(
        f"it has images for {', '.join(seen)}, and none for linux/{here}, which this machine is"
    )


def _machine() -> str:
    machine = os.uname().machine
    return _MACHINES.get(machine, machine)


def _blob_of(files: ImageFiles, descriptor: Mapping[str, Any]) -> Blob:
    kind, _, digest = str(descriptor.get("digest", "")).partition(":")
    blob = files.find(f"blobs/{kind}/{digest}")
    if blob is None:
        raise DamagedError(f"its blob {kind}:{digest} is not in it")
    return blob


def _json_of_digest(files: ImageFiles, descriptor: Mapping[str, Any]) -> Any:
    """Return the data of a manifest or configuration, and check its digest."""
    digest = str(descriptor.get("digest", ""))
    return _json(_blob_of(files, descriptor), f"its blob {digest}", digest)


# Both.


def _choose(names: list[list[str]], reference: str, called: str) -> int:
    """Return the number of the image that a reference means.

    Args:
        names: the names of each image.
        reference: the user's reference.
        called: skopeo's name of the directory or archive.

    Raises:
        ImageError: the reference fits no image, or several.
    """
    listed = [own[0] if own else f"@{n}" for n, own in enumerate(names)]
    known = ", ".join(name for n, own in enumerate(names) for name in own or [f"@{n}"])
    if not reference:
        if len(names) == 1:
            return 0
        if not names:
            raise ImageError("there is no image in it")
        raise ImageError(
            f"it has several images ({known}): choose one, as in {called}:{listed[0]}"
        )
    if reference in {f"@{number}" for number in range(len(names))}:
        return int(reference[1:])
    for same in (_is_name, _is_tag):
        found = [n for n, own in enumerate(names) if any(same(name, reference) for name in own)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ImageError(
                f"{reference} means several of its images ({known}): give a whole name"
            )
    raise ImageError(
        f"it has no image {reference}, but {known}: choose one, as in {called}:{listed[0]}"
    )


def _is_name(name: str, reference: str) -> bool:
    return name == reference or _whole(name) == _whole(reference)


def _is_tag(name: str, reference: str) -> bool:
    return _whole(name).rpartition(":")[2] == reference


def _whole(name: str) -> str:
    """Return a name with its tag, and without the prefixes of Docker and podman."""
    for prefix in ("docker.io/", "library/", "localhost/"):
        name = name.removeprefix(prefix)
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _found(facts: Mapping[str, Any], blobs: list[Blob], open_blob: Open) -> Found:
    """Make an image from its configuration and the blobs of its layers."""
    digests = _object(facts.get("rootfs") or {}).get("diff_ids")
    if not isinstance(digests, list) or len(digests) != len(blobs):
        raise DamagedError("its configuration has not the digests of its layers")
    system, made_for = str(facts.get("os") or "linux"), str(facts.get("architecture") or "")
    if system != "linux":
        raise ImageError(f"it is an image of {system}, and containers here are of Linux")
    remarks: tuple[str, ...] = ()
    if made_for and made_for != _machine():
        remarks = (f"it is made for {made_for}, and this machine is {_machine()}",)
    layers = [
        Layer(f"layer {number} of {len(blobs)}", str(digest), partial(open_blob, blob))
        for number, (digest, blob) in enumerate(zip(digests, blobs, strict=True), 1)
    ]
    return Found(tuple(layers), remarks)


def _object(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise DamagedError("what it says of itself is not as it should be")
    return data


def _list_of_texts(data: Any) -> list[str]:
    if not isinstance(data, list):
        raise DamagedError("what it says of itself is not as it should be")
    return [str(one) for one in data]


def _json_of(files: ImageFiles, name: str) -> Any:
    blob = files.find(name)
    if blob is None:
        raise DamagedError(f"{name} is not in it")
    return _json(blob, name)


def _json(blob: Blob, name: str, digest: str = "") -> Any:
    if blob.size > _MOST:
        raise DamagedError(f"{name} has {blob.size} bytes")
    with blob.path.open("rb") as file:
        file.seek(blob.at)
        data = file.read(blob.size)
    kind, _, wanted = digest.partition(":")
    if wanted and (
        kind not in ("sha256", "sha384", "sha512") or hashlib.new(kind, data).hexdigest() != wanted
    ):
        raise DamagedError(f"{name} has another digest")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{name} is no JSON") from error
