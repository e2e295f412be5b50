"""Start containers from a process that has nothing in it but LXC.

Run as a program by :class:`oar_lxc.container.runtime.LxcRuntime`, by an interpreter with
``-I -S``::

    starter.py PLACE AT_ONCE

PLACE is where the lxc bindings are. Containers are read from standard input, a line ``NAME PATH``
each, PATH being LXC's, and started as they come. A line ``NAME SECONDS PID`` is written for each
that was tried; the process id is that of its init, -1 where it did not start.

Each container is started by a fork of its own. LXC moves whoever starts a container into the
cgroup of its monitor, and makes cgroups below those of whoever starts: the second container of one
process would lie in the first one's. What is not loaded here need not be copied at LXC's many
forks, and stays out of the memory of the monitors that remain.
"""

import os
import sys
import time


def main() -> None:
    """Start the containers that are named, as many at once as asked."""
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
            break  # whoever asked is gone, and with it who would undo a start
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
