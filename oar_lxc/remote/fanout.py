"""Run a program on many nodes at once, through oarsh: ``oar_lxc.remote.fanout``.

It reads an order (:class:`Order`), one line of JSON, and after it what the program is to read on
each node. It writes lines of JSON: :data:`oar_lxc.model.wire.UP` first; a list of node and
``up`` when the program has begun; one of node, ``line`` and text for each line that it writes;
and one of node, ``end``, exit status and standard error when it has ended. An empty line each
second tells that it is still there.

The program says that it is up by the same line. What stands before it is of the user's login
shell, and is of interest where the program does not come up. It is given what it is to read when
it is up: dotfiles that read their standard input get nothing of it.

More nodes than one is to reach are parted into branches. The first node of each runs this same
program, with an order for its branch. It gets the order when it is up, and not before: where it
does not get that far, nothing was done in its branch, and the others of it are reached without it.
Where it is lost later, those of its branch that have not ended are told as ended, with the reason.

A process of its own: oarsh runs as oar, whose processes a user can neither kill nor wait for. This
one can be killed at any time.
"""

from __future__ import annotations

import json
import math
import os
import resource
import selectors
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise

from oar_lxc.errors import CommandError
from oar_lxc.linux.ending import debug_words, one_sentence, tell_on_stderr
from oar_lxc.linux.isolated import isolated
from oar_lxc.linux.run import Program
from oar_lxc.model.wire import UP
from oar_lxc.remote.agents import LOST, OARSH, SHELL_SECONDS, oarsh_environ, stuck_shell

UP_SECONDS = 10  # for the first node of a branch; the others are reached without it then
SILENT_SECONDS = 60  # after which the first node of a branch is lost
FILES = 3  # that are open for each node
OTHER_FILES = 64
READ_SIZE = 1 << 16  # bytes


@dataclass(frozen=True)
class Order:
    """What is to be run where.

    Attributes:
        job: the job that the nodes are of.
        nodes: where the program runs.
        here: what this node is called, where it runs here too; else empty.
        argv: the program and its arguments.
        python: the interpreter that has oar_lxc on the nodes.
        width: how many nodes are reached from one.
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


class _Way:
    """The way to a program on one node.

    Args:
        fanout: what is told of it.
        node: the node's name.
        argv: what is started: the program itself, or oarsh with it.

    Attributes:
        node: the node's name.
        quiet: seconds in which nothing came from there.
    """

    def __init__(self, fanout: Fanout, node: str, argv: Sequence[str]) -> None:
        self.node = node
        self.quiet = 0
        self._fanout = fanout
        self._program = Program(argv, env=fanout.environ, one_of_many=True)
        self._watched: set[int] = set()
        self._up = False
        self._noise: list[str] = []
        self._part = b""  # of a line
        self._unsent: list[memoryview] = []
        self._watch(self._program.stdout, selectors.EVENT_READ, self._read)

    def begin(self) -> None:
        """Do what is to be done when the program is up."""
        self._fanout.tell(self.node, "up")
        self.send(self._fanout.input)

    def look(self) -> None:
        """Give it up where it does not come up; called each second."""
        self.quiet += 1
        if not self._up and self.quiet > SHELL_SECONDS:
            self.leave()
            self.end(LOST, stuck_shell())

    def send(self, *data: bytes) -> None:
        """Let the program read this, and no more."""
        self._unsent = [memoryview(part) for part in data if part]
        os.set_blocking(self._program.stdin, False)
        self._watch(self._program.stdin, selectors.EVENT_WRITE, self._write)

    def hear(self, line: bytes) -> None:
        """Take a line that the program wrote, or the login shell before it."""
        if not line:
            return  # it is still there
        if self._up:
            self.take(line)
        elif line == UP:
            self._up = True
            self.begin()
        else:
            self._noise.append(line.decode("utf-8", "surrogateescape"))

    def take(self, line: bytes) -> None:
        """Take a line that the program wrote."""
        self._fanout.tell(self.node, "line", line.decode("utf-8", "surrogateescape"))

    def end(self, status: int, said: str) -> None:
        """Take its exit status and what it wrote to its standard error."""
        self._fanout.tell(self.node, "end", status, self._all(said))

    def _all(self, said: str) -> str:
        """Return what was written to standard error, after the login shell's own words."""
        return said if self._up else "\n".join([*self._noise, said])

    def leave(self) -> None:
        """Have no more to do with the program, which ends when it can hand nothing on."""
        for fd in tuple(self._watched):
            self._unwatch(fd)
        self._program.leave()
        self._fanout.ways.remove(self)

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
            # It may stay a while yet.
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


class _Branch(_Way):
    """The way to the first node of a branch, which leads to the others.

    Args:
        fanout: what is told of it.
        node: the first node.
        argv: as above; it runs this module there.
        others: the other nodes of the branch.
    """

    def __init__(
        self, fanout: Fanout, node: str, argv: Sequence[str], others: Sequence[str]
    ) -> None:
        super().__init__(fanout, node, argv)
        self._others = others
        self._open = {node, *others}  # nodes that have not ended

    def begin(self) -> None:
        """Give the first node its order."""
        order = replace(self._fanout.order, nodes=self._others, here=self.node)
        self.send(order.line(), self._fanout.input)

    def take(self, line: bytes) -> None:
        """Pass on what the branch tells."""
        node, kind, *_ = json.loads(line)
        if kind == "end":
            self._open.discard(node)
        self._fanout.pass_on(line)

    def end(self, status: int, said: str) -> None:
        """Tell of those that had not ended, or reach them without the first node."""
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
        """Give it up where nothing is heard of it; called each second."""
        super().look()
        if not self._up and self._others and self.quiet > UP_SECONDS:
            # It may come up yet, and is then on its own.
            others, self._others, self._open = self._others, (), {self.node}
            self._fanout.reach(others)
        elif self._up and self.quiet > SILENT_SECONDS:
            self.leave()
            self.end(LOST, f"nothing was heard of it for {SILENT_SECONDS} s")


class Fanout:
    """What goes out from this node.

    Args:
        order: what to do.
        input: what the program is to read on each node.

    Attributes:
        order: likewise.
        input: likewise.
        environ: the environment of what is started.
        ways: the ways that are open.
        selector: watches their pipes, and calls what each came with.
    """

    def __init__(self, order: Order, input: bytes) -> None:
        self.order = order
        self.input = input
        self.environ = {**os.environ, **oarsh_environ(order.job)}
        self.ways: list[_Way] = []
        self.selector = selectors.DefaultSelector()
        self._told: list[bytes] = []

    def run(self) -> None:
        """Carry out the order.

        Raises:
            BrokenPipeError: nobody is there any more to tell it to.
        """
        if self.order.here:
            self._start(self.order.here)
        _allow_files(FILES * len(self.order.nodes))
        self.reach(self.order.nodes)
        due = time.monotonic() + 1
        while self.ways:
            for key, _ in self.selector.select(max(0.0, due - time.monotonic())):
                # What came before in this round may have ended the watch of it.
                if self.selector.get_map().get(key.fd) is key:
                    key.data()
            if time.monotonic() >= due:
                # However long a round took, it counts as one second: it takes long where nobody
                # reads what is told, and what was to be heard of nodes meanwhile comes after it.
                due = time.monotonic() + 1
                self.pass_on(b"")
                for way in list(self.ways):
                    way.look()
            self._flush()
        self._flush()

    def reach(self, nodes: Sequence[str]) -> None:
        """Run the program on nodes; in branches, where they are more than the width."""
        if len(nodes) <= self.order.width:
            for node in nodes:
                self._start(node)
            return
        # About as many branches as there are nodes in each: none has much more to do than others.
        count = min(self.order.width, math.isqrt(len(nodes) - 1) + 1)
        ends = [len(nodes) * i // count for i in range(count + 1)]
        for begin, end in pairwise(ends):
            self._start(*nodes[begin:end])

    def _start(self, node: str, *others: str) -> None:
        """Run the program on a node, and through it on others."""
        order = self.order
        try:
            way: _Way
            if node == order.here:
                way = _Way(self, node, order.argv)
            elif others:
                lead = isolated("oar_lxc.remote.fanout", python=order.python)
                way = _Branch(self, node, _oarsh(node, lead), others)
            else:
                way = _Way(self, node, _oarsh(node, order.argv))
        except CommandError as failed:
            for one in (node, *others):
                self.tell(one, "end", failed.status, failed.stderr)
            return
        self.ways.append(way)

    def tell(self, *what: str | int) -> None:
        """Tell something of a node."""
        self.pass_on(json.dumps(what).encode())

    def pass_on(self, line: bytes) -> None:
        """Tell what is a line already."""
        self._told.append(line)

    def _flush(self) -> None:
        _write(b"".join(line + b"\n" for line in self._told))
        self._told.clear()


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


def _oarsh(node: str, argv: Sequence[str]) -> list[str]:
    # exec: nothing that a shell does at its end comes after what the program writes.
    return [*OARSH, node, f"exec {shlex.join([*debug_words(), *argv])}"]


def _allow_files(count: int) -> None:
    """Let this process have so many files open, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OTHER_FILES
    if soft < wanted and soft != resource.RLIM_INFINITY:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def main() -> None:
    """Carry out the order on standard input."""
    with one_sentence(tell_on_stderr):
        try:
            _write(b"\n" + UP + b"\n")  # what a shell wrote before may lack the end of its line
            line = sys.stdin.buffer.readline()
            if not line:
                return  # whoever was to give an order is gone
            order = Order(**json.loads(line))
            Fanout(order, sys.stdin.buffer.read()).run()
        except BrokenPipeError:
            # Whoever asked is gone. What was started finds that out when this process is, too.
            sys.exit(LOST)


if __name__ == "__main__":
    main()
