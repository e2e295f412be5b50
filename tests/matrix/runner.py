"""Run rows one after the other on the real cluster, whatever becomes of each."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from types import FrameType

from oar_lxc.errors import OarLxcError
from oar_lxc.sandbox.cluster import Sandbox
from tests.e2e.conftest import bring_up
from tests.matrix.bystanders import Bystanders
from tests.matrix.registry import Fault
from tests.matrix.row import NoFaultError, Row
from tests.matrix.table import Result
from tests.matrix.world import World

TROUBLES = (AssertionError, LookupError, NoFaultError, OarLxcError, OSError, ValueError)
PROBE = "./jobscripts/lxc_job.py --wait running -- true"
PROBE_RESOURCES = "nodes=2/core=1,walltime=0:5:0"


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGTERM unwind everything, as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def world_of(sandbox: Sandbox, setup: str) -> Iterator[World]:
    """Give the cluster in a set-up, sane and with room; leave it as it was."""
    say(f"set-up {setup}")
    bring_up(sandbox, setup)
    world = World(sandbox, setup)
    world.restore()
    with world.room():
        try:
            yield world
        finally:
            say("cleaning up")
            world.restore()
            world.tidy_homes()


class Runner:
    """Runs rows in one set-up.

    Args:
        world: the cluster.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.bystanders = Bystanders(world)

    def run(self, faults: Sequence[Fault]) -> Iterator[Result]:
        """Run faults, one row each; the bystanders go with the last one."""
        try:
            for number, fault in enumerate(faults, 1):
                say(f"[{self.world.setup} {number}/{len(faults)}] {fault.name}: {fault.text}")
                result = self._row(fault)
                say(f"    {describe(result)}")
                yield result
        finally:
            self.bystanders.remove()

    def _row(self, fault: Fault) -> Result:
        start = time.monotonic()
        blank = result = Result(fault.name, fault.text, self.world.setup)
        row = None
        try:
            self.bystanders.ensure(fault.away)
            with ExitStack() as stack:
                row = Row(self.world, fault, stack, bystanders=self.bystanders.ids)
                fault.act(row)
                row.require(row.ended, "the fault's function did not say when the job ended")
                seconds, left = row.wait_clean()
            layer = row.layer()
            left += self._trust(row)
            left += self._probe()
            touched = self.bystanders.touched()
            result = replace(
                blank, layer=layer, seconds=round(seconds, 2), left=left, touched=touched
            )
        except TROUBLES as error:
            result = replace(blank, failed=brief(error))
        if not result.good:
            self._recover(row)
        spent = round(time.monotonic() - start, 1)
        return replace(result, note="; ".join(row.notes if row else ()), row_seconds=spent)

    def _trust(self, row: Row) -> list[str]:
        """Return a line where OAR suspects nodes that are clean, unless that is OAR's own way."""
        suspected = self.world.suspected()
        if not suspected:
            return []
        events = {event for subject in row.subjects for event in subject.job.events}
        why = (
            ", ".join(sorted(x for x in events if "ERROR" in x and "INTO" not in x)) or "no event"
        )
        self.world.revive()
        text = f"OAR suspected {', '.join(suspected)} ({why})"
        if row.fault.suspects:
            row.note(f"{text}: {row.fault.suspects}; set Alive by hand")
            return []
        return [text]

    def _probe(self) -> list[str]:
        """Return a line where a small job on both nodes does not succeed now."""
        job = self.world.start(PROBE, PROBE_RESOURCES, "alice")
        with suppress(TimeoutError):
            job.wait_end(90)
        if job.state == "Terminated" and job.exit_code == 0:
            return []
        said = " ".join(job.output("stderr").split())
        return [f"the next job {job.id} is {job.state}, exit code {job.exit_code}: {said}"]

    def _recover(self, row: Row | None) -> None:
        """Get the cluster back to a sane state after a row that was not good."""
        try:
            self.world.restore(self.bystanders.ids)
            if self.bystanders.ready and self.bystanders.touched():
                self.bystanders.renew()
        except TROUBLES as error:
            print(f"    recovering: {type(error).__name__}: {error}", file=sys.stderr)
            self.bystanders.renew()
            self.world.restore()


def brief(error: Exception) -> str:
    """Return what went wrong in one line that is not too long."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) < 400 else f"{text[:80]} … {text[-300:]}"


def describe(result: Result) -> str:
    """Return a row's result as one line or more."""
    if result.failed:
        return f"FAILED ({result.row_seconds:.0f} s): {result.failed}"
    word = "ok" if result.good else "NOT OK"
    line = f"{word}: {result.layer}, {result.seconds:.1f} s (row {result.row_seconds:.0f} s)"
    line += f" {result.note}" if result.note else ""
    lines = [line, *(f"left: {x}" for x in result.left)]
    lines += [f"touched: {x}" for x in result.touched]
    return "\n    ".join(lines)
