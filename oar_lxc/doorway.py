"""What acts on one container as the job's user, its standard streams passed straight through.

``python3 -m oar_lxc.doorway JOB attach CONTAINER [COMMAND …]`` becomes lxc-attach, with a terminal
where it has one; ``… JOB connect CONTAINER`` passes bytes to and from the container's sshd, for
ssh's ProxyCommand.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys

from oar_lxc.agent import configured_address, open_job
from oar_lxc.cgroups import enter_cgroups
from oar_lxc.container import LxcRuntime, environment_inside
from oar_lxc.errors import ContainerError, OarLxcError, UsageError
from oar_lxc.layout import JobLayout, check_job_id
from oar_lxc.readiness import SSH_PORT

CHUNK = 65536
SHELL = ("/bin/bash", "--login")


def main() -> None:
    """Open the door, or leave with one sentence."""
    try:
        if len(sys.argv) < 4 or sys.argv[2] not in ("attach", "connect"):
            raise UsageError("usage: python3 -m oar_lxc.doorway JOB attach|connect CONTAINER …")
        layout, published = open_job(check_job_id(sys.argv[1]))
        name = sys.argv[3]
        runtime = LxcRuntime(layout.containers, published.node)
        if name not in runtime.names():
            raise ContainerError(name, published.node, "there is no such container")
        state = runtime.state(name)
        if state != "RUNNING":
            raise ContainerError(name, published.node, f"it is {state}, not RUNNING")
        if sys.argv[2] == "attach":
            enter_cgroups(published.cgroups)
            attach(layout, name, sys.argv[4:] or list(SHELL))
        connect(configured_address(layout, name))
    except OarLxcError as error:
        sys.stderr.write(f"oar-lxc: {error}\n")
        sys.exit(error.exit_status)


def attach(layout: JobLayout, name: str, argv: list[str]) -> None:
    """Become lxc-attach, running a command as the container's root in a clean environment."""
    variables = environment_inside(layout.containers / name)
    if os.environ.get("TERM"):
        variables.append(f"TERM={os.environ['TERM']}")
    command = ["lxc-attach", "-P", str(layout.containers), "-n", name, "--clear-env", "--quiet"]
    for variable in variables:
        command += ["--set-var", variable]
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, for the command
        signal.signal(number, signal.SIG_DFL)
    os.execvp(command[0], [*command, "--", *argv])  # noqa: S606  # streams go straight through


def connect(address: str) -> None:
    """Pass bytes between the standard streams and a container's sshd until one side ends."""
    try:
        peer = socket.create_connection((address, SSH_PORT), timeout=10)
    except OSError as error:
        raise OarLxcError(f"sshd at {address} does not answer: {error}") from error
    peer.settimeout(None)
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(peer, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == 0:
                    data = os.read(0, CHUNK)
                    if data:
                        peer.sendall(data)
                    else:
                        selector.unregister(0)
                        peer.shutdown(socket.SHUT_WR)
                else:
                    data = peer.recv(CHUNK)
                    if not data:
                        return
                    while data:
                        data = data[os.write(1, data) :]


if __name__ == "__main__":
    main()
