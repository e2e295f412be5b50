"""Other container engines, as root, where they are installed and run on this machine.

Each is asked for what ours have, as far as it can: a user namespace, an overlay on the image, a
veth on a bridge. What the least takes that it can start, "bare", is told too. Theirs have one
process that sleeps, ours an init and what it starts.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from oar_lxc.errors import CommandError
from oar_lxc.linux.run import run
from tests.bench.figures import Figure, cpu_seconds
from tests.bench.ours import launch, our_job
from tests.bench.stock import rootfs_of
from tests.bench.timing import Spread, settle
from tests.pretend import CGROUPS, ordinary_user

ROW = "engines"
IMAGE = "busybox"
FIRST_JOB = 913_000
GROUP = CGROUPS / "cpuacct/oarlxcbench"
SLEEP = "86413"  # seconds; also how its processes are known
PATIENCE = 60.0
FIRST_ID = 1_900_000_000  # of the user namespaces
BRIDGE = "oarlxcbench"
SUBNET = "10.98"
# Given the state of a container on standard input, as the OCI's runtime specification has it.
_HOOK = f"""\
#!/bin/sh
pid=$(sed -n 's/.*"pid": *\\([0-9]*\\).*/\\1/p')
ip -batch - <<END
link add ve$pid type veth peer name eth0 netns $pid
link set ve$pid master {BRIDGE} up
END
nsenter -t $pid -n ip -batch - <<END
address add {SUBNET}.$((pid / 250 % 250)).$((pid % 250 + 2))/16 dev eth0
link set eth0 up
END
"""
Engine = Callable[[Path, int], str]  # returns a script: what starts, #stop, what stops


def measure(rounds: int, *, short: bool = False) -> list[Figure]:
    """Measure ours and theirs in turn."""
    count = 5 if short else 50
    rootfs = rootfs_of(IMAGE)
    ours: list[tuple[float, float]] = []
    theirs: dict[str, list[tuple[float, float]]] = {name: [] for name in ENGINES}
    notes: dict[str, str] = {}
    with ordinary_user() as user, _bridge():
        for number in range(rounds):
            with our_job(FIRST_JOB + number, user) as job:
                settle()
                launched = launch(job, IMAGE, count, "running")
                ours.append((launched.running, launched.cpu))
                launched.destroy()
            for name, values in theirs.items():
                if name in notes:
                    continue
                if shutil.which(name.partition(",")[0]) is None:
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
                    "" if name.endswith("bare") else "> 1",
                    notes.get(name, ""),
                )
            )
    return figures


def _measure(engine: Engine, rootfs: Path, count: int) -> tuple[float, float]:
    """Run an engine's script of bash in a cgroup of its own; return its seconds and CPU's."""
    GROUP.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="oar-lxc-bench-", dir="/var/lib") as name:
        Path(name).chmod(0o755)  # the containers' root passes through
        copy = Path(name) / "rootfs"
        run(["cp", "-a", str(rootfs), str(copy)])
        _shift(copy)
        script = engine(Path(name), count)
        settle()
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
            _unmount_below(name, end)


@contextmanager
def _bridge() -> Iterator[None]:
    run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    try:
        run(["ip", "link", "set", BRIDGE, "up"])
        yield
    finally:
        run(["ip", "link", "del", BRIDGE], check=False)


def _shift(rootfs: Path) -> None:
    """Give all files to the root of the user namespaces: the image's are all its root's."""
    paths = ["find", str(rootfs), "-exec", "chown", "-h", f"{FIRST_ID}:{FIRST_ID}", "{}", "+"]
    run(paths)


def _remove_group(end: float) -> None:
    while GROUP.exists() and time.monotonic() < end:
        try:
            GROUP.rmdir()
        except OSError:
            time.sleep(0.05)


def _unmount_below(place: str, end: float) -> None:
    """Unmount what is left; podman's own clean-up, which nobody waits for, mounts once more."""
    while any(place.encode() in line for line in _command_lines()) and time.monotonic() < end:
        time.sleep(0.05)
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    for point in reversed([line.split()[1] for line in mounts]):
        if point.startswith(f"{place}/"):
            run(["umount", point], check=False)


def _sleeping() -> int:
    """Return how many of the containers' processes there are."""
    wanted = f"/bin/sleep\0{SLEEP}\0".encode()
    return sum(line == wanted for line in _command_lines())


def _command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes()


def runc(place: Path, count: int) -> str:
    """Return the script for runc: a bundle with an overlay each, a hook that makes the veth."""
    hook = place / "hook"
    hook.write_text(_HOOK)
    hook.chmod(0o755)
    bundle = _runc_bundle(place, "rootfs", readonly=False)
    spec = json.loads((bundle / "config.json").read_text())
    spec["linux"]["namespaces"].append({"type": "user"})
    mapping = [{"containerID": 0, "hostID": FIRST_ID, "size": 65536}]
    spec["linux"].update(uidMappings=mapping, gidMappings=mapping)
    spec["hooks"] = {"createRuntime": [{"path": str(hook), "args": ["hook"]}]}
    (bundle / "config.json").write_text(json.dumps(spec))
    names = _names(count)
    return f"""
        for n in {names}; do
            d={place}/$n
            mkdir -p $d/upper $d/work $d/rootfs
            cp {bundle}/config.json $d
            layers=lowerdir={place}/rootfs,upperdir=$d/upper,workdir=$d/work
            mount -t overlay -o $layers,volatile overlay $d/rootfs
            runc run -d --bundle $d $n </dev/null
        done
        #stop
        for n in {names}; do runc delete -f $n; umount {place}/$n/rootfs; done
    """


def bare_runc(place: Path, count: int) -> str:
    """Return the script for runc at its least: one root directory for all, nothing to write to."""
    bundle = _runc_bundle(place, str(place / "rootfs"), readonly=True)
    names = _names(count)
    return f"""
        for n in {names}; do runc run -d --bundle {bundle} $n </dev/null; done
        #stop
        for n in {names}; do runc delete -f $n; done
    """


def podman(place: Path, count: int) -> str:
    """Return the script for podman: an overlay, ids, and a veth on the bridge that it makes."""
    ids = f"0:{FIRST_ID}:65536"
    return _podman(place, count, f"--network bridge --uidmap {ids} --gidmap {ids}")


def bare_podman(place: Path, count: int) -> str:
    """Return the script for podman at its least: an overlay, and no network."""
    return _podman(place, count, "--network none")


def nspawn(place: Path, count: int) -> str:
    """Return the script for systemd-nspawn: an overlay in memory, ids, a veth on the bridge."""
    ids = f"--private-users={FIRST_ID}:65536 --private-users-ownership=off"
    return _nspawn(place, count, f"{ids} --network-bridge={BRIDGE}")


def bare_nspawn(place: Path, count: int) -> str:
    """Return the script for systemd-nspawn at its least: an overlay in memory, no network."""
    return _nspawn(place, count, "--private-network")


def _names(count: int) -> str:
    return " ".join(f"oarlxcbench{number}" for number in range(count))


def _runc_bundle(place: Path, rootfs: str, *, readonly: bool) -> Path:
    bundle = place / "bundle"
    bundle.mkdir()
    run(["runc", "spec", "--bundle", str(bundle)])
    spec = json.loads((bundle / "config.json").read_text())
    spec["root"] = {"path": rootfs, "readonly": readonly}
    spec["process"]["terminal"] = False
    spec["process"]["args"] = ["/bin/sleep", SLEEP]
    (bundle / "config.json").write_text(json.dumps(spec))
    return bundle


def _podman(place: Path, count: int, more: str) -> str:
    options = f"--root {place}/root --runroot {place}/run --cgroup-manager cgroupfs"
    options += " --runtime runc"  # crun refuses hybrid cgroups
    create = f"podman {options} run -d {more} --name $n"
    create += " --ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
    create += f" --rootfs {place}/rootfs:O /bin/sleep {SLEEP}"
    names = _names(count)
    return f"""
        for n in {names}; do {create}; done
        #stop
        podman {options} rm -f -t 0 {names}
        ip link del cni-podman0
    """


def _nspawn(place: Path, count: int, more: str) -> str:
    options = f"--quiet --register=no --keep-unit --volatile=overlay --as-pid2 {more}"
    command = f"systemd-nspawn {options} -M $n -D {place}/rootfs /bin/sleep {SLEEP}"
    return f"""
        for n in {_names(count)}; do {command} </dev/null & done
        #stop
        for p in $(cat {GROUP}/cgroup.procs); do kill -9 $p; done
    """


ENGINES = {
    "runc": runc,
    "podman": podman,
    "systemd-nspawn": nspawn,
    "runc, bare": bare_runc,
    "podman, bare": bare_podman,
    "systemd-nspawn, bare": bare_nspawn,
}
