"""Whether the versions on a node fit each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from oar_lxc.doctor.findings import AS_ROOT, Finding, Machine, problem, unknown, warning, well
from oar_lxc.errors import ConfigError, ImageError
from oar_lxc.image.store import ROOTFS, Store
from oar_lxc.linux.mounts import read_mounts
from oar_lxc.linux.run import run
from oar_lxc.model.config import Config, read_config
from oar_lxc.setup.requirements import CGROUPS

LEAST_LXC = (5, 0)
FIRST_SYSTEMD_OF_V2 = 258  # of systemd's NEWS: support for cgroup v1 was removed
_LIBRARY = re.compile(r"libsystemd-shared-([0-9]+).*\.so")


def lxc(machine: Machine) -> Iterator[Finding]:
    """Look whether the system's Python loads LXC's bindings, and which LXC they load."""
    done = run(["/usr/bin/python3", "-c", "import lxc; print(lxc.version)"], check=False)
    yield judge_lxc(done.stdout.strip(), done.stderr)


def judge_lxc(version: str, error: str) -> Finding:
    """Return the finding for the version of LXC.

    Args:
        version: what the bindings say; empty if they cannot be loaded.
        error: why.
    """
    meaning = "No container starts on this node."
    mend = "apt-get install --reinstall python3-lxc lxc"
    if not version:
        why = (error.strip().splitlines() or ["it said nothing"])[-1]
        return problem(f"the bindings of LXC cannot be loaded ({why})", meaning, mend)
    if numbers(version) < LEAST_LXC:
        return problem(f"LXC is {version}, older than 5.0", meaning, mend)
    return well(f"LXC is {version}")


def cgroup_version() -> int:
    """Return the version of the cgroups at their usual place; 1 for both beside each other."""
    kinds = [mount.kind for mount in read_mounts(below=CGROUPS) if mount.point == CGROUPS]
    return 2 if kinds and kinds[-1] == "cgroup2" else 1


def images(machine: Machine) -> Iterator[Finding]:
    """Look whether there are images, and whether their systemd boots on this node."""
    try:
        store = Store(read_config().store)
    except ConfigError:
        store = Store(Config().store)
    try:
        found = {str(name): store.directory(name) / ROOTFS for name in store.names()}
    except (ImageError, PermissionError):
        yield unknown(f"only root can look into {store.root}", AS_ROOT)
        return
    if not found:
        yield warning(
            f"there is no image in {store.root}",
            "Jobs find only images of their users here.",
            "oar-lxc image build debian-12",
        )
    for name, root in found.items():
        yield judge_image(name, systemd_of(root) if root.is_dir() else None, cgroup_version())


def systemd_of(root: Path) -> int:
    """Return the version of systemd in a root file system; 0 if it has none."""
    libraries = (root / "usr/lib").glob("**/libsystemd-shared-*.so")
    found = [int(match[1]) for path in libraries if (match := _LIBRARY.fullmatch(path.name))]
    return max(found, default=0)


def judge_image(name: str, systemd: int | None, cgroups: int) -> Finding:
    """Return the finding for an image.

    Args:
        name: its name.
        systemd: the version of its systemd; 0 if it has none, None if that cannot be seen.
        cgroups: the version of this node's cgroups.
    """
    if systemd is None:
        return unknown(
            f"image {name} is packed, so its systemd is not seen", f"oar-lxc image show {name}"
        )
    if cgroups == 1 and systemd >= FIRST_SYSTEMD_OF_V2:
        return problem(
            f"image {name} has systemd {systemd}, which refuses cgroups of version 1, as this "
            "node has them",
            "Containers of this image do not boot here.",
            f"oar-lxc image rm {name} && oar-lxc image build debian-12",
        )
    return well(f"image {name} has {f'systemd {systemd}' if systemd else 'no systemd'}")


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (2, 5) of ``2.5.9-1+deb12u1``."""
    return tuple(map(int, re.findall(r"[0-9]+", version.partition("-")[0])[:2]))
