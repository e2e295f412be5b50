"""Draw the networks of the examples: ``python3 docs/topologies.py [--check]``.

There is a picture ``docs/_static/NAME.svg`` for each ``jobscripts/networks/NAME.toml``, drawn from
the plan of that file: nodes, containers, and networks as bars to which their interfaces lead. With
``--check`` nothing is written, and the exit status is 1 where a picture is not the file's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from oar_lxc.model.job import Job
from oar_lxc.model.names import MAIN
from oar_lxc.model.plan import Plan, PlannedContainer, make_plan
from oar_lxc.model.specfile import read_spec

SPECS = Path(__file__).resolve().parent.parent / "jobscripts/networks"
PICTURES = Path(__file__).with_name("_static")
# Example → how many nodes the picture has.
EXAMPLES = {
    "two_vms_two_vlans": 1,
    "four_vms_two_vlans": 2,
    "four_vms_two_bridges": 1,
    "router": 2,
    "wide_area": 2,
}
JOB_ID = 42
BOX_WIDTH, BOX_HEIGHT = 116, 52  # of a container
GAP, EDGE = 26, 12
LABELS = 130  # of the column with the names of networks
FRAME = "#f1f5f9"  # of a node
BAR_GAP, BAR_HEIGHT = 46, 18
TOP = 40  # of the containers within the picture
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
GREY = "#64748b"


@dataclass(frozen=True)
class Place:
    """Where a container is in the picture."""

    left: float
    container: PlannedContainer

    def port(self, number: int, count: int) -> float:
        """Return where an interface leaves the box."""
        return self.left + BOX_WIDTH * (number + 1) / (count + 1)


def draw(plan: Plan) -> str:
    """Return the picture of a plan."""
    nodes = list(dict.fromkeys(container.node for container in plan.containers))
    places, frames, left = [], [], float(EDGE + LABELS)
    for node in nodes:
        begin = left
        left += GAP / 2
        for container in plan.on(node):
            places.append(Place(left, container))
            left += BOX_WIDTH + GAP
        frames.append((node, begin, left - GAP / 2 - begin))
        left += GAP / 2
    width = left + EDGE - GAP / 2
    bars = [network.name for network in plan.networks]
    if any(container.main for container in plan.containers):
        bars.append(MAIN)
    tops = {name: TOP + BOX_HEIGHT + 70 + at * BAR_GAP for at, name in enumerate(bars)}
    end = max(tops.values()) + BAR_HEIGHT
    height = end + 24 + 20 * len(plan.links) + (8 if plan.links else 0)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" font-family="sans-serif" font-size="13">',
        f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
    ]
    for node, begin, wide in frames:
        lines.append(
            f'<rect x="{begin:g}" y="10" width="{wide:g}" height="{TOP + BOX_HEIGHT + 42:g}" '
            f'rx="8" fill="{FRAME}" stroke="#94a3b8" stroke-dasharray="5 4"/>'
        )
        lines.append(_text(begin + 10, 28, node, fill=GREY))
    colours = dict(zip(bars, COLOURS, strict=False)) | {MAIN: GREY}
    subnets = {network.name: network.subnet for network in plan.networks}
    for name, top in tops.items():
        lines.append(
            f'<rect x="{EDGE + LABELS}" y="{top:g}" width="{width - 2 * EDGE - LABELS:g}" '
            f'height="{BAR_HEIGHT}" rx="4" fill="{colours[name]}"/>'
        )
        lines.append(_text(EDGE, top + 7, name, fill=colours[name], weight="bold"))
        said = subnets.get(name, "nodes, internet")
        lines.append(_text(EDGE, top + 22, said, size=11, fill=GREY))
    for place in places:
        lines += _box(place, tops, colours)
    for at, link in enumerate(plan.links):
        ends = f"{link.from_} ⇄ {link.to}" if link.to else f"all traffic of {link.from_}"
        said = f"{link.network}: {ends}: {link.shape.words()}"
        lines.append(_text(EDGE, end + 28 + 20 * at, said, fill=colours[link.network]))
    return "\n".join([*lines, "</svg>", ""])


def _box(place: Place, tops: Mapping[str, float], colours: Mapping[str, str]) -> Iterator[str]:
    container = place.container
    bottom = TOP + BOX_HEIGHT
    interfaces = container.all_interfaces
    for number, interface in enumerate(interfaces):
        x, top = place.port(number, len(interfaces)), tops[interface.network]
        colour = colours[interface.network]
        below = TOP + BOX_HEIGHT + 60  # where the bars may begin
        # A pale edge where it crosses the bars of other networks.
        yield f'<path d="M{x:g} {below:g} V{top:g}" stroke="#ffffff" stroke-width="7"/>'
        yield f'<path d="M{x:g} {bottom:g} V{top:g}" stroke="{colour}" stroke-width="2"/>'
        yield f'<circle cx="{x:g}" cy="{top + BAR_HEIGHT / 2:g}" r="4" fill="#ffffff"/>'
        told = interface.device if interface.network == MAIN else interface.ip
        at = bottom + 8 + 16 * (number % 2)
        wide = 6.5 * len(told) + 4
        corner = f'x="{x - wide / 2:g}" y="{at:g}"'
        yield f'<rect {corner} width="{wide:g}" height="14" fill="{FRAME}"/>'
        yield _text(x, at + 11, told, size=11, anchor="middle", fill=colour)
    stroke = "#0f172a"
    yield (
        f'<rect x="{place.left:g}" y="{TOP}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" '
        f'fill="#ffffff" stroke="{stroke}" stroke-width="{2 if container.forward else 1}"/>'
    )
    middle = place.left + BOX_WIDTH / 2
    yield _text(middle, TOP + 22, container.name, anchor="middle", weight="bold")
    does = "forwards" if container.forward else "ssh" if container.main else "no eth0"
    yield _text(middle, TOP + 40, does, size=11, anchor="middle", fill=GREY)


def _text(x: float, y: float, text: str, *, size: int = 13, **style: str) -> str:
    names = {"anchor": "text-anchor", "weight": "font-weight"}
    more = "".join(f' {names.get(key, key)}="{value}"' for key, value in style.items())
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}"{more}>{escape(text)}</text>'


def main() -> None:
    """Write the pictures, or look whether they are up to date."""
    stale = []
    for name, nodes in EXAMPLES.items():
        job = Job(JOB_ID, "", {f"node{number}": 4 for number in range(1, nodes + 1)})
        picture = draw(make_plan(read_spec(SPECS / f"{name}.toml"), job))
        path = PICTURES / f"{name}.svg"
        if "--check" not in sys.argv[1:]:
            path.write_text(picture)
        elif not path.exists() or path.read_text() != picture:
            stale.append(path.name)
    if stale:
        sys.exit(f"{', '.join(stale)}: run python3 docs/topologies.py")


if __name__ == "__main__":
    main()
