"""The program that starts containers; it loads nothing but LXC.

:class:`oar_lxc.container.lxc_runtime.LxcRuntime` runs it, by an interpreter with ``-I -S``::

    starter.py PLACE AT_ONCE

PLACE is the directory of the lxc bindings; AT_ONCE is how many containers start at the same time.
The program reads a line ``NAME PATH`` for each container from standard input, where PATH is LXC's
directory of containers, and starts it. It writes a line ``NAME SECONDS PID`` for each container
that it tried; PID is the process id of its init, or -1 if it did not start.

Each container is started by a fork of its own. LXC moves the process that starts a container into
the cgroup of the container's monitor, and makes cgroups below those of that process: a second
container of the same process would lie in the first one's cgroup.

LXC forks often, and its monitors remain: modules that are not loaded here are not copied at each
fork, and take no memory in the monitors.
"""

import os
import sys
import time


def main() -> None:
    """Start the containers that standard input names."""
    place, at_once = sys.argv[1:]
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
            pid = container.init_pid if container.start() else -1
            os.write(1, f"{name} {time.monotonic() - begin:.4f} {pid}\n".encode())
            os._exit(0)
        running += 1
    while running:
        os.wait()
        running -= 1


if __name__ == "__main__":
    main()
