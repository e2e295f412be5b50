"""Link emulation of one node: rate and delay by ``tc``, loss by ``nft``. Pure text.

All of it is at the nodes' ends of the containers' interfaces, in the job's network namespace,
where root inside a container can neither change nor see it.

What comes to a container is the egress of the node's end: there is a tree of htb, with a class for
all that comes, and one for each pair that a link names. A filter knows a pair by the hardware
address of the sender, so it also takes what a router forwards. What a container sends passes such
a tree only if a link is about all of it: then it is redirected to a device for this (ifb).

The text changes a tree in place: classes and their qdiscs are replaced before filters lead to
them, and removed after. So no packet passes by the side meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from oar_lxc.model.addresses import SEGMENT_PORT
from oar_lxc.model.layout import cable_device, outer_device
from oar_lxc.model.links import Shape
from oar_lxc.model.shaping import End, Shaping

TABLE = "oar_lxc_links"
EVERYTHING = 1  # the class of all that no filter knows; ends have higher numbers
FIRST_END = 0x10  # the class of the end with number 0
BFIFO, NETEM = 0x2000, 0x4000  # what the handles of qdiscs begin with, by their kind
PARTS = 10**6  # nft drops so many of a million packets
NO_LIMIT = 10**11  # bits a second of a link without a rate
ASSUMED = 10**10  # bits a second that such a link may have in flight
QUEUE = 50_000  # microseconds that packets wait for a full link before they are dropped
LARGEST = 1 << 16  # bytes that the kernel hands over as one packet


@dataclass(frozen=True)
class _Tree:
    """A tree of htb on one device.

    Attributes:
        device: the device's name.
        field: by which hardware address ends are known: ``src`` or ``dst``.
        everything: the shape of what no end is known for.
        ends: the shape by end; None if it passes unchanged.
    """

    device: str
    field: str
    everything: Shape | None
    ends: dict[End, Shape | None]

    def __bool__(self) -> bool:
        return self.everything is not None or any(self.ends.values())

    def text(self, before: _Tree | None) -> Iterator[str]:
        """Yield the commands that turn another tree of the device into this one.

        Args:
            before: the tree that there is; None if there is none.
        """
        if not self:
            if before is not None:
                yield f"qdisc del dev {self.device} root"
            return
        if before is None:
            yield f"qdisc add dev {self.device} root handle 1: htb default {EVERYTHING:x}"
        old = before or _Tree(self.device, self.field, None, {})
        if self.everything:
            yield from self._class(EVERYTHING, self.everything)
        for end, shape in self.ends.items():
            if end in old.ends and old.ends[end] == shape:
                continue
            if shape:
                yield from self._class(FIRST_END + end.number, shape)
            target = FIRST_END + end.number if shape else 0
            yield self._filter("replace", end) + (
                f" protocol all u32 match ether {self.field} {end.hardware} flowid 1:{target:x}"
            )
        for end, shape in old.ends.items():
            if end not in self.ends:
                yield self._filter("del", end) + " u32"
            if shape and not self.ends.get(end):
                yield self._remove(FIRST_END + end.number)
        if old.everything and not self.everything:
            yield self._remove(EVERYTHING)

    def _class(self, number: int, shape: Shape) -> Iterator[str]:
        rate = shape.rate or NO_LIMIT
        burst = max(rate // 8 // 1000, 15_000)
        quantum = min(max(rate // 8 // 100, 1514), 200_000)
        yield (
            f"class replace dev {self.device} parent 1: classid 1:{number:x} htb rate {rate}bit "
            f"burst {burst} cburst {burst} quantum {quantum}"
        )
        kind, options = queue_of(shape)
        yield (
            f"qdisc replace dev {self.device} parent 1:{number:x} handle {kind + number:x}: "
            f"{options}"
        )

    def _remove(self, number: int) -> str:
        return f"class del dev {self.device} classid 1:{number:x}"

    def _filter(self, verb: str, end: End) -> str:
        number = FIRST_END + end.number
        return f"filter {verb} dev {self.device} parent 1: prio 1 handle 800::{number:x}"


def queue_of(shape: Shape) -> tuple[int, str]:
    """Return what the handle of a class's queue begins with, and the queue's kind and options.

    netem holds all packets that are on their way: with too few places, it would lose some.
    """
    flight = shape.delay + shape.jitter
    waiting = (shape.rate or ASSUMED) * QUEUE // (8 * 10**6)  # bytes
    if not flight and not (shape.duplicate or shape.corrupt):
        return BFIFO, f"bfifo limit {max(waiting, LARGEST * 3 // 2)}"
    on_the_way = (shape.rate or ASSUMED) * flight // (8 * 10**6)  # bytes
    options = f"netem limit {on_the_way // 500 + waiting // 1000 + 1000}"
    if shape.delay:
        options += f" delay {shape.delay}us" + f" {shape.jitter}us" * bool(shape.jitter)
    for key in ("duplicate", "corrupt", "reorder"):
        if part := getattr(shape, key):
            options += f" {key} {part:.4f}%"
    return NETEM, options


def _shape_with_queue(shape: Shape | None) -> Shape | None:
    return shape if shape is not None and shape.queues else None


def _trees(shaping: Shaping) -> tuple[_Tree, _Tree]:
    """Return the trees of what an interface gets, and of what it sends."""
    where = (shaping.address.partition("/")[0], shaping.interface)
    pairs = {end: _shape_with_queue(shape) for end, shape in shaping.pairs.items()}
    inward = _shape_with_queue(shaping.inward)
    outward = _shape_with_queue(shaping.outward)
    direct: dict[End, Shape | None] = dict.fromkeys(shaping.direct if outward else ())
    return (
        _Tree(outer_device(*where), "src", inward, pairs if inward or any(pairs.values()) else {}),
        _Tree(cable_device(*where), "dst", outward, direct),
    )


@dataclass(frozen=True)
class Commands:
    """What is run, in this order, each as one batch.

    Attributes:
        before: commands for ``ip`` that make devices.
        tc: commands for ``tc``.
        after: commands for ``ip`` that remove devices.
    """

    before: str
    tc: str
    after: str


def commands(shapings: Iterable[Shaping], present: Iterable[Shaping] = ()) -> Commands:
    """Return what turns the emulation of a node's interfaces into another.

    Args:
        shapings: what is to be done at each interface that there is.
        present: what is done there now.
    """
    made: list[str] = []
    lines: list[str] = []
    gone: list[str] = []
    was = {(one.address, one.interface): one for one in present}
    wanted = {(one.address, one.interface): one for one in shapings}
    for key in dict.fromkeys((*wanted, *was)):
        new = wanted.get(key) or Shaping("", key[0], key[1])
        old = was.get(key)
        (inward, outward), before = _trees(new), _trees(old) if old else (None, None)
        had_in, had_out = (tree or None for tree in before)
        lines += inward.text(had_in)
        if outward and not had_out:
            made += [
                f"link add name {outward.device} txqueuelen 1000 type ifb",
                f"link set dev {outward.device} up",
            ]
        if outward:
            lines += outward.text(had_out)
            if not had_out:
                lines += _redirect(inward.device, outward.device)
        elif had_out:
            lines.append(f"qdisc del dev {inward.device} ingress")
            gone.append(f"link del dev {outward.device}")
    return Commands(
        before="".join(f"{line}\n" for line in made),
        tc="".join(f"{line}\n" for line in lines),
        after="".join(f"{line}\n" for line in gone),
    )


def start_script(shaping: Shaping) -> str:
    """Return the shell script that sets an interface's links up when its container starts."""
    told = commands([shaping])
    cable = cable_device(shaping.address.partition("/")[0], shaping.interface)
    script = ""
    if told.before:
        # The device of an earlier start may be left: then it is in the way.
        script += f"ip link del dev {cable} 2>/dev/null\n"
        script += f"ip -batch - <<'END' || exit\n{told.before}END\n"
    return script + (f"exec tc -batch - <<'END'\n{told.tc}END\n" if told.tc else "")


def _redirect(device: str, to: str) -> Iterator[str]:
    yield f"qdisc add dev {device} ingress"
    yield (
        f"filter add dev {device} parent ffff: prio 1 protocol all u32 match u32 0 0 "
        f"action mirred egress redirect dev {to}"
    )


def losses_text(shapings: Collection[Shaping], offline: Iterable[str] = (), main: str = "") -> str:
    """Return the rules for ``nft`` that lose packets, and that keep the underlay to the nodes.

    A container could else send to the port of the VXLANs, into networks that it is not in.

    Args:
        shapings: what is to be done at each interface.
        offline: addresses of the containers that reach nothing outside of the main network.
        main: the main network's subnet.
    """
    pairs: list[str] = []
    direct: list[str] = []
    inward: list[str] = []
    outward: list[str] = []
    losses = set()
    for one in shapings:
        device = outer_device(one.address.partition("/")[0], one.interface)
        for end, shape in one.pairs.items():
            losses.add(shape.loss)
            pairs.append(f'"{device}" . {end.hardware} : {_verdict("goto", shape)}')
        direct += [f'"{device}" . {end.hardware} : accept' for end in one.direct]
        for shape_of_all, found in ((one.inward, inward), (one.outward, outward)):
            if shape_of_all and shape_of_all.loss:
                losses.add(shape_of_all.loss)
                found.append(f'"{device}" : {_verdict("jump", shape_of_all)}')
    rules = [
        *_map("oifname . ether saddr", pairs),
        *_map("iifname . ether daddr", direct if outward else ()),
        *_map("iifname", outward),
        *_map("oifname", inward),
    ]
    devices = ", ".join(f'"{outer_device(ip, 0)}"' for ip in offline)
    stop = [f"iifname {{ {devices} }} ip daddr != {main} drop"] if devices else []
    chains = "".join(
        f"    chain loss_{_parts(loss)} {{\n        {_drop(loss)}\n    }}\n"
        for loss in sorted(losses - {0.0})
    )
    return f"""\
table bridge {TABLE}
delete table bridge {TABLE}
table bridge {TABLE} {{
{chains}    chain prerouting {{
        type filter hook prerouting priority filter; policy accept;
        iifname "v0-*" udp dport {SEGMENT_PORT} drop
{_indented(stop)}    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
{_indented(rules)}    }}
}}
"""


def _indented(rules: Iterable[str]) -> str:
    return "".join(f"        {rule}\n" for rule in rules)


def _map(fields: str, elements: Collection[str]) -> Iterator[str]:
    if elements:
        yield f"{fields} vmap {{ {', '.join(elements)} }}"


def _verdict(how: str, shape: Shape) -> str:
    return f"{how} loss_{_parts(shape.loss)}" if shape.loss else "accept"


def _parts(loss: float) -> int:
    return round(loss * PARTS / 100)


def _drop(loss: float) -> str:
    return "drop" if loss >= 100 else f"numgen random mod {PARTS} < {_parts(loss)} drop"
