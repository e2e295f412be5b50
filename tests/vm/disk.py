"""Make the disk of the virtual machine: Debian 13, and what this project needs on it.

All of it is made here, at this machine's speed: in the machine, a new process takes long.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from oar_lxc.image.store import PUBLIC_STORE
from oar_lxc.linux.run import run
from oar_lxc.sandbox.cluster import IMAGE
from oar_lxc.sandbox.images import ROLES, Cache, apt_options, bootstrap, digest
from oar_lxc.sandbox.report import Report
from oar_lxc.sandbox.state import CACHE
from oar_lxc.setup import deb, packages

SUITE = "trixie"
SIZE = "16G"  # most of it is a hole in the file
DISK = "disk.raw"
# What makes a Debian a machine, and the tests' own programs.
MACHINE = ("systemd", "systemd-sysv", "dbus", "libpam-systemd", "git", "make")
TESTS = ("nfs-kernel-server", "python3-hypothesis", "python3-pytest", "python3-pytest-xdist")
# What the machine runs once it has booted; the host gives it a directory.
SERVICE = "from-host.service"
SHARE = "/host"
SERIAL = "/dev/ttyS0"  # the host reads what comes there
UNIT = f"""\
[Unit]
Description=What the host asks for
After=multi-user.target

[Service]
Type=exec
ExecStartPre=mkdir -p {SHARE}
ExecStartPre=mount -t hostfs none {SHARE}
ExecStart={SHARE}/run
ExecStopPost=systemctl --no-block poweroff
StandardOutput=file:{SERIAL}
StandardError=inherit
"""
# They would only take time here, or ask the network.
MASKED = (
    "lxc.service",
    "lxc-net.service",
    "lxc-monitord.service",
    "lxcfs.service",
    "networking.service",
    "oar-node.service",
    "serial-getty@ttyS0.service",
    "ssh.service",
    "systemd-modules-load.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
)


def disk(report: Report, sources: Sequence[str], tools: Sequence[str]) -> Path:
    """Return the file that is the disk; make it if it shall have something else.

    Args:
        report: is told what is done.
        sources: the lines of ``sources.list`` for its Debian release.
        tools: the packages that a developer's machine has.
    """
    names = _names(tools)
    options = apt_options()

    def make(half: Path) -> None:
        # The lists of packages stay, so that the machine knows its release without a network.
        more = ("--skip=cleanup/apt/lists",)
        bootstrap(half, SUITE, "apt", names, sources, more)
        root = half / "rootfs"
        _write_files(root)
        # The sandbox in the machine, and tests of a node, find what they would make elsewhere.
        _copy(parts, _within(root, CACHE), _within(root, CACHE))
        images = _within(root, PUBLIC_STORE)
        _copy([parts[-1] / IMAGE], images, images.parent)
        argv = ["mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d", str(root)]
        run([*argv, str(half / DISK), SIZE], timeout=1200)
        shutil.rmtree(root)

    parts = _parts_of_sandbox(Cache(report))
    entries = [part.name for part in parts]
    key = digest("vm-disk", *sources, *options, *names, UNIT, *MASKED, *entries, SIZE)
    what = "the disk of the virtual machine, Debian 13"
    return Cache(report).entry("vm-disk", key, what, make) / DISK


def _within(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _copy(trees: Sequence[Path], target: Path, closed: Path) -> None:
    """Copy directories into another; ``closed`` is the one that only root enters."""
    target.mkdir(parents=True)
    closed.chmod(0o700)
    run(["cp", "-a", *map(str, trees), str(target)], timeout=600)


def _parts_of_sandbox(cache: Cache) -> list[Path]:
    """Return the cache entries that machines of the disk's release need; make what is missing."""
    base = cache.base(SUITE)
    layers = [cache.layer(role, base) for role in ROLES]
    return [path.parent for path in (base, *layers, cache.container_image(IMAGE))]


def _names(tools: Sequence[str]) -> list[str]:
    ours = [name.split()[0] for name in (*deb.DEPENDS, *packages.NODE)]
    return sorted({*MACHINE, *TESTS, *tools, *ours})


def _write_files(root: Path) -> None:
    name = "vm"
    texts = {
        "etc/hostname": f"{name}\n",
        "etc/hosts": f"127.0.0.1 localhost {name}\n::1 localhost ip6-localhost ip6-loopback\n",
        "etc/resolv.conf": "",
        "etc/fstab": "",
        f"etc/systemd/system/{SERVICE}": UNIT,
    }
    for path, text in texts.items():
        (root / path).write_text(text)
    units = root / "etc/systemd/system"
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    # After all that belongs to a boot, and only then.
    (units / "default.target").unlink(missing_ok=True)
    (units / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / SERVICE).symlink_to(f"../{SERVICE}")
