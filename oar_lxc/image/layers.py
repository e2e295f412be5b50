"""Merge the layers of an image of OCI or Docker, where an upper layer hides those below.

Layers are read twice. The first time, their digests are checked, and each path of the result is
traced to its member. The second time, only those members are passed on. So nothing is unpacked
that a later layer removes, and nothing needs root. umoci, the usual program, unpacks all layers
into a directory, which would have to be packed again; without root, it loses the owners. It also
reads only layouts, and many images are none.

The format of layers: https://github.com/opencontainers/image-spec/blob/main/layer.md
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from oar_lxc.errors import ImageError
from oar_lxc.image.manifest import ROOT
from oar_lxc.image.tarstream import (
    DIRECTORY,
    HARD_LINK,
    SYMLINK,
    DamagedError,
    Member,
    Reader,
    TruncatedError,
    members,
)

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_OTHER_WHITEOUTS = b".wh..wh."  # AUFS's own names, without a meaning here
_HASHES = ("sha256", "sha384", "sha512")

OnData = Callable[[memoryview], object]


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: its name in errors.
        digest: the digest of its unpacked archive, as the image states it.
        open: opens its unpacked archive; its argument is called with all data that is read.
    """

    name: str
    digest: str
    open: Callable[[OnData | None], AbstractContextManager[Opened]]


@dataclass(frozen=True)
class Opened:
    """An open archive of a layer.

    Attributes:
        reader: reads it.
        finish: waits for the program that unpacks it.
    """

    reader: Reader
    finish: Callable[[], object]


@dataclass(slots=True)
class _Node:
    """A path of the merged image, with the member that made it; hard links share the member.

    Attributes:
        kind: as in a tar archive.
        layer: number of the layer that put it there.
        origin: layer and number of the member; None for a directory that no layer has.
        children: nodes in a directory, by name.
    """

    kind: bytes
    layer: int
    origin: tuple[int, int] | None = None
    children: dict[bytes, _Node] = field(default_factory=dict)


class Layers:
    """The members of layers, merged, as :class:`~oar_lxc.image.pipeline.Source`.

    Args:
        layers: from the bottom to the top.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers
        self._reader: Reader | None = None
        self._before = 0

    @property
    def done(self) -> int:
        """How many bytes the second reading has read."""
        return self._before + (self._reader.done if self._reader else 0)

    def members(self) -> Iterator[Member]:
        """Yield the members of the merged image.

        Raises:
            ImageError: a layer has another digest, or a member that no image may have.
        """
        names = _names(self._merged())
        for number, layer in enumerate(self._layers):
            with layer.open(None) as opened:
                self._reader = opened.reader
                for at, member in enumerate(members(opened.reader, marked=False)):
                    first, *others = names.get((number, at), [b""])
                    if not first:
                        continue
                    member.path = first
                    yield member
                    for other in others:
                        yield Member(other, HARD_LINK, target=first)
                self._before += opened.reader.done
                self._reader = None

    def stream(self, size: int) -> Iterator[memoryview]:
        """Yield the content of the last member."""
        return self._reader.stream(size) if self._reader else iter(())

    def drain(self) -> None:
        """Do nothing, as the layers were read to their end."""

    def _merged(self) -> _Node:
        root = _Node(DIRECTORY, 0)
        for number, layer in enumerate(self._layers):
            try:
                _put(root, number, list(self._read(layer)))
            except DamagedError as error:
                raise DamagedError(f"{layer.name}: {error}") from error
            except ImageError as error:
                raise ImageError(f"{layer.name}: {error}") from error
        return root

    def _read(self, layer: Layer) -> Iterator[Member]:
        """Yield a layer's members, and check its digest."""
        kind, _, wanted = layer.digest.partition(":")
        if kind not in _HASHES:
            raise ImageError(f"its digest is {layer.digest!r}, of a kind that is not known")
        total = hashlib.new(kind)
        with layer.open(total.update) as opened:
            try:
                yield from members(opened.reader, marked=False)
                opened.reader.drain()
            except TruncatedError:
                opened.finish()  # the program that unpacks may raise a better error
                raise
            opened.finish()
        if total.hexdigest() != wanted:
            raise DamagedError(f"its digest is {kind}:{total.hexdigest()}, not {layer.digest}")


def _inside(path: bytes) -> bytes:
    """Return a path below the root without ``.`` and double slashes.

    Raises:
        ImageError: it leads out of the root.
    """
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ImageError(f"member {os.fsdecode(path)} leads out of the root by '..'")
    return b"/".join(parts) or ROOT


def _put(root: _Node, layer: int, found: Sequence[Member]) -> None:
    """Put a layer on top of the layers before it.

    Its whiteouts, wherever they are in the archive, remove only paths of the layers below.
    """
    paths = [_inside(member.path) for member in found]
    for path in paths:
        directory, _, name = path.rpartition(b"/")
        if not name.startswith(_WHITEOUT):
            continue
        node = _find(root, directory)
        if node is None:
            continue
        if name == _OPAQUE:
            node.children.clear()
        elif not name.startswith(_OTHER_WHITEOUTS):
            node.children.pop(name.removeprefix(_WHITEOUT), None)
    for number, (path, member) in enumerate(zip(paths, found, strict=True)):
        if not path.rpartition(b"/")[2].startswith(_WHITEOUT):
            _add(root, layer, (layer, number), path, member)


def _find(root: _Node, path: bytes) -> _Node | None:
    node: _Node | None = root
    for part in path.split(b"/") if path not in (b"", ROOT) else ():
        node = node.children.get(part) if node else None
    return node


def _add(root: _Node, layer: int, origin: tuple[int, int], path: bytes, member: Member) -> None:
    if path == ROOT:
        if member.kind == DIRECTORY:
            root.origin = origin
        return
    *above, name = path.split(b"/")
    parent = root
    for part in above:
        child = parent.children.get(part)
        # A directory hides a link or file of a lower layer, as in overlay file systems.
        if child is None or (child.kind != DIRECTORY and child.layer < layer):
            child = parent.children[part] = _Node(DIRECTORY, layer)
        elif child.kind != DIRECTORY:
            what = "a link" if child.kind == SYMLINK else "no directory"
            raise ImageError(
                f"member {member.name} lies behind {os.fsdecode(part)}, which is {what}"
            )
        parent = child
    before = parent.children.get(name)
    if before and before.kind == member.kind == DIRECTORY:
        before.origin, before.layer = origin, layer
        return
    node = _Node(member.kind, layer, origin)
    if member.kind == HARD_LINK:
        other = _find(root, _inside(member.target))
        if other is None or other.kind == DIRECTORY:
            raise ImageError(
                f"hard link {member.name} leads to {os.fsdecode(member.target)}, which is no file "
                "before it"
            )
        node.kind, node.origin = other.kind, other.origin
    parent.children[name] = node


def _names(root: _Node) -> dict[tuple[int, int], list[bytes]]:
    """Return the paths that each member has in the merged image."""
    names: dict[tuple[int, int], list[bytes]] = {}
    waiting = [(ROOT, root)]
    while waiting:
        path, node = waiting.pop()
        if node.origin is not None:
            names.setdefault(node.origin, []).append(path)
        prefix = b"" if path == ROOT else path + b"/"
        waiting += [(prefix + name, child) for name, child in node.children.items()]
    return names
