"""Archives of all kinds, good and hostile, made by Python's own tarfile."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Pack = Callable[[bytes], bytes]


def member(
    name: str, kind: bytes = tarfile.REGTYPE, **fields: Any
) -> tuple[tarfile.TarInfo, bytes]:
    """Return a member and its content."""
    info = tarfile.TarInfo(name)
    info.type = kind
    content: bytes = fields.pop("content", b"")
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    info.size = len(content)
    return info, content


def archive(
    members: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT
) -> bytes:
    """Return an archive with these members."""
    stream = io.BytesIO()
    with tarfile.open(
        fileobj=stream, mode="w", format=form, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def file_of(data: bytes) -> int:
    """Return a file descriptor from which some bytes can be read."""
    fd = os.memfd_create("archive")
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def system(*more: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return an archive of a small system with an init, and more."""
    return archive(
        [
            member("./", tarfile.DIRTYPE),
            member("./sbin", tarfile.DIRTYPE),
            member("./sbin/init", mode=0o755, content=b"#!/bin/sh\n"),
            *more,
        ]
    )


# Images of OCI and Docker, as dictionaries of their files.


def zstd(data: bytes) -> bytes:
    """Pack with zstd, which Python has not."""
    return subprocess.run(
        ["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True
    ).stdout


def plain(data: bytes) -> bytes:
    """Do not pack."""
    return data


def sha(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def config(layers: Sequence[bytes], **facts: Any) -> bytes:
    """Return the configuration of an image of these layers."""
    digests = [f"sha256:{sha(layer)}" for layer in layers]
    rootfs = {"type": "layers", "diff_ids": digests}
    return json.dumps({"os": "linux", "rootfs": rootfs, **facts}).encode()


def of_crane(
    images: Mapping[str, Sequence[bytes]], pack: Pack = gzip.compress, **facts: Any
) -> dict[str, bytes]:
    """Return the files of images by their tags, as crane, kaniko and ko write them."""
    files: dict[str, bytes] = {}
    listed = []
    for tag, layers in images.items():
        told = config(layers, **facts)
        files[f"sha256:{sha(told)}"] = told
        names = [f"{sha(pack(layer))}.tar.gz" for layer in layers]
        files.update(zip(names, map(pack, layers), strict=True))
        tags = [tag] if tag else None
        listed.append({"Config": f"sha256:{sha(told)}", "RepoTags": tags, "Layers": names})
    return {**files, "manifest.json": json.dumps(listed).encode()}


def of_oci(
    images: Mapping[str, Sequence[bytes]], pack: Pack = gzip.compress, told: bytes = b""
) -> dict[str, bytes]:
    """Return the files of a layout of OCI with images by their names."""
    files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def blob(data: bytes, kind: str, **more: Any) -> dict[str, Any]:
        files[f"blobs/sha256/{sha(data)}"] = data
        kind = f"application/vnd.oci.image.{kind}"
        return {"mediaType": kind, "digest": f"sha256:{sha(data)}", "size": len(data), **more}

    listed = []
    for name, layers in images.items():
        manifest = {
            "schemaVersion": 2,
            "config": blob(told or config(layers), "config.v1+json"),
            "layers": [blob(pack(layer), "layer.v1.tar") for layer in layers],
        }
        notes = {"org.opencontainers.image.ref.name": name} if name else {}
        said = json.dumps(manifest).encode()
        listed.append(blob(said, "manifest.v1+json", annotations=notes))
    index = {"schemaVersion": 2, "manifests": listed}
    return {"index.json": json.dumps(index).encode(), **files}


def tar_of(files: Mapping[str, bytes], before: str = "") -> bytes:
    """Return an archive of files, with something before each name."""
    return archive([member(before + name, content=data) for name, data in files.items()])


def write(files: Mapping[str, bytes], directory: Path) -> Path:
    """Write files below a directory, and return it."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory
