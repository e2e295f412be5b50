"""The attach program, which connects its standard streams to one container as the job's user.

It is called as ``oar_lxc.agent.attach JOB MARK WORDS``. :mod:`oar_lxc.linux.login_shell` packs
WORDS: an action, a container, and the action's arguments. Unless MARK is ``-``, the program writes
the mark to standard output and standard error as soon as it can begin the action, before anything
else. Actions:

``attach [COMMAND …]``
    Runs a command, or a shell, as the container's root. If standard input and output are a
    terminal, the command gets a terminal of the container's; otherwise it gets our streams as they
    are. The exit status is the command's.
``console``
    Opens the container's first terminal, with root logged in. Root stays logged in when the user
    leaves the console.
``log LINES [follow]``
    Prints the end of LXC's own log.
``connect``
    Passes bytes to and from the container's sshd, for ssh's ProxyCommand.
``ssh``
    Writes a line of JSON with the keys that an ssh client needs, then does what ``connect`` does.
"""

from __future__ import annotations

import json
import os
import select
import selectors
import signal
import socket
import sys
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from oar_lxc.agent.prepared import environ_here, open_job
from oar_lxc.container.command import environment_inside
from oar_lxc.container.job_namespaces import JobNamespaces
from oar_lxc.container.lxc_log import log_size, why_full
from oar_lxc.container.lxc_runtime import LxcRuntime
from oar_lxc.errors import ContainerError, JobError, OarLxcError, UsageError
from oar_lxc.linux.cgroups import enter_cgroups
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.error_exit import exit_on_error, tell_on_stderr
from oar_lxc.linux.login_shell import NO_MARK, mark_of, unpack
from oar_lxc.linux.signals import default_signals, shell_status
from oar_lxc.model.description import configured_address, read_description
from oar_lxc.model.layout import LOG_FILE, JobLayout, check_job_id
from oar_lxc.model.published import PublishedJob
from oar_lxc.model.states import RUNNING, not_running

CHUNK = 65536
ACTIONS = ("attach", "connect", "console", "log", "ssh")
SHELL = ("/bin/sh", "-c", "exec $(command -v bash || command -v sh) -l")
# lxc-attach stays in our working directory if the container has one of that name: go home instead.
AT_HOME = """\
cd
command -v "$1" >/dev/null 2>&1 || { echo "oar-lxc: $1: no such command in $0" >&2; exit 127; }
exec "$@"
"""
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
HANGUP_SECONDS = 5.0  # seconds between SIGHUP and SIGKILL for a command whose caller is gone

# Most consoles are never opened: the getty is started when a console is opened for the first time.
# It is on a terminal that lxc-console reads directly, and not on /dev/console, which passes
# through LXC's monitor: when clients come and go there, the monitor sometimes ends, and with it
# the container (LXC 5.0.2).
CONSOLE = "1"
_GETTY = """\
stty -F /dev/tty1 rows $1 cols $2 2>/dev/null
[ -d /run/systemd/system ] || { echo "init is not systemd" >&2; exit 1; }
cat > /run/systemd/system/oar-lxc-console.service <<'END'
[Unit]
Description=Console for oar-lxc
[Service]
Type=idle
ExecStart=-/sbin/agetty --noclear --noissue --autologin root tty1 $TERM
StandardInput=tty
StandardOutput=tty
TTYPath=/dev/tty1
UtmpIdentifier=tty1
IgnoreSIGPIPE=no
SendSIGHUP=yes
KillMode=process
Restart=always
RestartSec=0
END
systemctl is-active --quiet oar-lxc-console.service ||
    { systemctl daemon-reload && systemctl start oar-lxc-console.service; }
"""


def main() -> None:
    """Carry out the action, or exit with an error of one sentence."""
    with exit_on_error(tell_on_stderr, os.uname().nodename):
        os.umask(0o022)  # whatever the user's shell has set
        sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    if len(arguments) != 3:
        raise UsageError("usage: oar_lxc.agent.attach JOB MARK WORDS")
    job, token, packed = arguments
    try:
        action, name, *rest = unpack(packed)
    except ValueError as error:
        raise UsageError(f"{packed[:40]!r} are no packed words") from error
    if action not in ACTIONS:
        raise UsageError(f"action {action!r}; known: {', '.join(ACTIONS)}")
    layout, published = open_job(check_job_id(job))
    os.environ.update(environ_here(layout))
    namespaces = JobNamespaces(layout)
    namespaces.enter()
    runtime = LxcRuntime(layout.containers, namespaces, published.node, published.unified)
    if name not in runtime.names():
        raise ContainerError(name, published.node, "there is no such container")
    if action == "log":
        log(layout, name, rest, token)
    state = runtime.state(name)
    if state != RUNNING:
        raise ContainerError(name, published.node, not_running(state))
    if action in ("connect", "ssh"):
        connect(layout, name, token, with_keys=action == "ssh")
        return 0
    enter_cgroups(published.cgroups, published.unit)
    if action == "console":
        console(layout, published, runtime, name, token)
    argv = rest or list(SHELL)
    write_mark(token)
    if all(os.isatty(fd) for fd in (0, 1)):
        written = log_size(layout.containers / name)
        status = attach_terminal(layout, name, argv)
        if status and (full := why_full(layout.containers / name, written)):
            raise ContainerError(name, published.node, full)
    else:
        status = attach_streams(runtime, name, argv)
    return status


def write_mark(token: str) -> None:
    """Write the mark to both output streams, if the caller asks for one; ignore a closed one."""
    if token != NO_MARK:
        for fd in _outputs():
            with suppress(OSError):
                os.write(fd, mark_of(token))


def _outputs() -> tuple[int, ...]:
    """Return our output streams; on a terminal both are one, which gets one mark."""
    with suppress(OSError):  # one is closed
        if os.path.sameopenfile(1, 2):
            return (1,)
    return 1, 2


def attach_terminal(layout: JobLayout, name: str, argv: list[str]) -> int:
    """Run a command as the container's root on a terminal of the container's; return its status.

    lxc-attach makes the terminal, and keeps it at the size of our terminal.
    """
    variables = environment_inside(layout.containers / name)
    if os.environ.get("TERM"):
        variables.append(f"TERM={os.environ['TERM']}")
    command = ["lxc-attach", "-P", str(layout.containers), "-n", name]
    # LXC 6 does not write to the log of the container's configuration by itself.
    command += ["--clear-env", "--quiet", "--logfile", str(layout.containers / name / LOG_FILE)]
    for variable in variables:
        command += ["--set-var", variable]
    before = termios.tcgetattr(0)
    pid = os.fork()
    if pid == 0:
        try:
            default_signals()
            JobNamespaces(layout).become_lxc()
            command += ["--", "/bin/sh", "-c", AT_HOME, name, *argv]
            _become(command)  # lxc-attach reads and writes the terminal itself
        except (OSError, OarLxcError) as error:
            tell_on_stderr(str(error))
        finally:
            os._exit(127)
    try:
        _pass_line_ends(pid)
        return _wait(pid)
    finally:
        with suppress(termios.error):  # a killed lxc-attach leaves the terminal in raw mode
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def _pass_line_ends(pid: int) -> None:
    """Make our terminal add no carriage return: the container's terminal has added it already.

    lxc-attach turns that option on when it makes our terminal raw. So wait until the terminal is
    raw, and turn the option off.
    """
    end = Deadline.after(1)
    while not end.passed:
        with suppress(termios.error):
            now = termios.tcgetattr(0)
            if not now[3] & termios.ICANON:
                now[1] &= ~termios.OPOST
                termios.tcsetattr(0, termios.TCSANOW, now)
                return
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)


def attach_streams(runtime: LxcRuntime, name: str, argv: list[str]) -> int:
    """Run a command as the container's root with our streams; return its status.

    This does not use lxc-attach: if one of our streams is a terminal, lxc-attach makes a terminal
    for the command, and this changes the bytes that pass.
    """
    # A process outside the terminal's foreground group cannot read from the terminal.
    own_group = not any(os.isatty(fd) for fd in (0, 1, 2))
    pid = runtime.attach(name, argv, 0, 1, 2, own_group=own_group)
    return _wait(pid)


def _wait(pid: int) -> int:
    """Return the exit status of a child; pass signals on to it."""

    def forward(number: int, frame: FrameType | None) -> None:
        if number not in FROM_TERMINAL or not _in_foreground():
            _send(pid, number)

    for number in FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, for example, ignores SIGHUP
            signal.signal(number, forward)
    return _wait_or_hang_up(pid)


def _in_foreground() -> bool:
    """Whether the terminal sends Ctrl-C to the child, too, because it is in our group."""
    for fd in (0, 1, 2):
        with suppress(OSError):
            return os.tcgetpgrp(fd) == os.getpgrp()
    return False


def _wait_or_hang_up(pid: int) -> int:
    """Return the exit status of a child; end the child when the caller of oarsh is gone.

    When the caller is gone, sshd closes both of our output streams, and sends no signal.
    """
    child = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(child, select.POLLIN)
    heard = {1, 2}
    for fd in heard:
        poll.register(fd, 0)
    number, timeout = signal.SIGHUP, None
    while True:
        happened = {fd for fd, _ in poll.poll(timeout)}
        if child in happened:
            break
        for fd in happened & heard:
            poll.unregister(fd)
        heard -= happened
        if not heard:
            _send(pid, number)
            number, timeout = signal.SIGKILL, HANGUP_SECONDS * 1000
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return shell_status(code)


def _send(pid: int, number: int) -> None:
    """Send a signal to a child's process group, or to the child alone if it leads no group."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _become(argv: Sequence[str]) -> NoReturn:
    """Replace this process by a program.

    Raises:
        OarLxcError: the program does not exist, or cannot be run.
    """
    words = [word.encode("utf-8", "surrogateescape") for word in argv]
    try:
        os.execvp(words[0], words)  # noqa: S606
    except OSError as error:
        where = os.uname().nodename
        raise OarLxcError(f"node {where}: cannot run {argv[0]}: {error.strerror}") from error


def console(
    layout: JobLayout, published: PublishedJob, runtime: LxcRuntime, name: str, token: str
) -> None:
    """Replace this process by lxc-console on the container's first terminal.

    Raises:
        UsageError: our standard input is no terminal.
        ContainerError: no login can be started on the container's terminal.
    """
    if not os.isatty(0):
        raise UsageError("a console needs a terminal: run it from one, or use `oar-lxc exec`")
    out_r, out_w = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    columns, rows = os.get_terminal_size(0)
    script = ["sh", "-c", _GETTY, "sh", str(rows), str(columns)]
    pid = runtime.attach(name, script, null, out_w, out_w)
    os.close(out_w)
    with os.fdopen(out_r, errors="replace") as out:
        said = out.read().strip()
    if os.waitpid(pid, 0)[1] != 0:
        why = said.splitlines()[-1] if said else "sh ended without a word"
        raise ContainerError(name, published.node, f"nobody can log in at its console: {why}")
    write_mark(token)
    sys.stderr.write(f"console of {name}; leave it with Ctrl-a q, enter Ctrl-a as Ctrl-a Ctrl-a\n")
    sys.stderr.flush()
    argv = ["lxc-console", "-q", "-P", str(layout.containers), "-n", name, "-t", CONSOLE]
    default_signals()
    JobNamespaces(layout).become_lxc()
    _become(argv)  # lxc-console reads and writes the terminal itself


def log(layout: JobLayout, name: str, arguments: list[str], token: str) -> None:
    """Replace this process by ``tail`` on LXC's log of a container.

    Raises:
        UsageError: the number of lines is not valid.
    """
    if not arguments or not (arguments[0] == "+1" or arguments[0].isdecimal()):
        raise UsageError("usage: log CONTAINER LINES [follow]")
    follow = ["-F"] if arguments[1:] == ["follow"] else []
    path = layout.containers / name / LOG_FILE
    argv = ["tail", "-q", "-n", arguments[0], *follow, "--", str(path)]
    write_mark(token)
    default_signals()
    _become(argv)


def connect(layout: JobLayout, name: str, token: str, *, with_keys: bool = False) -> None:
    """Pass bytes between the standard streams and a container's sshd until one side ends.

    Args:
        layout: the job's names.
        name: the container.
        token: the token of the mark.
        with_keys: whether to write a line of JSON first, with the keys that a client needs.

    Raises:
        ContainerError: the container is not in the main network.
        OarLxcError: sshd does not answer, or breaks off the connection.
    """
    # Imported here because the other actions do not need them.
    from oar_lxc.agent.job_key import JobKey
    from oar_lxc.container.ssh_probe import SSH_PORT

    address = configured_address(layout, name)
    if not address:  # an empty one would lead to the node itself
        raise ContainerError(
            name,
            "",
            "it has no eth0 (main is false), so no ssh: use oar-lxc exec, shell, console or cp",
        )
    keys = b""
    if with_keys:
        try:
            known = {
                **JobKey(layout).to_client_data(),
                "host_key": str(read_description(layout.containers / name).get("host_key", "")),
            }
            keys = json.dumps(known).encode() + b"\n"
        except FileNotFoundError:
            raise JobError(
                f"job {layout.job_id} has no ssh key: it has not launched containers yet"
            ) from None
    try:
        peer = socket.create_connection((address, SSH_PORT), timeout=10)
    except OSError as error:
        raise OarLxcError(f"sshd of {name} at {address} does not answer: {_why(error)}") from error
    peer.settimeout(None)
    write_mark(token)
    os.write(1, keys)
    try:
        _pass_bytes(peer)
    except BrokenPipeError:
        pass  # the reader of our output is gone
    except OSError as error:
        raise OarLxcError(f"{name} broke off the connection to its sshd: {_why(error)}") from error


def _why(error: OSError) -> str:
    return error.strerror or str(error)


def _pass_bytes(peer: socket.socket) -> None:
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
