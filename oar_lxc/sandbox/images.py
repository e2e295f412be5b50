"""The cache of the machines' file systems: one Debian image, and a layer of packages per role.

The name of a cache entry has a digest of all its inputs. An entry is made under a name that begins
with ``.half-`` and renamed when it is complete. A later command removes what a killed command left
under such a name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from oar_lxc.image.apt import host_sources, lists_script
from oar_lxc.image.building import NO_SLOW_KEY, build_image
from oar_lxc.image.recipes import recipe_for
from oar_lxc.image.store import Store
from oar_lxc.linux.mounts import unmount_below
from oar_lxc.linux.run import run
from oar_lxc.linux.unshare import in_own_namespaces
from oar_lxc.linux.unsynced import unsynced
from oar_lxc.model.image_name import ImageName
from oar_lxc.sandbox.report import Report
from oar_lxc.sandbox.state import CACHE, locked
from oar_lxc.setup import deb, packages

# Increase it if a change of this module makes other file systems from the same packages.
FORMAT = 5

BASE = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "iproute2",
    "iputils-ping",
    "ca-certificates",
    "procps",
    "less",
    "python3",
)

ROLES = {
    "server": packages.SERVER,
    "frontend": (*packages.FRONTEND, "man-db", "wget"),  # what its users type
    "node": packages.NODE,
}

# Options of the host's apt without which downloads may not work here.
_APT_OPTIONS = (
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
)

_PREFIX = ".half-"
_MAN = "/usr/share/man/"
_UNREAD = ("/usr/share/doc/*", f"{_MAN}*", "/usr/share/locale/*")

# Runs in a mount namespace of its own, so that the host does not see its mounts.
_LAYER_SCRIPT = r"""
set -e
base=$1 half=$2 read=$3; shift 3
merged=$half/merged
mount -t overlay -o "lowerdir=$base,upperdir=$half/rootfs,workdir=$half/work" overlay "$merged"
mount -t proc proc "$merged/proc"
mount -t tmpfs tmpfs "$merged/run"
mount -t tmpfs tmpfs "$merged/tmp"
mount --rbind /dev "$merged/dev"
cp --remove-destination /etc/resolv.conf "$merged/etc/resolv.conf"
[ -z "$read" ] || sed -i "\|$read|d" "$merged/etc/dpkg/dpkg.cfg.d/sandbox"
# Nothing starts while packages are installed: this is a directory, not a machine.
printf '#!/bin/sh\nexit 101\n' > "$merged/usr/sbin/policy-rc.d"
chmod 755 "$merged/usr/sbin/policy-rc.d"
DEBIAN_FRONTEND=noninteractive chroot "$merged" "$@"
rm "$merged/usr/sbin/policy-rc.d"
"""


class Cache:
    """File systems that outlive a sandbox, shared by all checkouts.

    Args:
        report: gets the progress.
        root: the cache's directory.
    """

    def __init__(self, report: Report, root: Path = CACHE) -> None:
        self.report = report
        self.root = root

    def base(self, suite: str) -> Path:
        """Return the root directory of the image of a Debian release that all machines share."""
        sources = host_sources(suite)
        options = apt_options()
        names = [*BASE, *(name.split()[0] for name in deb.DEPENDS)]

        def make(half: Path) -> None:
            # A cache may be lost at a power failure, so dpkg need not sync. The exclusions are in
            # dpkg's configuration: as options of mmdebstrap, they would lead each package through
            # a slow filter in Python.
            quick = "\n".join(["force-unsafe-io", *(f"path-exclude={path}" for path in _UNREAD)])
            hook = f'printf %s {shlex.quote(quick)} > "$1/etc/dpkg/dpkg.cfg.d/sandbox"'
            # The package lists stay, so that the roles' layers need not fetch them again.
            more = (
                f"--setup-hook={NO_SLOW_KEY}",
                f"--essential-hook={hook}",
                '--customize-hook=rm "$1/etc/ssh/ssh_host_rsa_key"',
                "--skip=cleanup/apt/lists",
            )
            bootstrap(half, suite, "apt", names, sources, more)

        key = digest("base", *sources, *options, *names)
        return self.entry("base", key, f"image of the machines, Debian {suite}", make) / "rootfs"

    def layer(self, role: str, base: Path) -> Path:
        """Return the directory of the layer that a role's packages add to the image."""
        names = ROLES[role]

        def make(half: Path) -> None:
            for name in ("rootfs", "work", "merged"):
                (half / name).mkdir()
            # Users of a frontend read manual pages, too.
            read = _MAN if role == "frontend" else ""
            script = [_LAYER_SCRIPT, "layer", str(base), str(half), read]
            install = [*packages.APT_INSTALL, *names]
            run(in_own_namespaces(unsynced(["sh", "-c", *script, *install])), timeout=1200)
            shutil.rmtree(half / "work")
            (half / "merged").rmdir()

        key = digest("layer", base.parent.name, role, *names)
        return self.entry(f"layer-{role}", key, f"packages of role {role}", make) / "rootfs"

    def container_image(self, name: str, packages: Sequence[str] = ()) -> Path:
        """Return the directory of an image for containers, in the form of a node's store.

        Args:
            name: ``NAME`` or ``NAME:TAG``; NAME is a ready recipe.
            packages: packages to install besides those of the recipe.
        """
        parsed = ImageName.parse(name)
        recipe = recipe_for(parsed.name).with_packages(tuple(packages))

        sources = recipe.sources or host_sources(recipe.suite)

        def make(half: Path) -> None:
            build_image(Store(half), parsed, recipe)

        key = digest("image", name, recipe.fingerprint, *sources)
        kind, what = f"image-{parsed.directory}", f"image {name} of the containers"
        return self.entry(kind, key, what, make) / parsed.directory

    def entry(self, kind: str, key: str, what: str, make: Callable[[Path], None]) -> Path:
        """Return a cache entry; make it if it does not exist.

        Args:
            kind: the first part of its name; only one entry of a kind is made at a time.
            key: a digest of all its inputs.
            what: its name for people.
            make: makes the entry in the directory of its argument.
        """
        final = self.root / f"{kind}-{key}"
        if final.is_dir():
            return final
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)  # images have programs that are set-user-id root
        with locked(f".{kind}", locks=self.root):
            if final.is_dir():
                return final
            half = self.root / f"{_PREFIX}{kind}"
            _remove(half)
            half.mkdir()
            with self.report.step(f"building: {what}"):
                try:
                    make(half)
                    half.chmod(0o755)
                    os.rename(half, final)
                except BaseException:
                    _remove(half)
                    raise
        return final

    def purge(self) -> None:
        """Remove the caches."""
        _remove(self.root)


def digest(*parts: str) -> str:
    """Return a short digest of a cache entry's inputs."""
    text = json.dumps([FORMAT, *parts])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def bootstrap(
    half: Path,
    suite: str,
    variant: str,
    names: Sequence[str],
    sources: Sequence[str],
    more: Sequence[str] = (),
) -> None:
    """Make the root directory of a Debian machine in ``half/rootfs``; it keeps our apt's options.

    Args:
        half: a directory.
        suite: the Debian release.
        variant: mmdebstrap's word for the packages that are always in it.
        names: more packages.
        sources: lines of ``sources.list``.
        more: options of mmdebstrap.
    """
    listing = half / "sources.list"
    listing.write_text("\n".join(sources) + "\n")
    scratch = half / "tmp"
    scratch.mkdir()
    argv = [
        "mmdebstrap",
        "--mode=root",
        f"--variant={variant}",
        f"--include={','.join(names)}",
        *(f"--aptopt={option}" for option in apt_options()),
        f"--setup-hook={lists_script()}",
        *more,
        suite,
        str(half / "rootfs"),
        str(listing),
    ]
    run(in_own_namespaces(unsynced(argv)), env=os.environ | {"TMPDIR": str(scratch)}, timeout=1200)
    shutil.rmtree(scratch)
    _quieten(half / "rootfs")


def apt_options() -> list[str]:
    """Return this machine's values of the apt options in :data:`_APT_OPTIONS`."""
    argv = ["apt-config", "shell"]
    for number, name in enumerate(_APT_OPTIONS):
        argv += [f"v{number}", name]
    options = []
    for line in run(argv).stdout.splitlines():
        variable, _, value = line.partition("=")
        options.append(f'{_APT_OPTIONS[int(variable[1:])]} "{value.strip(chr(39))}"')
    return options


def _quieten(rootfs: Path) -> None:
    """Remove files that each machine has its own of, and mask units that disturb measurements."""
    for name in ("etc/hostname", "etc/resolv.conf", "etc/machine-id"):
        (rootfs / name).unlink(missing_ok=True)
    (rootfs / "etc/machine-id").touch()
    units = rootfs / "etc/systemd/system"
    for unit in _needless_units():
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")


def _needless_units() -> Sequence[str]:
    return (
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "dpkg-db-backup.timer",
        "e2scrub_all.timer",
        "fstrim.timer",
        "systemd-udevd.service",
        "systemd-udev-trigger.service",
        "systemd-networkd-wait-online.service",
        "console-getty.service",
        "getty.target",
    )


def _remove(path: Path) -> None:
    if path.exists():
        unmount_below(path)
        shutil.rmtree(path)
