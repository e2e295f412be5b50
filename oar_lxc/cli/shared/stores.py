"""The stores of images that the caller of ``oar-lxc image`` can read and write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from oar_lxc.errors import ImageError
from oar_lxc.image.record import ImageRecord
from oar_lxc.image.store import Store
from oar_lxc.image.uses import containers_using, uses_of
from oar_lxc.model.config import read_config
from oar_lxc.model.image_name import OWN, PUBLIC, ImageName
from oar_lxc.model.layout import JobLayout, check_job_id


def job_around() -> JobLayout | None:
    """Return the names of the job that this process runs in; None outside a job."""
    job = os.environ.get("OAR_JOB_ID", "")
    return JobLayout(check_job_id(job)) if job else None


def configured() -> Store:
    """Return the store of this machine's public images."""
    return Store(read_config().store)


def public() -> Store:
    """Return the store of public images; inside a job, as the job has it mounted."""
    job = job_around()
    return Store(job.images) if job else configured()


def stores_of(directory: Path | None) -> list[Store]:
    """Return the stores that the caller can read; the caller can write to the last one."""
    if directory is not None:
        return [Store(directory, archives=os.geteuid() != 0)]
    if os.geteuid() == 0:
        return [configured()]
    return [public(), Store.private()]


def every(directory: Path | None) -> Iterator[tuple[ImageRecord, Store]]:
    """Yield all images that the caller can see, each with its store."""
    for store in stores_of(directory):
        try:
            names = store.names()
        except ImageError:
            if os.geteuid() == 0 or directory is not None:
                raise
            continue  # on a node, outside a job, a user cannot read the public images
        for name in names:
            yield store.record(name), store


def find(text: str, directory: Path | None, *, writable: bool = False) -> tuple[Store, ImageName]:
    """Find an image; return its store and its name.

    Args:
        text: the image's name.
        directory: the store that the caller named, if any.
        writable: whether the image must be in the store that the caller can write to.

    Raises:
        ImageError: there is no such image; or it must be the caller's, and is public.
    """
    parsed = ImageName.parse(text)
    *others, own = stores_of(directory)
    if writable and not own.has(parsed) and any(store.shows(parsed) for store in others):
        raise ImageError(f"image {parsed} is public: only the administrator removes or pushes it")
    for store in () if writable else others:
        if store.shows(parsed):
            return store, parsed
    own.require(parsed)
    return own, parsed


def writable_store(directory: Path | None, name: ImageName, archive: bool) -> Store:
    """Return the store in which the caller makes images.

    Raises:
        ImageError: there is a public image of this name, which jobs would get instead.
    """
    *others, own = stores_of(directory)
    if any(store.shows(name) for store in others):
        raise ImageError(
            f"image {name} is the name of a public image, which jobs would get instead: give "
            "another name or tag"
        )
    own.archives |= archive
    return own


def whose(store: Store) -> str:
    """Return the owner of a store's images: ``OWN`` or ``PUBLIC``."""
    return OWN if store.root == Store.private().root else PUBLIC


def refuse_in_use(name: ImageName, digest: str) -> None:
    """Refuse to go on if a container on this machine uses an image.

    Root sees the mounts of all containers. Inside a job, the user sees which images the job's
    containers use.

    Raises:
        ImageError: a container uses it; the message names the jobs or the containers.
    """
    job = job_around()
    users: list[str] = []
    if os.geteuid() == 0:
        users = [str(use) for use in uses_of(name, digest)]
    elif job:
        users = [f"container {name}" for name in containers_using(digest, job)]
    if users:
        end = "them" if len(users) > 1 else "it"
        raise ImageError(
            f"image {name} is in use on this machine, by {', '.join(users)}: end {end}, or give "
            "--force"
        )
