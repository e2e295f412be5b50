"""Sends, listens and measures in containers' network namespaces; runs on a node, as root.

It needs nothing of the containers' images, and shares no code with the software under test. Each
line that it reads is a JSON object of orders, by the label of a place; it prints the answers of
all places as one line. ``["enter", PID]`` makes a place of the network namespace of a process,
``["leave"]`` ends it; other orders name a method of :class:`Place` and its arguments.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO

PORT = 7007
SHOUT = 0x88B5  # an EtherType for experiments
SETTLE = 0.5  # seconds of a connection that are not measured
PAYLOAD = 64  # bytes of a counted packet


class Place:
    """A network namespace; what connects to it is told its label."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.server = socket.create_server(("0.0.0.0", PORT), backlog=64)
        self.counter = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.counter.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        self.counter.bind(("0.0.0.0", PORT))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            peer = self.server.accept()[0]
            threading.Thread(target=self._answer, args=(peer,), daemon=True).start()

    def _answer(self, peer: socket.socket) -> None:
        """Tell the label, then how many bits a second came after the beginning."""
        try:
            with peer:
                peer.sendall(f"{self.label}\n".encode())
                begin = first = last = 0.0
                size = 0
                while data := peer.recv(1 << 16):
                    last = time.monotonic()
                    begin = begin or last
                    if first:
                        size += len(data)
                    elif last - begin >= SETTLE:
                        first = last
                bits = size * 8 / (last - first) if last > first > 0 else 0.0
                peer.sendall(f"{bits}\n".encode())
        except OSError:
            pass  # the peer has gone

    def dial(self, addresses: list[str], seconds: int) -> dict[str, str]:
        """Return who answers at addresses, by ping and by TCP; nobody is an empty text."""
        with ThreadPoolExecutor(2 * len(addresses)) as pool:
            pings = [pool.submit(_ping, address, seconds) for address in addresses]
            calls = [pool.submit(_call, address, seconds) for address in addresses]
            answers = zip(addresses, calls, pings, strict=True)
            return {address: _both(c.result(), p.result()) for address, c, p in answers}

    def shout(self, device: str, seconds: float) -> list[str]:
        """Broadcast the label by a device; return the labels that it hears meanwhile."""
        heard = set()
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as ear:
            ear.bind((device, SHOUT))
            ear.settimeout(0.05)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                where = (device, SHOUT, 0, 0, b"\xff" * 6)
                ear.sendto(f"{self.label}\n".encode(), where)
                try:
                    while True:
                        data, (_, _, kind, *_) = ear.recvfrom(2048)
                        if kind != socket.PACKET_OUTGOING:
                            heard.add(data.partition(b"\n")[0].decode())
                except TimeoutError:
                    continue
        return sorted(heard)

    def rate(self, address: str, seconds: float) -> float:
        """Send by TCP; return how many bits a second arrived."""
        with socket.create_connection((address, PORT), 10) as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            reader = peer.makefile()
            reader.readline()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                peer.sendall(bytes(1 << 14))
            peer.shutdown(socket.SHUT_WR)
            return float(reader.readline())

    def send(self, address: str, count: int) -> None:
        """Send numbered packets by UDP, 2,000 a second."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for number in range(count):
                out.sendto(number.to_bytes(4, "big") + bytes(PAYLOAD - 4), (address, PORT))
                if number % 10 == 9:
                    time.sleep(0.005)

    def count(self) -> int:
        """Return how many different packets of :meth:`send` have come since the last call."""
        seen = set()
        self.counter.settimeout(0.5)
        try:
            while True:
                seen.add(self.counter.recv(2048)[:4])
        except TimeoutError:
            return len(seen)


def _ping(address: str, seconds: int) -> bool:
    """Whether an address answers one of the pings within some seconds."""
    argv = ["ping", "-n", "-c", "1", "-i", "0.3", "-w", str(seconds), address]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _call(address: str, seconds: float) -> str:
    """Return who accepts a TCP connection."""
    try:
        with socket.create_connection((address, PORT), seconds) as peer:
            return peer.makefile().readline().strip()
    except OSError:
        return ""


def _both(label: str, pings: bool) -> str:
    if pings == bool(label):
        return label
    return f"{label} by TCP alone" if label else "somebody by ping alone"


def enter(label: str, pid: int) -> tuple[int, TextIO, TextIO]:
    """Start a process in a network namespace; return its id and the ends of its pipes.

    It listens by then.
    """
    orders, to_child = os.pipe()
    from_child, answers = os.pipe()
    if (child := os.fork()) == 0:
        os.close(to_child)
        os.close(from_child)
        with open(f"/proc/{pid}/ns/net") as namespace:  # noqa: PTH123
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), 0) != 0:
                raise OSError(ctypes.get_errno(), f"setns {label}")
        place = Place(label)
        with os.fdopen(orders) as lines, os.fdopen(answers, "w") as out:
            print("ready", file=out, flush=True)
            for line in lines:
                verb, *arguments = json.loads(line)
                if verb == "leave":
                    break
                try:
                    answer = getattr(place, verb)(*arguments)
                except OSError as error:
                    answer = f"{verb}: {error}"
                print(json.dumps(answer), file=out, flush=True)
        os._exit(0)
    os.close(orders)
    os.close(answers)
    told = os.fdopen(from_child)
    if not told.readline():
        raise OSError(f"nothing listens in the place {label}")
    return child, os.fdopen(to_child, "w"), told


def main() -> None:
    """Carry out orders until there are no more."""
    places: dict[str, tuple[int, TextIO, TextIO]] = {}
    for line in sys.stdin:
        orders: dict[str, list[Any]] = json.loads(line)
        for label, (verb, *arguments) in orders.items():
            if verb == "enter":
                places[label] = enter(label, *arguments)
            else:
                print(json.dumps([verb, *arguments]), file=places[label][1], flush=True)
        answers: dict[str, Any] = {}
        for label, (verb, *_) in orders.items():
            if verb == "leave":
                os.waitpid(places.pop(label)[0], 0)
            elif verb != "enter":
                answers[label] = json.loads(places[label][2].readline())
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
