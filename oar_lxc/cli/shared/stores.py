"""The stores of images that the caller of ``oar-lxc image`` may look into, and write to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from oar_lxc.errors import ImageError, UsageError
from oar_lxc.image.record import Record
from oar_lxc.image.store import Store
from oar_lxc.image.uses import containers_of, uses_of
from oar_lxc.model.config import read_config
from oar_lxc.model.image_name import OWN, PUBLIC, ImageName
from oar_lxc.model.layout import JobLayout, check_job_id


def job_around() -> JobLayout | None:
    """Return the names of the job that this process is in; None outside of jobs."""
    job = os.environ.get("OAR_JOB_ID", "")
    return JobLayout(check_job_id(job)) if job else None


def configured() -> Store:
    """Return the public images of this machine."""
    return Store(read_config().store)


def public() -> Store:
    """Return the public images as this process can see them: inside a job, by the job's mount."""
    job = job_around()
    return Store(job.images) if job else configured()


def stores_of(directory: Path | None) -> list[Store]:
    """Return the stores that the caller may look into; the last is the one to write to."""
    if directory is not None:
        return [Store(directory, archives=os.geteuid() != 0)]
    if os.geteuid() == 0:
        return [configured()]
    return [public(), Store.private()]


def every(directory: Path | None) -> Iterator[tuple[Record, Store]]:
    """Yield all images that the caller can see."""
    for store in stores_of(directory):
        try:
            names = store.names()
        except ImageError:
            if os.geteuid() == 0 or directory is not None:
                raise
            continue  # a user outside a job, on a node
        for name in names:
            yield store.record(name), store


def find(text: str, directory: Path | None, *, writable: bool = False) -> tuple[Store, ImageName]:
    """Return an image and where it is.

    Args:
        text: its name.
        directory: the store, where the caller named one.
        writable: whether it has to be one of the caller's.

    Raises:
        ImageError: there is none.
        UsageError: it has to be the caller's and is not.
    """
    parsed = ImageName.parse(text)
    *others, own = stores_of(directory)
    if writable and not own.has(parsed) and any(store.shows(parsed) for store in others):
        raise UsageError(f"image {parsed} is public: only the administrator removes or pushes it")
    for store in () if writable else others:
        if store.shows(parsed):
            return store, parsed
    own.require(parsed)
    return own, parsed


def writable_store(directory: Path | None, name: ImageName, archive: bool) -> Store:
    """Return the store in which the caller makes images.

    Raises:
        ImageError: jobs would get another image of this name instead.
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
    """Return whose images a store has."""
    return OWN if store.root == Store.private().root else PUBLIC


def refuse_in_use(name: ImageName, digest: str) -> None:
    """Refuse where a container on this machine is made of an image.

    Root sees the mounts of every container; in a job, users see what its containers are made of.

    Raises:
        ImageError: one is; the message says of which job, or which.
    """
    job = job_around()
    users: list[str] = []
    if os.geteuid() == 0:
        users = [str(use) for use in uses_of(name, digest)]
    elif job:
        users = [f"container {path.name}" for path in containers_of(digest, job.containers)]
    if users:
        end = "them" if len(users) > 1 else "it"
        raise ImageError(
            f"image {name} is in use on this machine, by {', '.join(users)}: end {end}, or give "
            "--force"
        )
