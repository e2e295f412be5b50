"""A scenario: changes of links, cables and containers at times, read from a TOML file.

::

    [[at]]
    time = "10s"
    network = "left"
    from = "p"
    to = "router"
    delay = "100ms"

    [[at]]
    time = "20s"
    unplug = ["p1"]
    network = "left"
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oar_lxc.errors import SpecError
from oar_lxc.model.arguments import shown
from oar_lxc.model.checks import AllowedError
from oar_lxc.model.hints import refuse_unknown
from oar_lxc.model.links import LINK_KEYS, Link, parse_time
from oar_lxc.model.plan import Plan, PlannedContainer
from oar_lxc.model.shaping import check_pair, is_named
from oar_lxc.model.specfile import read_text
from oar_lxc.model.toml import parse_toml

AT, TIME, NETWORK = "at", "time", "network"
PLUG, UNPLUG, START, STOP = "plug", "unplug", "start", "stop"
VERBS = (UNPLUG, PLUG, STOP, START)


@dataclass(frozen=True)
class Step:
    """One change of a scenario.

    Attributes:
        number: its place in the file, from 1.
        time: microseconds since the beginning.
        link: the link that it sets; None if it does something else.
        verb: what is done to containers: one of :data:`VERBS`; empty for a link.
        names: the groups and containers to which it is done.
        network: the network whose cable is pulled or plugged in.
    """

    number: int
    time: int
    link: Link | None = None
    verb: str = ""
    names: tuple[str, ...] = ()
    network: str = ""

    def words(self) -> str:
        """Return what it does, for people."""
        if self.link:
            to = f" to {self.link.to}" if self.link.to else ""
            return f"{self.link.network}: {self.link.from_}{to}: {self.link.shape.words()}"
        where = f" in {self.network}" if self.network else ""
        return f"{self.verb} {', '.join(self.names)}{where}"

    def containers(self, plan: Plan) -> tuple[PlannedContainer, ...]:
        """Return the containers that it names."""
        return tuple(c for c in plan.containers if any(is_named(n, c) for n in self.names))


def read_scenario(path: Path) -> tuple[Step, ...]:
    """Read a scenario; its steps come in the order of their times.

    Raises:
        SpecError: it cannot be read, or something in it is wrong; the sentence names the file, the
            number of the table, key and value.
    """
    try:
        data = parse_toml(read_text(path))
    except ValueError as error:
        raise SpecError(f"{path}: {error}") from error
    refuse_unknown(str(path), data, (AT,))
    tables = data.get(AT)
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SpecError(f"{path}: there is nothing to do: write a table [[{AT}]] for each change")
    steps = []
    for number, table in enumerate(tables, 1):
        where = f"{path}, {AT} {number}"
        refuse_unknown(where, table, (TIME, *VERBS, *LINK_KEYS))
        try:
            steps.append(_step(number, table))
        except SpecError as error:
            raise SpecError(f"{where}: {error}") from None
    return tuple(sorted(steps, key=lambda step: step.time))


def check_scenario(path: Path, steps: Collection[Step], plan: Plan) -> None:
    """Refuse a scenario that does not fit a job.

    Raises:
        SpecError: a step names what the job does not have.
    """
    for step in sorted(steps, key=lambda step: step.number):
        where = f"{path}, {AT} {step.number}"
        if step.link:
            check_pair(where, step.link, plan.containers)
        for name in step.names:
            found = [c for c in plan.containers if is_named(name, c)]
            if not found:
                has = ", ".join(c.name for c in plan.containers) or "none"
                raise SpecError(
                    f"{where}: {step.verb} has {name!r}, and the job has no such container; it "
                    f"has: {has}"
                )
            out = [c.name for c in found if step.network and not c.interface(step.network)]
            if out:
                raise SpecError(f"{where}: network is {step.network}, and {out[0]} is not in it")


def _step(number: int, table: Mapping[str, Any]) -> Step:
    if TIME not in table:
        raise SpecError("time is missing: write when, such as time = '10s'")
    try:
        time = parse_time(table[TIME], longest=None)
    except AllowedError as error:
        raise SpecError(f"{TIME} is {shown(table[TIME])}; {error}") from None
    verbs = [verb for verb in VERBS if verb in table]
    rest = {key: value for key, value in table.items() if key not in (TIME, *VERBS)}
    if len(verbs) > 1:
        raise SpecError(f"{verbs[0]} and {verbs[1]} are both given: write a table for each")
    if not verbs:
        if not rest:
            raise SpecError(f"there is only a time: write a link, or one of {', '.join(VERBS)}")
        return Step(number, time, Link.from_table(rest))
    verb = verbs[0]
    network = rest.pop(NETWORK, "")
    if rest:
        raise SpecError(f"{verb} and {next(iter(rest))} are both given: write a table for each")
    names = [table[verb]] if isinstance(table[verb], str) else table[verb]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise SpecError(f"{verb} is {shown(table[verb])}; it is a list of groups and containers")
    if (verb in (PLUG, UNPLUG)) != bool(network):
        raise SpecError(
            f"{verb} needs a network whose cable it is, such as network = 'main'"
            if not network
            else f"{verb} is about whole containers: leave out network"
        )
    if not isinstance(network, str):
        raise SpecError(f"network is {shown(network)}; it is a text")
    return Step(number, time, verb=verb, names=tuple(names), network=network)
