"""Where this machine's apt gets a Debian release from: images are built from the same place."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from oar_lxc.errors import ImageError
from oar_lxc.run import run

STATE = "/var/lib/apt"


def host_sources(suite: str) -> list[str]:
    """Return the ``sources.list`` lines of a Debian release, as this host's apt uses it.

    apt tells of sources whose lists it has: where it has none yet, root fetches them.

    Raises:
        ImageError: the host's apt does not know the release.
    """
    lines = _known_sources(suite)
    if not lines and os.geteuid() == 0:
        with _alone():
            lines = _known_sources(suite)
            if not lines:
                run(["apt-get", "update", "-qq"], timeout=600, check=False)
                lines = _known_sources(suite)
    if not lines:
        raise ImageError(
            f"apt on this machine has no source for Debian {suite}: add one below /etc/apt and "
            "run apt-get update"
        )
    return lines


@contextmanager
def _alone() -> Iterator[None]:
    """Let no other of us fetch lists meanwhile: apt does not wait for one that does, but fails."""
    fd = os.open(STATE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _known_sources(suite: str) -> list[str]:
    wanted = (suite, f"{suite}-updates", f"{suite}-security")
    form = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)"
    argv = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    lines = []
    for line in run(argv).stdout.splitlines():
        uri, release, component, signed_by = line.split("|")
        if release not in wanted:
            continue
        # apt prints the field's name where the source does not say it.
        option = "" if signed_by.startswith("$") or not signed_by else f"[signed-by={signed_by}] "
        lines.append(f"deb {option}{uri} {release} {component}")
    return list(dict.fromkeys(lines))
