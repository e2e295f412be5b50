"""Find the sources from which this machine's apt gets a Debian release, to build images."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oar_lxc.errors import ImageError
from oar_lxc.linux.lock import take
from oar_lxc.linux.run import run

# Debian's releases that each other's archive keyring vouches for, at the same mirrors.
RELEASES = ("bookworm", "trixie")
POCKETS = ("", "-updates", "-security")
OS_RELEASE = Path("/etc/os-release")
APT_STATE = "/var/lib/apt"
LISTS = Path(APT_STATE, "lists")


def lists_script(lists: Path = LISTS) -> str:
    """Return shell lines that copy this host's lists of packages into the system at ``$1``.

    apt in that system asks the mirrors for newer lists and compares the digests, which are signed.
    So it fetches and unpacks only the lists that are out of date.

    Args:
        lists: the directory in which this host's apt keeps its lists.
    """
    return (
        'mkdir -p "$1/var/lib/apt/lists"\n'
        f"for file in {shlex.quote(str(lists))}/*_dists_*_InRelease "
        f"{shlex.quote(str(lists))}/*_dists_*_Packages; do\n"
        '    cp --preserve=timestamps "$file" "$1/var/lib/apt/lists/" 2>/dev/null || true\n'
        "done"
    )


def host_sources(suite: str) -> list[str]:
    """Return the ``sources.list`` lines of a Debian release, as this host's apt uses it.

    apt names only sources whose lists it has. If it has none for the release, root fetches them.
    Another release of Debian comes from where this host's own does.

    Raises:
        ImageError: the host's apt does not know the release, nor where Debian's releases are.
    """
    lines = _sources(suite)
    if not lines and os.geteuid() == 0:
        with _alone():
            lines = _sources(suite)
            if not lines:
                run(["apt-get", "update", "-qq"], timeout=600, check=False)
                lines = _sources(suite)
    if not lines:
        raise ImageError(
            f"apt on this machine has no source for Debian {suite}: add one below /etc/apt and "
            "run apt-get update"
        )
    return lines


@contextmanager
def _alone() -> Iterator[None]:
    """Let only one oar-lxc fetch lists at a time, as a second apt fails instead of waiting."""
    fd = os.open(APT_STATE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        take(fd)
        yield
    finally:
        os.close(fd)


def _sources(suite: str) -> list[str]:
    lines = _known_sources(suite, suite)
    own = _own_release()
    if not lines and own != suite and {own, suite} <= set(RELEASES):
        lines = _known_sources(own, suite)
    return lines


def _own_release() -> str:
    """Return the code name of this machine's release; empty if it has none."""
    try:
        lines = OS_RELEASE.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    values = dict(line.partition("=")[::2] for line in lines)
    return values.get("VERSION_CODENAME", "").strip("\"'")


def _known_sources(known: str, suite: str) -> list[str]:
    """Return the lines of a release that apt knows, with the name of another one in its place."""
    releases = {f"{known}{pocket}": f"{suite}{pocket}" for pocket in POCKETS}
    form = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)"
    argv = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    lines = []
    for line in run(argv).stdout.splitlines():
        uri, release, component, signed_by = line.split("|")
        if release not in releases:
            continue
        # apt prints the field's name if the source has no such field.
        option = "" if signed_by.startswith("$") or not signed_by else f"[signed-by={signed_by}] "
        lines.append(f"deb {option}{uri} {releases[release]} {component}")
    return list(dict.fromkeys(lines))
