"""The stock way to rootless containers: lxc-copy and lxc-start in a loop, as the job's user.

It gets all that ours get: a job that the root side prepared, the image mounted with the job's ids,
delegated cgroups, a bridge, and addresses of the job's network.
"""

from __future__ import annotations

import os
import pwd
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from oar_lxc.model.layout import JobLayout
from oar_lxc.model.published import PublishedJob
from tests.bench.figures import cpu_seconds
from tests.pretend import CGROUPS, PretendJob, pretend_job

# What is run for each container: its name, its number.
_ONE = """\
set -e
lxc-copy -P {place} -n {base} -N $1 -s -B overlayfs
echo "lxc.net.0.ipv4.address = {network}.$((10 + $2))/{prefix}" >> {place}/$1/config
lxc-start -P {place} -n $1
"""


@dataclass
class Loop:
    """A pretend job in which the stock tools make containers.

    Attributes:
        job: the job.
        image: name of the image, and of the base container: lxc-copy wants it in the path.
        place: LXC's path: a directory that the user owns.
    """

    job: PretendJob
    image: str
    place: Path

    def __post_init__(self) -> None:
        layout = JobLayout(self.job.id)
        self.layout = layout
        self.published = PublishedJob.from_json(layout.published.read_text())
        gateway = IPv4Interface(self.published.gateway)
        self.network = str(gateway.ip).rpartition(".")[0]
        self.prefix = gateway.network.prefixlen
        ids = self.published.ids
        maps = [f"lxc.idmap = u {one}\n" for one in ids.uids]
        maps += [f"lxc.idmap = g {one}\n" for one in ids.gids]
        text = (
            f"lxc.uts.name = {self.image}\n"
            f"lxc.rootfs.path = dir:{layout.images / self.image / 'rootfs'}\n"
            "lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed\n"
            "lxc.autodev = 1\n"
            "lxc.tty.max = 0\n"
            "lxc.apparmor.profile = unconfined\n"
            "lxc.net.0.type = veth\n"
            f"lxc.net.0.link = {self.published.bridge}\n"
            "lxc.net.0.flags = up\n"
            f"lxc.log.file = {self.place}/log\nlxc.log.level = ERROR\n" + "".join(maps)
        )
        base = self.place / self.image
        self.run(f"mkdir {base}; cat > {base}/config <<'END'\n{text}END\n")

    def run(self, script: str, timeout: float = 600) -> float:
        """Run a script of bash as the job's user in the delegated cgroups; return its seconds."""
        enter = "".join(
            f"echo $$ > {shlex.quote(group)}/cgroup.procs\n" for group in self.published.cgroups
        )
        environ = {**self.job.environ(), "XDG_RUNTIME_DIR": str(self.layout.private)}
        begin = time.monotonic()
        with self.job.start(["bash", "-c", f"umask 022\n{enter}{script}"], environ) as process:
            out, err = process.communicate(timeout=timeout)
        seconds = time.monotonic() - begin
        if process.returncode:
            log = (self.place / "log").read_text() if (self.place / "log").exists() else ""
            raise RuntimeError(f"the stock tools failed: {out}{err}{log[-2000:]}")
        return seconds

    def start(self, names: Sequence[str], at_once: int = 1) -> tuple[float, float]:
        """Copy and start containers; return the seconds, and those of the processors."""
        one = _ONE.format(
            place=self.place, base=self.image, network=self.network, prefix=self.prefix
        )
        if at_once > 1:
            words = f"printf '%s\\n' {' '.join(f'{n}:{i}' for i, n in enumerate(names))}"
            each = "set -- ${1%:*} ${1#*:}\n" + one
            script = f"{words} | xargs -P{at_once} -I@ sh -c {shlex.quote(each)} sh @"
        else:
            calls = "".join(f"one {name} {number}\n" for number, name in enumerate(names))
            script = f"one() {{\n{one}}}\nset -e\n{calls}"
        before = cpu_seconds(self.cgroup)
        seconds = self.run(script)
        self._check(names)
        return seconds, cpu_seconds(self.cgroup) - before

    @property
    def cgroup(self) -> Path:
        """The job's cgroup that counts processor time."""
        return CGROUPS / "cpuacct" / self.job.cgroup.lstrip("/")

    def _check(self, names: Sequence[str]) -> None:
        script = "\n".join(f"lxc-info -P {self.place} -n {n} -s" for n in (names[0], names[-1]))
        self.run(f"({script}) | grep -c RUNNING | grep -qx 2")

    def destroy(self, names: Sequence[str]) -> float:
        """Destroy containers one after the other; return the seconds."""
        calls = "".join(f"lxc-destroy -P {self.place} -f -n {name}\n" for name in names)
        return self.run(f"set -e\n{calls}")


@contextmanager
def stock_job(job_id: int, user: str, image: str) -> Iterator[Loop]:
    """Make a pretend job for the stock tools; in the end it is gone."""
    with (
        tempfile.TemporaryDirectory(prefix="oar-lxc-bench-", dir="/var/lib") as name,
        pretend_job(job_id, user, all_cpus()) as job,
    ):
        account = pwd.getpwnam(user)
        os.chown(name, account.pw_uid, account.pw_gid)
        os.chmod(name, 0o755)  # containers' root passes through
        loop = Loop(job, image, Path(name))
        with granted(loop.published):
            yield loop


@contextmanager
def granted(published: PublishedJob) -> Iterator[None]:
    """Let newuidmap, newgidmap and lxc-user-nic serve the job's user during the block."""
    user = published.user
    ids = f"{user}:{published.first_id}:{published.id_count}\n"
    lines = {"/etc/subuid": ids, "/etc/subgid": ids}
    lines["/etc/lxc/lxc-usernet"] = f"{user} veth {published.bridge} 5000\n"
    before = {path: Path(path).read_bytes() for path in lines if Path(path).exists()}
    for path, line in lines.items():
        with Path(path).open("a") as file:
            file.write(line)
    try:
        yield
    finally:
        for path in lines:
            if path in before:
                Path(path).write_bytes(before[path])
            else:
                Path(path).unlink()


def all_cpus() -> str:
    """Return the CPUs of this machine, as the kernel lists them."""
    return Path("/sys/fs/cgroup/cpuset/cpuset.cpus").read_text().strip()
