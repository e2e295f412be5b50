"""What users do in their containers to survive the end of the job; all end by oardel."""

from __future__ import annotations

from tests.e2e.cluster import ENDED
from tests.matrix.cgroups import directory, freezing, is_frozen
from tests.matrix.kills import end
from tests.matrix.registry import fault
from tests.matrix.row import Row
from tests.matrix.world import MatrixJob

FILES = 100_000
FORKS = 200


def finish(row: Row, job: MatrixJob) -> None:
    """Delete the job that has done its worst."""
    row.delete(job)
    row.wait("the job ends", lambda: job.state in ENDED, row.fault.patience)


def path_of(row: Row, job: MatrixJob, node: str, controller: str) -> str:
    """Return the cgroup of a container on a node, where its hierarchy is mounted."""
    return directory(row.inits(job, node)[0].cgroup, controller).removesuffix("/init.scope")


@fault("frozen", "a container that its user froze", short=True, soak=True)
def frozen(row: Row) -> None:
    """SIGKILL waits until it thaws."""
    job = row.run()
    node = row.other(job)
    path = path_of(row, job, node, "freezer")
    user_namespace = f"--user=/var/lib/oar-lxc/jobs/{job.id}/namespaces/user"
    become_root = ("nsenter", user_namespace, "--setuid=0", "--setgid=0", "--")
    row.world.as_user(node, row.user, *become_root, "sh", "-c", freezing(path))
    row.wait("the container is frozen", lambda: is_frozen(row.world, node, path), 10)
    finish(row, job)


@fault("frozen-nested", "frozen cgroups that a container's root nested", soak=True)
def frozen_nested(row: Row) -> None:
    """Three levels below the container's own cgroup."""
    job = row.run()
    nest = "/sys/fs/cgroup/freezer/a/b/c"
    said = row.inside(
        job,
        "vm1",
        f"mkdir -p {nest}; sleep 9999 >/dev/null 2>&1 & "
        "until grep -q sleep /proc/$!/comm; do sleep 0.05; done; "
        f"echo $! > {nest}/cgroup.procs; "
        f"echo FROZEN > {nest}/freezer.state; sleep 0.2; cat {nest}/freezer.state",
    )
    row.require("FROZEN" in said, f"the nested cgroup is {said!r}")
    finish(row, job)


@fault("deep-cgroups", "cgroups nested a thousand deep by a container's root", soak=True)
def deep_cgroups(row: Row) -> None:
    """Deeper than fits into a path."""
    job = row.run()
    nest = (
        'chdir "/sys/fs/cgroup/pids" or die; for (1..1000) { '
        'mkdir "nested" or die $!; chdir "nested" or die $! } '
        'open(my $procs, ">", "cgroup.procs") or die $!; syswrite($procs, "0") or die $!; '
        'print "nested\\n"; exec "setsid sleep 9999 >/dev/null 2>&1 &"'
    )
    said = row.inside(job, "vm1", f"perl -e '{nest}'")
    row.require("nested" in said, f"cgroups were not nested: {said!r}")
    finish(row, job)


@fault("systemd", "containers with systemd's own cgroups", soak=True)
def systemd(row: Row) -> None:
    """Services that systemd started, each in a cgroup of its own."""
    job = row.run()
    row.inside(job, "vm2", "systemd-run --unit matrix --slice one-two-three sleep 9999")
    node = row.other(job)
    path = f"{path_of(row, job, node, 'pids')}/one.slice/one-two.slice"
    found = row.world.on(node, "find", path, "-name", "matrix.service").stdout
    row.require(found, f"{node} has no service below {path}")
    finish(row, job)


@fault("nested-container", "a container in the container, with cgroups of its own", soak=True)
def nested_container(row: Row) -> None:
    """User, process and mount namespaces one level down, in a cgroup one level down."""
    job = row.run()
    said = row.inside(
        job,
        "vm1",
        "for c in pids freezer memory; do mkdir -p /sys/fs/cgroup/$c/inner/deep; done; "
        "setsid sh -c 'for c in pids freezer memory; do "
        "echo $$ > /sys/fs/cgroup/$c/inner/deep/cgroup.procs; done; "
        "exec unshare --user --map-root-user --pid --fork --mount "
        'sh -c "mount -t tmpfs inner /mnt && exec sleep 4242"\' >/tmp/inner 2>&1 & '
        "for n in $(seq 100); do sleep 0.1; "
        "inner=$(pgrep -xf 'sleep 4242') && break; done; cat /tmp/inner; "
        "readlink /proc/1/ns/user; readlink /proc/$inner/ns/user; cat /proc/$inner/cgroup",
        check=False,
    )
    namespaces = {word for word in said.split() if word.startswith("user:")}
    row.require(len(namespaces) == 2, f"the inner one is not there: {said!r}")
    row.require(":pids:/inner/deep" in said, f"it has no cgroups of its own: {said!r}")
    finish(row, job)


@fault("ignores-signals", "processes that ignore every signal", soak=True)
def ignores_signals(row: Row) -> None:
    """Twenty of them, which start themselves anew."""
    job = row.run()
    script = (
        "for n in $(seq 20); do "
        'setsid sh -c \'trap "" HUP INT QUIT USR1 USR2 PIPE ALRM TERM TSTP TTIN TTOU; '
        "while :; do sleep 777; done' >/dev/null 2>&1 & done; "
        "sleep 0.5; pkill -TERM -x sleep; sleep 0.5; pgrep -cx sleep"
    )
    said = row.inside(job, "vm1", script)
    row.require(int(said.split()[-1]) >= 20, f"not all of them live: {said!r}")
    finish(row, job)


@fault("fork-bomb", "a fork bomb", soak=True)
def fork_bomb(row: Row) -> None:
    """As many processes as there may be, each starting others as fast as it can."""
    job = row.run()
    node = row.other(job)
    group = path_of(row, job, node, "pids")
    # The machine on which the test runs must survive it.
    row.world.on(node, "sh", "-c", f"echo {FORKS} > {group}/pids.max")
    limit = row.world.on(node, "cat", f"{group}/pids.max").stdout.strip()
    row.require(limit == str(FORKS), f"the bomb has no limit: {limit}")
    bomb = "setsid perl -e 'while (1) { fork() }' >/dev/null 2>&1 &"
    row.inside(job, "vm2", bomb)
    row.wait(
        "the bomb has all processes that it may",
        lambda: int(row.world.on(node, "cat", f"{group}/pids.current").stdout) >= FORKS * 0.95,
    )
    finish(row, job)


@fault("many-files", f"a container of {FILES // 1000}000 files", soak=True)
def many_files(row: Row) -> None:
    """Files and directories, in one container on each node."""
    job = row.run()
    script = (
        "mkdir -p /root/many && cd /root/many && "
        f"seq {FILES // 1000} | xargs mkdir && "
        f"for d in $(seq {FILES // 1000}); do seq -f $d/%g 1000; done | xargs touch; "
        "find . -type f | wc -l"
    )
    said = row.inside(job, "vm1", script, seconds=120)
    row.require(int(said) == FILES, f"there are {said.strip()} files")
    finish(row, job)


@fault("open-files", "a root process of the node has files of the job open", soak=True)
def open_files(row: Row) -> None:
    """It works in the job's directory, and holds its images open; it must survive."""
    job = row.run()
    node = row.other(job)
    directory = f"/var/lib/oar-lxc/jobs/{job.id}"
    # The path must not stand in its arguments: it is a process that does not look like the job's.
    script = (
        "import os, sys, time\n"
        f"os.chdir('{directory}/containers')\n"
        f"files = [open('{directory}/job.json'), os.open('{directory}/images', os.O_RDONLY)]\n"
        "child = os.fork()\n"
        "if child: print(child); sys.exit()\n"
        "os.setsid()\n"
        "for n in (0, 1, 2): os.dup2(os.open('/dev/null', os.O_RDWR), n)\n"
        "time.sleep(600)\n"
    )
    pid = int(row.world.on(node, "python3", "-I", "-", stdin=script).stdout)
    holder = next(x for x in row.world.processes(node) if x.pid == pid)
    row.stack.callback(end, row, holder)
    where = row.world.on(node, "readlink", f"/proc/{pid}/cwd").stdout.strip()
    row.require(where.startswith(directory), f"the process is in {where}")
    finish(row, job)
    row.require(row.world.lives(holder), "the root process that only looked was killed")
