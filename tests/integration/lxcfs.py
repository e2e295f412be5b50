"""An lxcfs of the tests' own on this machine, which they may stop and kill."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from oar_lxc.container.lxc_config import LXCFS


@contextmanager
def running_lxcfs() -> Iterator[subprocess.Popen[bytes]]:
    """Run lxcfs where containers look for it; nothing may be mounted there."""
    assert not LXCFS.is_mount(), f"{LXCFS} is in use: stop this machine's own lxcfs"
    argv = ["lxcfs", "-f", "--enable-loadavg", "--enable-cfs", "-p", "/run/lxcfs-test.pid"]
    LXCFS.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [*argv, str(LXCFS)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 30
        while not LXCFS.is_mount() and time.monotonic() < end:
            time.sleep(0.02)
        assert LXCFS.is_mount()
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        subprocess.run(["umount", "--lazy", str(LXCFS)], check=False)
