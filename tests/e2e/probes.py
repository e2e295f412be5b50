"""What passes between containers of running jobs, as probes in their network namespaces see it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.cluster import Cluster, wait_until

PROBER = Path(__file__).parent / "prober.py"
Table = dict[str, dict[str, str]]


class Probes:
    """A prober on each node; each place has a label, by which it answers.

    Args:
        programs: the prober of each node, by the node's name.
    """

    def __init__(self, programs: Mapping[str, subprocess.Popen[str]]) -> None:
        self._programs = programs
        self._nodes: dict[str, str] = {}

    def enter(self, places: Mapping[str, tuple[str, int]]) -> None:
        """Make places of network namespaces, each given by a node and a process there."""
        self._nodes |= {label: node for label, (node, _) in places.items()}
        self.ask({label: ["enter", pid] for label, (_, pid) in places.items()})

    def leave(self, labels: Iterable[str]) -> None:
        """End places, so that nothing of the probes keeps their namespaces."""
        known = [label for label in labels if label in self._nodes]
        self.ask({label: ["leave"] for label in known})
        for label in known:
            del self._nodes[label]

    def ask(self, orders: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Have places carry out an order each, all at the same time; return their answers."""
        answers: dict[str, Any] = {}
        nodes = {self._nodes[label] for label in orders}
        for node in nodes:
            mine = {label: order for label, order in orders.items() if self._nodes[label] == node}
            print(json.dumps(mine), file=self._programs[node].stdin, flush=True)
        for node in nodes:
            stdout = self._programs[node].stdout
            assert stdout is not None
            answers |= json.loads(stdout.readline())
        return answers

    def reached(self, expected: Table) -> Table:
        """Return who answers whom at which address, of addresses in a table.

        All addresses are tried from everywhere. Who is expected and late is tried again; who is
        not expected is there at the first try or not.
        """
        addresses = list(dict.fromkeys(a for row in expected.values() for a in row))
        found: Table = self.ask({label: ["dial", addresses, 2] for label in expected})
        found = {s: {a: who for a, who in row.items() if who} for s, row in found.items()}

        def try_again() -> bool:
            late = {
                source: [a for a in row if a not in found[source]]
                for source, row in expected.items()
            }
            late = {source: missing for source, missing in late.items() if missing}
            for source, row in self.ask({s: ["dial", m, 2] for s, m in late.items()}).items():
                found[source] |= {address: who for address, who in row.items() if who}
            return not late

        try:
            wait_until("all are reached", try_again, 30)
        except TimeoutError:
            pass  # the table tells who is not
        return found

    def heard(self, labels: Iterable[str]) -> dict[str, str]:
        """Return whose broadcasts each place hears by its eth1, at layer 2."""
        answers = self.ask({label: ["shout", "eth1", 1.5] for label in labels})
        return {label: " ".join(heard) for label, heard in answers.items()}

    def rates(self, ways: Mapping[str, str], wanted: float) -> list[float]:
        """Return how many bits a second arrive by TCP, by all ways at the same time.

        A machine with much to do may send less than it may; so what is low is tried again.

        Args:
            ways: the address to which a place sends, by the place's label.
            wanted: how many bits a second are expected of each.
        """
        found = dict.fromkeys(ways, 0.0)
        for _ in range(3):
            low = {source: ways[source] for source, bits in found.items() if bits < 0.85 * wanted}
            answers = self.ask({source: ["rate", ip, 2.0] for source, ip in low.items()})
            found |= {source: max(found[source], bits) for source, bits in answers.items()}
        return list(found.values())

    def lost(self, source: str, target: str, address: str, count: int) -> float:
        """Return the part of packets that did not arrive."""
        self.ask({target: ["count"]})
        self.ask({source: ["send", address, count]})
        arrived: int = self.ask({target: ["count"]})[target]
        return 1 - arrived / count


@contextmanager
def probing(cluster: Cluster) -> Iterator[Probes]:
    """Have a prober on each node during a block."""
    argv = ["python3", "-c", PROBER.read_text()]
    programs = {
        node: subprocess.Popen(
            cluster.sandbox.machine(node).command(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for node in cluster.nodes
    }
    try:
        yield Probes(programs)
    finally:
        for program in programs.values():
            assert program.stdin is not None
            program.stdin.close()
        for program in programs.values():
            assert program.stdout is not None
            program.wait(10)
            program.stdout.close()
