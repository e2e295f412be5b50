"""Say in the first second what this machine lacks to boot a virtual one.

Only Python's standard library is needed for it: nothing is installed yet.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.sandbox.host import GIB, available_memory, existing
from oar_lxc.sandbox.state import CACHE

CHECKOUT = Path(__file__).resolve().parents[2]
STATE = Path("/var/lib/oar-lxc-vm")
# The kernel keeps the machine's memory in a file there, and maps it to execute it.
MEMORY_FILES = Path("/dev/shm")
MEMORY = 3 * GIB  # of the machine
MEMORY_BESIDES = GIB // 2  # of programs here
DISK_TO_BUILD = 12 * GIB
DISK_TO_RUN = 4 * GIB
CACHED = ("vm-kernel-*", "vm-disk-*")


@dataclass(frozen=True)
class Host:
    """The facts about this machine.

    Attributes:
        is_root: whether this process is root.
        architecture: the name of the processor's architecture.
        memory: bytes that programs can still get.
        disk: free bytes on the file system of each directory.
        memory_files: free bytes in :data:`MEMORY_FILES`.
        executable: whether what lies there may be executed.
        cached: whether kernel and disk were built before.
        commit: whether the checkout has a commit; None if git is not there to ask.
    """

    is_root: bool
    architecture: str
    memory: int
    disk: dict[Path, int]
    memory_files: int
    executable: bool
    cached: bool
    commit: bool | None


def look() -> Host:
    """Return the facts about this machine."""
    files = os.statvfs(existing(MEMORY_FILES))
    return Host(
        is_root=os.geteuid() == 0,
        architecture=os.uname().machine,
        memory=available_memory(Path("/proc/meminfo").read_text()),
        disk={path: shutil.disk_usage(existing(path)).free for path in (CACHE, STATE)},
        memory_files=files.f_bavail * files.f_frsize if MEMORY_FILES.is_dir() else 0,
        executable=not files.f_flag & os.ST_NOEXEC,
        cached=all(any(CACHE.glob(pattern)) for pattern in CACHED),
        commit=_has_commit(),
    )


def problems(host: Host) -> list[str]:
    """Return a sentence for each thing that is missing, with what to do."""
    found = []
    if not host.is_root:
        found.append("this needs root, which makes the disk of the machine: run it as root")
    if host.architecture != "x86_64":
        found.append(
            f"the processor is {host.architecture}, and Debian has user-mode kernels for x86_64: "
            "use another machine"
        )
    wanted = MEMORY + MEMORY_BESIDES
    if host.memory < wanted:
        found.append(
            f"{host.memory / GIB:.1f} GiB of memory are left, and it needs {wanted / GIB:.1f}: "
            "end something"
        )
    if host.memory_files < MEMORY:
        found.append(
            f"{MEMORY_FILES} has {host.memory_files / GIB:.1f} GiB free, and the memory of the "
            f"machine lies there, {MEMORY / GIB:.0f} GiB: "
            f"mount -o remount,size={(MEMORY + GIB) >> 20}M {MEMORY_FILES}"
        )
    if not host.executable:
        found.append(
            f"{MEMORY_FILES} is mounted noexec, and the kernel executes the machine's memory "
            f"there: mount -o remount,exec {MEMORY_FILES}"
        )
    needed = DISK_TO_RUN if host.cached else DISK_TO_BUILD
    found += [
        f"{path} has {free / GIB:.1f} GiB free, and it needs {needed / GIB:.0f}: make room, or "
        "mount a larger file system there"
        for path, free in host.disk.items()
        if free < needed
    ]
    if host.commit is False:
        found.append("the checkout has no commit, and that is what is run: make one")
    return found


def refusal(found: list[str]) -> str:
    """Return what is told about a machine with problems."""
    return "\n".join(("this machine cannot boot a virtual one:", *found))


def _has_commit() -> bool | None:
    if shutil.which("git") is None:
        return None
    # The checkout may be somebody else's, and git asks root whether that is meant.
    argv = ["git", "-c", f"safe.directory={CHECKOUT}", "-C", str(CHECKOUT)]
    argv += ["rev-parse", "--quiet", "--verify", "HEAD"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def main() -> int:
    """Print what is missing; return 1 if something is."""
    found = problems(look())
    if found:
        print(f"make vm: {refusal(found)}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
