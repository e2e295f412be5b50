"""Links of a spec: what emulation does to the traffic of containers in one network."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from oar_lxc.errors import SpecError
from oar_lxc.model.arguments import shown
from oar_lxc.model.checks import AllowedError, check_text, check_truth, doc
from oar_lxc.model.hints import refuse_unknown

ANY = "*"
FROM = "from"  # the key; Python has this word for itself, so the field is called from_
_RATES = {"bit": 1, "kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}
_TIMES = {"us": 1, "ms": 10**3, "s": 10**6}  # microseconds
LEAST_RATE, MOST_RATE = 1000, 10**12  # bits a second
MOST_DELAY = 60 * 10**6  # microseconds
FINEST = 10**-4  # percent
NETEM_KEYS = ("delay", "jitter", "duplicate", "corrupt", "reorder")  # what netem does


@dataclass(frozen=True)
class Shape:
    """What is done to packets, in numbers.

    Attributes:
        rate: most bits a second; 0: no limit.
        delay: microseconds that each packet takes longer.
        jitter: microseconds by which the delay varies, up and down.
        loss: percent of packets that are lost.
        duplicate: percent that come twice.
        corrupt: percent in which one bit is wrong.
        reorder: percent that take no delay, and so overtake others.
    """

    rate: int = 0
    delay: int = 0
    jitter: int = 0
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0

    @property
    def queues(self) -> bool:
        """Whether it does more than lose packets, so that they wait in a queue."""
        return any(getattr(self, key) for key in ("rate", *NETEM_KEYS))

    def words(self) -> str:
        """Return it as people write it, such as ``10Mbit 40ms±5ms loss 0.5%``."""
        words = [rate_text(self.rate)] if self.rate else []
        if self.delay:
            jitter = f"±{time_text(self.jitter)}" if self.jitter else ""
            words.append(f"{time_text(self.delay)}{jitter}")
        for name in ("loss", "duplicate", "corrupt", "reorder"):
            if value := getattr(self, name):
                words.append(f"{name} {percent_text(value)}")
        return " ".join(words) or "as it is"


@dataclass(frozen=True)
class Link:
    """What emulation does between containers of one network, or at their interfaces.

    With ``to``, it is about the traffic from each container of ``from`` to each of ``to``, each
    pair for itself. Without ``to``, it is about all traffic of each interface together, as if its
    cable were so; what goes from one such interface to another passes both cables. Of several
    links for a pair, or for an interface, the last one counts as a whole. A pair with a link of
    its own goes by that link, and not by the cables of its interfaces.

    Raises:
        SpecError: a value is not allowed; the sentence names key, value and what is allowed.
    """

    network: str = doc("Name of the network; ``main`` is the job's main network.", "")
    from_: str = doc("A group, a container, or ``*`` for all.", ANY)
    to: str | None = doc(
        "Likewise. Without it, the link is about all traffic of each interface together."
    )
    rate: str | None = doc(
        "Most bits a second, such as ``10Mbit``: a number with ``bit``, ``kbit``, ``Mbit`` or "
        "``Gbit``, powers of 1,000."
    )
    delay: str | None = doc(
        "How much longer each packet takes one way, such as ``40ms``: a number with ``us``, "
        "``ms`` or ``s``."
    )
    jitter: str | None = doc("By how much the delay varies, up and down; at most the delay.")
    loss: str | None = doc("How many packets are lost, such as ``0.5%``.")
    duplicate: str | None = doc("How many packets come twice.")
    corrupt: str | None = doc("In how many packets one bit is wrong.")
    reorder: str | None = doc("How many packets take no delay, and so overtake others.")
    both: bool = doc("Whether the way back is the same.", True)

    def __new__(cls, *values: object, **keys: object) -> Link:
        """Refuse an unknown key with a hint, before Python refuses it without one."""
        refuse_unknown("Link", keys, [f.name for f in fields(cls)])
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for key, check in _CHECKS.items():
            value = getattr(self, key)
            if value is None and key not in ("network", "from_", "both"):
                continue
            try:
                check(value)
            except AllowedError as error:
                raise SpecError(f"{key.rstrip('_')} is {shown(value)}; {error}") from None
        shape = self.shape
        if shape.jitter > shape.delay:
            raise SpecError(
                f"jitter {self.jitter} is more than delay {self.delay}"
                if self.delay
                else f"jitter is {self.jitter}, and there is no delay that it could vary"
            )
        if shape.reorder and not shape.delay:
            raise SpecError(
                f"reorder is {self.reorder}, and there is no delay that packets could be spared"
            )

    @cached_property
    def shape(self) -> Shape:
        """What it does, in numbers."""
        given = {key: getattr(self, key) for key in _NUMBERS}
        return Shape(**{k: _NUMBERS[k](text) for k, text in given.items() if text is not None})

    def to_data(self) -> dict[str, Any]:
        """Return the keys that are set, as a spec file has them."""
        data = {k: v for k, v in asdict(self).items() if v is not None and k != "from_"}
        return {"network": data.pop("network"), FROM: self.from_, **data}

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Link:
        """Make a link from a table of a spec file, in which ``from_`` is called ``from``."""
        return cls(**{"from_" if key == FROM else key: value for key, value in table.items()})

    def names(self) -> tuple[str, ...]:
        """Return the groups and containers that it names."""
        return tuple(name for name in (self.from_, self.to) if name not in (None, ANY))


LINK_KEYS = tuple(f.name.rstrip("_") for f in fields(Link))


def parse_rate(text: object) -> int:
    """Return bits a second from a text such as ``10Mbit``.

    Raises:
        SpecError: it is something else, or out of range; the caller adds key and value.
    """
    wanted = "it is a number of bits a second such as '10Mbit'"
    number, unit = _split(text, wanted)
    near = {name.lower(): name for name in _RATES}
    if unit not in _RATES:
        meant = near.get(unit.lower().removesuffix("/s").removesuffix("ps"))
        hint = f"did you mean '{number:g}{meant}'? " if meant else ""
        raise AllowedError(f"{hint}{wanted}, with {', '.join(_RATES)}")
    rate = round(number * _RATES[unit])
    if not LEAST_RATE <= rate <= MOST_RATE:
        raise AllowedError("it is from 1kbit to 1000Gbit; leave it out for no limit")
    return rate


def parse_time(text: object, longest: int | None = MOST_DELAY) -> int:
    """Return microseconds from a text such as ``40ms``.

    Args:
        text: the text.
        longest: the most that is allowed; None for no limit.

    Raises:
        SpecError: it is something else, or out of range; the caller adds key and value.
    """
    wanted = "it is a time such as '40ms', with us, ms or s"
    number, unit = _split(text, wanted)
    if unit not in _TIMES:
        raise AllowedError(wanted)
    time = round(number * _TIMES[unit])
    if longest is not None and time > longest:
        raise AllowedError(f"at most {longest // 10**6}s is allowed")
    return time


def parse_percent(text: object) -> float:
    """Return percent from a text such as ``0.5%``.

    Raises:
        SpecError: it is something else, or out of range; the caller adds key and value.
    """
    wanted = "it is a part of the packets such as '0.5%', from 0% to 100%"
    number, unit = _split(text, wanted)
    if unit != "%":
        raise AllowedError(wanted)
    if number > 100:
        raise AllowedError("more than 100% of the packets there are not")
    if 0 < number < FINEST:
        raise AllowedError(f"{FINEST:.4f}% is the finest part")
    return number


def rate_text(rate: int) -> str:
    """Return bits a second as a text that :func:`parse_rate` reads."""
    unit = max((u for u in _RATES if rate >= _RATES[u]), key=_RATES.__getitem__, default="bit")
    return f"{rate / _RATES[unit]:.10g}{unit}"


def time_text(time: int) -> str:
    """Return microseconds as a text that :func:`parse_time` reads."""
    unit = max((u for u in _TIMES if time >= _TIMES[u]), key=_TIMES.__getitem__, default="us")
    return f"{time / _TIMES[unit]:.10g}{unit}"


def percent_text(part: float) -> str:
    """Return percent as a text that :func:`parse_percent` reads."""
    return f"{part:.10g}%"


def check_links(links: Iterable[Link], networks: Collection[str], groups: Collection[str]) -> None:
    """Refuse links of networks, groups or containers that a spec does not have.

    Args:
        links: the links.
        networks: names of all networks, with the main one.
        groups: names of all groups.

    Raises:
        SpecError: there is one; the sentence begins with its number.
    """
    for number, link in enumerate(links, 1):
        where = f"link {number}"
        if link.network not in networks:
            raise SpecError(f"{where}: network {link.network} is not among {', '.join(networks)}")
        for key, name in ((FROM, link.from_), ("to", link.to)):
            if name not in (None, ANY) and not any(of_group(name, group) for group in groups):
                raise SpecError(
                    f"{where}: {key} is {name!r}, which is neither '*' nor a group or container "
                    f"of {', '.join(groups)}"
                )
        if link.shape == Shape() and number == 1:
            raise SpecError(
                f"{where}: it changes nothing: give rate, delay, loss, duplicate, corrupt or "
                "reorder"
            )


def of_group(name: str | None, group: str) -> bool:
    """Whether a name is a group's or, as it looks, that of one of its containers."""
    return bool(name) and re.fullmatch(rf"{re.escape(group)}([1-9][0-9]*)?", str(name)) is not None


def _split(text: object, wanted: str) -> tuple[float, str]:
    match = (
        re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,9})?) ?([A-Za-z/%]*)", text)
        if isinstance(text, str)
        else None
    )
    if match is None:
        raise AllowedError(wanted)
    return float(match[1]), match[2]


def _network(value: object) -> str:
    if not check_text(value):
        raise AllowedError("it is the name of a network, such as 'main'")
    return str(value)


_NUMBERS: dict[str, Callable[[object], Any]] = {
    "rate": parse_rate,
    "delay": parse_time,
    "jitter": parse_time,
    **dict.fromkeys(("loss", "duplicate", "corrupt", "reorder"), parse_percent),
}
_CHECKS: dict[str, Callable[[object], Any]] = {
    "network": _network,
    "from_": check_text,
    "to": check_text,
    **_NUMBERS,
    "both": check_truth,
}
