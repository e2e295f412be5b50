"""The fanout, which runs a program on many nodes at once, through oarsh.

The fanout is a program, ``oar_lxc.remote.fanout``. It reads an order (:class:`Order`), which is
one line of JSON, and then the input for the program on each node. It writes lines of JSON:

- :data:`oar_lxc.model.wire.UP` first;
- ``[node, "up"]`` when the program has begun on a node;
- ``[node, "line", text]`` for each line that the program writes;
- ``[node, "end", status, standard error]`` when the program has ended;
- an empty line each second, as a heartbeat.

The program on a node writes ``UP``, too, when it has begun. Text before that line comes from the
user's login shell, and matters only if the program does not begin. The program gets its input only
after that line, so that dotfiles which read standard input take nothing of it.

If the nodes are more than the width, the fanout divides them into branches. The first node of a
branch runs this same program, and gets an order for its branch when it has begun. If it does not
begin, nothing was done in the branch, and the fanout reaches the other nodes without it. If it is
lost later, the fanout reports an end, with the reason, for all nodes of the branch that have not
ended.

The fanout is a process of its own, which can be killed at any time. oarsh runs as user oar: the
job's user can neither kill its processes nor wait for them.
"""

from __future__ import annotations

import json
import math
import os
import resource
import selectors
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise

from oar_lxc.errors import CommandError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.error_exit import debug_words, exit_on_error, tell_on_stderr
from oar_lxc.linux.isolated import isolated
from oar_lxc.linux.run import Program
from oar_lxc.model.wire import UP
from oar_lxc.remote.agents import LOST, OARSH, SHELL_SECONDS, oarsh_environ, stuck_shell

UP_SECONDS = 10  # for the first node of a branch; after that, the others are reached without it
SILENT_SECONDS = 60  # without output from the first node of a branch: then it counts as lost
FILES = 3  # open files for each node
OTHER_FILES = 64
READ_SIZE = 1 << 16  # bytes


@dataclass(frozen=True)
class Order:
    """The program to run, and the nodes to run it on.

    Attributes:
        job: the id of the nodes' job.
        nodes: the nodes to run the program on, through oarsh.
        here: the name of this node, if the program is to run here, too; else empty.
        argv: the program and its arguments.
        python: the interpreter that has oar_lxc on the nodes.
        width: how many nodes may be reached directly from one node.
    """

    job: int
    nodes: Sequence[str]
    here: str
    argv: Sequence[str]
    python: str
    width: int

    def line(self) -> bytes:
        """Return the order as a line of JSON."""
        return json.dumps(vars(self)).encode() + b"\n"


class _Connection:
    """The connection to the program on one node.

    Args:
        fanout: gets the reports on the program.
        node: the node's name.
        argv: the command to start here: the program itself, or oarsh with the program.

    Attributes:
        node: the node's name.
        quiet: seconds since the last output from there.
    """

    def __init__(self, fanout: Fanout, node: str, argv: Sequence[str]) -> None:
        self.node = node
        self.quiet = 0
        self._fanout = fanout
        self._program = Program(argv, env=fanout.environ, one_of_many=True)
        self._watched: set[int] = set()
        self._up = False
        self._noise: list[str] = []
        self._part = b""  # an unfinished line
        self._unsent: list[memoryview] = []
        self._watch(self._program.stdout, selectors.EVENT_READ, self._read)

    def begin(self) -> None:
        """Report that the program has begun, and send its input."""
        self._fanout.tell(self.node, "up")
        self.send(self._fanout.input)

    def look(self) -> None:
        """Give the node up if the program does not begin in time; called each second."""
        self.quiet += 1
        if not self._up and self.quiet > SHELL_SECONDS:
            self.leave()
            self.end(LOST, stuck_shell())

    def send(self, *data: bytes) -> None:
        """Send all of the program's input, and close it."""
        self._unsent = [memoryview(part) for part in data if part]
        os.set_blocking(self._program.stdin, False)
        self._watch(self._program.stdin, selectors.EVENT_WRITE, self._write)

    def hear(self, line: bytes) -> None:
        """Take a line that the program wrote, or the login shell before it."""
        if not line:
            return  # a heartbeat
        if self._up:
            self.take(line)
        elif line == UP:
            self._up = True
            self.begin()
        else:
            self._noise.append(line.decode("utf-8", "surrogateescape"))

    def take(self, line: bytes) -> None:
        """Report a line that the program wrote."""
        self._fanout.tell(self.node, "line", line.decode("utf-8", "surrogateescape"))

    def end(self, status: int, said: str) -> None:
        """Report the program's exit status and its standard error."""
        self._fanout.tell(self.node, "end", status, self._all(said))

    def _all(self, said: str) -> str:
        """Return the standard error, after the shell's output if the program has not begun."""
        return said if self._up else "\n".join([*self._noise, said])

    def leave(self) -> None:
        """Drop the connection; the program ends when it can write no more."""
        for fd in tuple(self._watched):
            self._unwatch(fd)
        self._program.leave()
        self._fanout.connections.remove(self)

    def _write(self) -> None:
        with suppress(BrokenPipeError):
            while self._unsent:
                try:
                    sent = os.write(self._program.stdin, self._unsent[0])
                except BlockingIOError:
                    return
                self._unsent[0] = self._unsent[0][sent:]
                if not self._unsent[0]:
                    del self._unsent[0]
        self._unwatch(self._program.stdin)
        self._program.feed(b"")

    def _read(self) -> None:
        self.quiet = 0
        data = os.read(self._program.stdout, READ_SIZE)
        *lines, self._part = (self._part + data).split(b"\n")
        for line in lines:
            self.hear(line)
        if not data:
            self.hear(self._part)
            self._unwatch(self._program.stdout)
            # The process may end later than its output.
            pidfd = os.pidfd_open(self._program.pid)
            self._watch(pidfd, selectors.EVENT_READ, lambda: self._reap(pidfd))

    def _reap(self, pidfd: int) -> None:
        self._unwatch(pidfd)
        os.close(pidfd)
        status, said = self._program.wait(), self._program.said()
        self.leave()
        self.end(status, said)

    def _watch(self, fd: int, event: int, act: Callable[[], None]) -> None:
        self._fanout.selector.register(fd, event, act)
        self._watched.add(fd)

    def _unwatch(self, fd: int) -> None:
        self._fanout.selector.unregister(fd)
        self._watched.remove(fd)


class _Branch(_Connection):
    """The connection to the first node of a branch, which reaches the others.

    Args:
        fanout: gets the reports on all nodes of the branch.
        node: the first node.
        argv: the command to start here: oarsh with this module as the program.
        others: the other nodes of the branch.
    """

    def __init__(
        self, fanout: Fanout, node: str, argv: Sequence[str], others: Sequence[str]
    ) -> None:
        super().__init__(fanout, node, argv)
        self._others = others
        self._open = {node, *others}  # nodes that have not ended

    def begin(self) -> None:
        """Send the first node its order, and the program's input."""
        order = replace(self._fanout.order, nodes=self._others, here=self.node)
        self.send(order.line(), self._fanout.input)

    def take(self, line: bytes) -> None:
        """Pass on a report of the branch."""
        node, kind, *_ = json.loads(line)
        if kind == "end":
            self._open.discard(node)
        self._fanout.pass_on(line)

    def end(self, status: int, said: str) -> None:
        """Report the first node's end; then reach the others, or report their end.

        If the first node has not begun, reach the others without it. If it was lost later, report
        the end of those that have not ended.
        """
        said = self._all(said)
        others = [node for node in self._others if node in self._open]
        if self.node in self._open:
            self._fanout.tell(self.node, "end", status, said)
        if not self._up:
            self._fanout.reach(others)
            return
        why = (said.strip().splitlines() or [f"status {status}"])[-1]
        for node in others:
            self._fanout.tell(node, "end", LOST, f"{self.node}, which leads to it, is lost: {why}")

    def look(self) -> None:
        """Give the branch up if its first node is silent for too long; called each second."""
        super().look()
        if not self._up and self._others and self.quiet > UP_SECONDS:
            # The first node may still begin; it then runs the program on itself alone.
            others, self._others, self._open = self._others, (), {self.node}
            self._fanout.reach(others)
        elif self._up and self.quiet > SILENT_SECONDS:
            self.leave()
            self.end(LOST, f"nothing was heard of it for {SILENT_SECONDS} s")


class Fanout:
    """Carries out an order from this node.

    Args:
        order: the order.
        input: the program's input on each node.

    Attributes:
        order: the order.
        input: the program's input on each node.
        environ: the environment of the commands that are started here.
        connections: the open connections.
        selector: watches their pipes; the data of each is the function to call.
    """

    def __init__(self, order: Order, input: bytes) -> None:
        self.order = order
        self.input = input
        self.environ = {**os.environ, **oarsh_environ(order.job)}
        self.connections: list[_Connection] = []
        self.selector = selectors.DefaultSelector()
        self._told: list[bytes] = []

    def run(self) -> None:
        """Carry out the order.

        Raises:
            BrokenPipeError: the reader of our output is gone.
        """
        if self.order.here:
            self._start(self.order.here)
        _allow_files(FILES * len(self.order.nodes))
        self.reach(self.order.nodes)
        due = Deadline.after(1)
        while self.connections:
            for key, _ in self.selector.select(due.left()):
                # An earlier call of this round may have stopped watching this file.
                if self.selector.get_map().get(key.fd) is key:
                    key.data()
            if due.passed:
                # A round counts as one second, however long it took. It takes long when our reader
                # does not read; output of the nodes from that time is read only afterwards.
                due = Deadline.after(1)
                self.pass_on(b"")
                for connection in list(self.connections):
                    connection.look()
            self._flush()
        self._flush()

    def reach(self, nodes: Sequence[str]) -> None:
        """Run the program on nodes; in branches if they are more than the width."""
        if len(nodes) <= self.order.width:
            for node in nodes:
                self._start(node)
            return
        # About as many branches as nodes in a branch, so that each node has about the same work.
        count = min(self.order.width, math.isqrt(len(nodes) - 1) + 1)
        ends = [len(nodes) * i // count for i in range(count + 1)]
        for begin, end in pairwise(ends):
            self._start(*nodes[begin:end])

    def _start(self, node: str, *others: str) -> None:
        """Run the program on a node, and through this node on others."""
        order = self.order
        try:
            connection: _Connection
            if node == order.here:
                connection = _Connection(self, node, order.argv)
            elif others:
                lead = isolated("oar_lxc.remote.fanout", python=order.python)
                connection = _Branch(self, node, _oarsh(node, lead), others)
            else:
                connection = _Connection(self, node, _oarsh(node, order.argv))
        except CommandError as failed:
            for one in (node, *others):
                self.tell(one, "end", failed.status, failed.stderr)
            return
        self.connections.append(connection)

    def tell(self, *what: str | int) -> None:
        """Write a report on a node."""
        self.pass_on(json.dumps(what).encode())

    def pass_on(self, line: bytes) -> None:
        """Write a line, with the next flush."""
        self._told.append(line)

    def _flush(self) -> None:
        _write(b"".join(line + b"\n" for line in self._told))
        self._told.clear()


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


def _oarsh(node: str, argv: Sequence[str]) -> list[str]:
    # exec: the login shell runs nothing after the program, and so adds nothing to its output.
    return [*OARSH, node, f"exec {shlex.join([*debug_words(), *argv])}"]


def _allow_files(count: int) -> None:
    """Raise the limit of open files to ``count`` and some more, as far as allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OTHER_FILES
    if soft < wanted and soft != resource.RLIM_INFINITY:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def main() -> None:
    """Carry out the order on standard input."""
    with exit_on_error(tell_on_stderr):
        try:
            _write(b"\n" + UP + b"\n")  # the shell's text before may lack a newline
            line = sys.stdin.buffer.readline()
            if not line:
                return  # the caller is gone, and gave no order
            order = Order(**json.loads(line))
            Fanout(order, sys.stdin.buffer.read()).run()
        except BrokenPipeError:
            # The caller is gone. The programs on the nodes notice when this process is gone, too.
            sys.exit(LOST)


if __name__ == "__main__":
    main()
