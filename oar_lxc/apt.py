"""Where this machine's apt gets a Debian release from: images are built from the same place."""

from __future__ import annotations

import os

from oar_lxc.errors import ImageError
from oar_lxc.run import run


def host_sources(suite: str) -> list[str]:
    """Return the ``sources.list`` lines of a Debian release, as this host's apt uses it.

    apt tells of sources whose lists it has: where it has none yet, root fetches them.

    Raises:
        ImageError: the host's apt does not know the release.
    """
    lines = _known_sources(suite)
    if not lines and os.geteuid() == 0:
        run(["apt-get", "update", "-qq"], timeout=600, check=False)
        lines = _known_sources(suite)
    if not lines:
        raise ImageError(
            f"apt on this machine has no source for Debian {suite}: add one below /etc/apt and "
            "run apt-get update"
        )
    return lines


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
