"""Images: unpacked root file systems that containers share, one directory each.

An image is ``NAME/rootfs`` in the image directory of a node, owned by root with the ids as they
are inside a container; each job sees it through a read-only mount that shifts them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.apt import host_sources
from oar_lxc.contain import contained, unmount_below
from oar_lxc.errors import ImageError
from oar_lxc.layout import IMAGES, STATE
from oar_lxc.run import run

DIRECTORY = STATE / IMAGES
ROOTFS = "rootfs"
RECORD = "image.json"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Recipe:
    """How an image is built from a Debian release.

    Attributes:
        suite: the release.
        packages: what is installed besides the minimal system.
    """

    suite: str
    packages: tuple[str, ...]


RECIPES = {
    "debian-12": Recipe(
        "bookworm",
        (
            "systemd",
            "systemd-sysv",
            "dbus",
            "openssh-server",
            "iproute2",
            "iputils-ping",
            "ca-certificates",
            "procps",
        ),
    ),
}

# Units that have no work in a container whose network and clock are the node's affair.
_MASKED = (
    "systemd-networkd-wait-online.service",
    "systemd-timesyncd.service",
    "systemd-resolved.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-udevd.service",
    "systemd-udevd-kernel.socket",
    "systemd-udevd-control.socket",
    "systemd-udev-trigger.service",
    "systemd-modules-load.service",
    "modprobe@.service",
    "systemd-sysusers.service",
    "systemd-hwdb-update.service",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "dev-hugepages.mount",
    "e2scrub_reap.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "getty.target",
)

# The host key is the job's, put there at launch: nothing has to be generated at boot.
_SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UseDNS no
"""


def check_name(name: str) -> str:
    """Return an image's name.

    Raises:
        ImageError: it is not one; what could name another directory is refused.
    """
    if _NAME.fullmatch(name) and ".." not in name:
        return name
    raise ImageError(
        f"image {name!r} is not an image name: small letters, digits, '.', '_' and '-', at most 64"
    )


def list_images(directory: Path = DIRECTORY) -> list[str]:
    """Return the names of the images in a directory; a missing directory has none.

    Raises:
        ImageError: the caller may not look into it.
    """
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise ImageError(
            f"only root may look into {directory}: run this in a job of type lxc, or as root"
        ) from error
    return [n for n in names if _NAME.fullmatch(n) and (directory / n / ROOTFS).is_dir()]


def find_image(name: str, directory: Path = DIRECTORY) -> Path:
    """Return the root file system of an image.

    Raises:
        ImageError: there is no such image; the message names those that exist.
    """
    rootfs = directory / check_name(name) / ROOTFS
    if rootfs.is_dir():
        return rootfs
    known = ", ".join(list_images(directory)) or "none"
    raise ImageError(f"image {name} does not exist on this node; images here: {known}")


def build(
    name: str, directory: Path = DIRECTORY, say: Callable[[str], None] | None = None
) -> Path:
    """Build an image by its recipe, unless it exists, and publish it whole.

    Args:
        name: one of :data:`RECIPES`.
        directory: where images are.
        say: is told what is done, a line at a time.

    Returns:
        The root file system's directory.

    Raises:
        ImageError: there is no such recipe, or a program that is needed is missing.
        CommandError: mmdebstrap failed; nothing is left of the attempt.
    """
    recipe = RECIPES.get(check_name(name))
    if recipe is None:
        raise ImageError(f"no recipe for image {name}; recipes: {', '.join(RECIPES)}")
    final = directory / name
    if (final / ROOTFS).is_dir():
        return final / ROOTFS
    if shutil.which("mmdebstrap") is None:
        raise ImageError("mmdebstrap is not installed: apt-get install mmdebstrap")
    if say:
        say(f"building image {name} from Debian's packages")
    start = time.monotonic()
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.mkdir(mode=0o755, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=directory))
    try:
        rootfs = half / ROOTFS
        temporary = half / "tmp"
        temporary.mkdir()
        sources = half / "sources.list"
        sources.write_text("\n".join(host_sources(recipe.suite)) + "\n")
        command = contained(_mmdebstrap(recipe, rootfs, sources))
        run(command, env={**os.environ, "TMPDIR": str(temporary)}, timeout=1800)
        shutil.rmtree(temporary)
        sources.unlink()
        _configure(rootfs)
        record = {"name": name, "suite": recipe.suite, "packages": recipe.packages}
        (half / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        half.chmod(0o755)
        os.rename(half, final)
    except BaseException:
        unmount_below(half)
        shutil.rmtree(half, ignore_errors=True)
        raise
    if say:
        say(f"built image {name} in {time.monotonic() - start:.0f} s")
    return final / ROOTFS


def fingerprint(name: str) -> str:
    """Return a text that changes whenever :func:`build` would make another image of the name."""
    return repr((RECIPES[name], _MASKED, _SSHD))


def _mmdebstrap(recipe: Recipe, rootfs: Path, sources: Path) -> list[str]:
    return [
        "mmdebstrap",
        "--variant=minbase",
        "--mode=root",
        f"--include={','.join(recipe.packages)}",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        recipe.suite,
        str(rootfs),
        str(sources),
    ]


def _configure(rootfs: Path) -> None:
    """Let a Debian system boot fast in a container, and make no keys of its own."""
    for key in (rootfs / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (rootfs / "etc/ssh/sshd_config.d/oar-lxc.conf").write_text(_SSHD)
    for unit in _MASKED:
        link = rootfs / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    default = rootfs / "etc/systemd/system/default.target"
    default.unlink(missing_ok=True)
    default.symlink_to("/lib/systemd/system/multi-user.target")
    (rootfs / "etc/machine-id").write_text("")
    (rootfs / "etc/hostname").unlink(missing_ok=True)
    (rootfs / "etc/fstab").write_text("")
