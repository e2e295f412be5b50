"""Other container engines, as root, where they are installed and run on this machine.

Theirs have no network of their own and one process that sleeps, ours have both an init and a veth
on the job's bridge: what is compared is the least that they can do.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from oar_lxc import image
from oar_lxc.errors import CommandError
from oar_lxc.run import run
from tests.bench.figures import Figure, cpu_seconds
from tests.bench.ours import launch, our_job
from tests.bench.timing import Spread
from tests.pretend import CGROUPS, ordinary_user

ROW = "engines"
IMAGE = "busybox"
FIRST_JOB = 913_000
GROUP = CGROUPS / "cpuacct/oarlxcbench"
SLEEP = "86413"  # seconds; also how its processes are known
PATIENCE = 60.0
Engine = Callable[[Path, Path, int], str]  # returns a script: what starts, #stop, what stops


def measure(rounds: int, *, short: bool = False) -> list[Figure]:
    """Measure ours and theirs in turn."""
    count = 5 if short else 50
    rootfs = image.find_image(IMAGE)
    ours: list[tuple[float, float]] = []
    theirs: dict[str, list[tuple[float, float]]] = {name: [] for name in ENGINES}
    notes: dict[str, str] = {}
    with ordinary_user() as user:
        for number in range(rounds):
            with our_job(FIRST_JOB + number, user) as job:
                launched = launch(job, IMAGE, count, "running")
                ours.append((launched.running, launched.cpu))
                launched.destroy()
            for name, values in theirs.items():
                if name in notes:
                    continue
                if shutil.which(name) is None:
                    notes[name] = "not installed"
                    continue
                try:
                    values.append(_measure(ENGINES[name], rootfs, count))
                except (CommandError, OSError, RuntimeError) as error:
                    notes[name] = f"does not run here: {str(error).strip().splitlines()[-1][:60]}"
    figures = []
    for name, values in theirs.items():
        for i, what in enumerate((f"start {count} small", "  CPU")):
            figures.append(
                Figure(
                    ROW,
                    what,
                    "s",
                    Spread(tuple(x[i] for x in ours)),
                    f"{name}, as root",
                    Spread(tuple(x[i] for x in values)) if name not in notes else None,
                    "> 1",
                    notes.get(name, ""),
                )
            )
    return figures


def _measure(engine: Engine, rootfs: Path, count: int) -> tuple[float, float]:
    """Run an engine's script of bash in a cgroup of its own; return its seconds and CPU's."""
    GROUP.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="oar-lxc-bench-", dir="/var/lib") as name:
        script = engine(rootfs, Path(name), count)
        start, _, stop = script.partition("#stop\n")
        before = cpu_seconds(GROUP)
        begin = time.monotonic()
        try:
            enter = f"echo $$ > {GROUP}/cgroup.procs\nset -e\n"
            with (Path(name) / "said").open("w+") as said:
                done = subprocess.run(
                    ["bash", "-c", enter + start],
                    stdout=said,
                    stderr=said,
                    check=False,
                    timeout=300,
                )
                said.seek(0)
                if done.returncode:
                    raise RuntimeError(said.read() or "it said nothing")
            while _sleeping() < count:
                if time.monotonic() - begin > PATIENCE:
                    raise RuntimeError(f"only {_sleeping()} of {count} came up")
                time.sleep(0.005)
            return time.monotonic() - begin, cpu_seconds(GROUP) - before
        finally:
            run(["bash", "-c", stop], check=False, timeout=300)
            end = time.monotonic() + PATIENCE
            while _sleeping() and time.monotonic() < end:
                time.sleep(0.05)
            _remove_group(end)


def _remove_group(end: float) -> None:
    while GROUP.exists() and time.monotonic() < end:
        try:
            GROUP.rmdir()
        except OSError:
            time.sleep(0.05)


def _sleeping() -> int:
    """Return how many of the containers' processes there are."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += path.read_bytes() == f"/bin/sleep\0{SLEEP}\0".encode()
        except OSError:
            continue
    return found


def runc(rootfs: Path, place: Path, count: int) -> str:
    """Return the script for runc: one bundle, many containers, their root read-only."""
    bundle = place / "bundle"
    bundle.mkdir()
    run(["runc", "spec", "--bundle", str(bundle)])
    spec = json.loads((bundle / "config.json").read_text())
    spec["root"] = {"path": str(rootfs), "readonly": True}
    spec["process"]["terminal"] = False
    spec["process"]["args"] = ["/bin/sleep", SLEEP]
    (bundle / "config.json").write_text(json.dumps(spec))
    names = " ".join(f"oarlxcbench{number}" for number in range(count))
    return (
        f"for n in {names}; do runc run -d --bundle {bundle} $n </dev/null; done\n"
        f"#stop\nfor n in {names}; do runc delete -f $n; done"
    )


def podman(rootfs: Path, place: Path, count: int) -> str:
    """Return the script for podman: an overlay on the image for each."""
    options = f"--root {place}/root --runroot {place}/run --cgroup-manager cgroupfs"
    options += " --runtime runc"  # crun refuses hybrid cgroups
    names = " ".join(f"oarlxcbench{number}" for number in range(count))
    create = f"podman {options} run -d --network none --name $n"
    create += " --ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
    create += f" --rootfs {rootfs}:O /bin/sleep {SLEEP}"
    return (
        f"for n in {names}; do {create}; done\n"
        f"#stop\npodman {options} rm -f -t 0 {names}; umount -R {place}/root/overlay || true"
    )


def nspawn(rootfs: Path, place: Path, count: int) -> str:
    """Return the script for systemd-nspawn: an overlay in memory on the image for each."""
    options = "--quiet --register=no --keep-unit --volatile=overlay --as-pid2 --private-network"
    command = f"systemd-nspawn {options} -M oarlxcbench$n -D {rootfs} /bin/sleep {SLEEP}"
    return (
        f"for n in $(seq {count}); do {command} </dev/null & done\n"
        f"#stop\nfor p in $(cat {GROUP}/cgroup.procs); do kill -9 $p; done"
    )


ENGINES = {"runc": runc, "podman": podman, "systemd-nspawn": nspawn}
