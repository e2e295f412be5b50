"""The program that starts containers; it loads nothing but LXC.

:class:`oar_lxc.container.lxc_runtime.LxcRuntime` runs it, by an interpreter with ``-I -S``::

    starter.py PLACE AT_ONCE [CGROUP]

PLACE is the directory of the lxc bindings; AT_ONCE is how many containers start at the same time;
CGROUP is the job's delegated cgroup, if it is of version 2.
The program reads a line ``NAME PATH`` for each container from standard input, where PATH is LXC's
directory of containers, and starts it. It writes a line ``NAME SECONDS PID`` for each container
that it tried; PID is the process id of its init, or -1 if it did not start.

Each container is started by a fork of its own. LXC moves the process that starts a container into
the cgroup of the container's monitor, and makes cgroups below those of that process: a second
container of the same process would lie in the first one's cgroup. With version 2, these cgroups
get no controllers if another process is in the one above them, and no process can enter that one
again. So each start has a cgroup of its own, in the container's limit cgroup.

LXC forks often, and its monitors remain: modules that are not loaded here are not copied at each
fork, and take no memory in the monitors.
"""

import os
import sys
import time


def main() -> None:
    """Start the containers that standard input names."""
    place, at_once, *cgroup = sys.argv[1:]
    sys.path.append(place)
    from _lxc import Container

    parent = os.getppid()
    running = 0
    for line in sys.stdin:
        name, _, path = line.rstrip("\n").partition(" ")
        if running >= int(at_once):
            os.wait()
            running -= 1
        if os.getppid() != parent:
            break  # the caller is gone, and could no longer undo a start
        if os.fork() == 0:
            begin = time.monotonic()
            container = Container(name, path)
            inside = all(_enter(f"{job}/{name}/start-{os.getpid()}") for job in cgroup)
            pid = container.init_pid if inside and container.start() else -1
            os.write(1, f"{name} {time.monotonic() - begin:.4f} {pid}\n".encode())
            os._exit(0)
        running += 1
    while running:
        os.wait()
        running -= 1


def _enter(cgroup: str) -> bool:
    """Move this process into a new cgroup; return whether the kernel allowed it."""
    try:
        os.mkdir(cgroup, 0o755)  # noqa: PTH102  # pathlib is not loaded
        processes = os.open(f"{cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        os.write(processes, b"0")
        os.close(processes)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
