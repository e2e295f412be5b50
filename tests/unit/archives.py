"""Archives of all kinds, good and hostile, made by Python's own tarfile."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from typing import Any


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
