"""The stock way to the same containers: lxc-copy, lxc-start, lxc-destroy, as root, in a loop."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.container.layer import HOST_KEY
from oar_lxc.container.ssh_probe import wait_ssh
from oar_lxc.image.store import ROOTFS, Store
from oar_lxc.linux.run import run
from oar_lxc.model.image_name import ImageName
from tests.bench.timing import Timing

BRIDGE = "oarlxcbench"
SUBNET = "10.99.0"
BASE = "base"


@dataclass
class Stock:
    """A base container in a directory of its own, and clones of it."""

    directory: Path

    def measure(self, count: int) -> Timing:
        """Copy, start, wait for and destroy ``count`` containers, one after the other."""
        names = [f"stock{number + 1}" for number in range(count)]
        where = ["-P", str(self.directory)]
        addresses = {}
        begin = time.monotonic()
        try:
            for number, name in enumerate(names):
                addresses[name] = f"{SUBNET}.{number + 2}"
                run(["lxc-copy", *where, "-n", BASE, "-N", name, "-s", "-B", "overlayfs"])
                with (self.directory / name / "config").open("a") as config:
                    config.write(f"lxc.net.0.ipv4.address = {addresses[name]}/24\n")
                run(["lxc-start", *where, "-n", name])
            running = time.monotonic() - begin
            answered = set(wait_ssh(addresses, 120))
            ready = time.monotonic() - begin
            if answered != set(names):
                raise RuntimeError(f"no ssh from {sorted(set(names) - answered)}")
        finally:
            begin = time.monotonic()
            for name in names:
                run(["lxc-destroy", *where, "-f", "-n", name], check=False)
            destroyed = time.monotonic() - begin
        return Timing(running, ready, destroyed)


def rootfs_of(image: str) -> Path:
    """Return the root file system of an image of this machine's store."""
    return Store().directory(ImageName.parse(image)) / ROOTFS


@contextmanager
def stock() -> Iterator[Stock]:
    """Make the base container and its bridge; remove both in the end."""
    with tempfile.TemporaryDirectory(prefix="oar-lxc-bench-", dir="/var/lib") as name:
        directory = Path(name)
        rootfs = directory / BASE / "rootfs"
        rootfs.parent.mkdir()
        run(["cp", "-a", str(rootfs_of("debian-12")), str(rootfs)], timeout=300)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(rootfs / HOST_KEY)])
        (rootfs.parent / "config").write_text(
            f"lxc.uts.name = {BASE}\n"
            f"lxc.rootfs.path = dir:{rootfs}\n"
            "lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed\n"
            "lxc.autodev = 1\n"
            "lxc.tty.max = 0\n"
            "lxc.apparmor.profile = unconfined\n"
            "lxc.init.cmd = /sbin/init\n"
            "lxc.signal.halt = SIGRTMIN+3\n"
            "lxc.net.0.type = veth\n"
            f"lxc.net.0.link = {BRIDGE}\n"
            "lxc.net.0.flags = up\n"
        )
        lines = f"link add {BRIDGE} type bridge\nlink set {BRIDGE} up\n"
        lines += f"address add {SUBNET}.1/24 dev {BRIDGE}\n"
        run(["ip", "-batch", "-"], input=lines)
        try:
            yield Stock(directory)
        finally:
            run(["ip", "link", "del", BRIDGE], check=False)
