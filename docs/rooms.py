"""Draw the rooms of the package and what imports what: ``python3 docs/rooms.py [--check]``.

The picture is ``docs/_static/rooms.svg``, drawn from the code's own imports. An arrow that follows
from others is left out, and those of a room that imports all others. With ``--check`` nothing is
written, and the exit status is 1 where the picture is not the code's.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

PACKAGE = Path(__file__).resolve().parent.parent / "oar_lxc"
PICTURE = Path(__file__).with_name("_static") / "rooms.svg"
WIDTH, HEIGHT = 190, 62  # of a room
GAP_X, GAP_Y = 34, 46
COLOURS = {"user": "#dbeafe", "root": "#fee2e2", "oar": "#fef3c7", "": "#f1f5f9"}


@dataclass(frozen=True)
class Box:
    """Where a room is in the picture."""

    left: float
    top: float
    width: float

    @property
    def middle(self) -> float:
        """Its middle, from the left."""
        return self.left + self.width / 2


def room_of(name: str) -> str:
    """Return the room of a module, by its full name; empty where it is in none."""
    parts = name.split(".")
    return parts[1] if parts[0] == "oar_lxc" and len(parts) > 1 else ""


def imports() -> dict[str, set[str]]:
    """Return which rooms each room imports."""
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    rooms.add("errors")
    found: dict[str, set[str]] = {room: set() for room in rooms}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in _names(path) if room in rooms else ():
            found[room] |= {room_of(name)} & rooms - {room}
    return found


def _names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(room: str, arrows: Mapping[str, set[str]]) -> set[str]:
    """Return all rooms that a room leads to."""
    found: set[str] = set()
    for other in arrows[room]:
        found |= {other, *below(other, arrows)}
    return found


def needed(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the arrows that do not follow from others."""
    return {
        room: {
            target
            for target in targets
            if not any(target in below(other, arrows) for other in targets - {target})
        }
        for room, targets in arrows.items()
    }


def floors(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the rooms from the top floor down, each above all that it imports."""
    height: dict[str, int] = {}

    def floor(room: str) -> int:
        if room not in height:
            height[room] = 1 + max((floor(other) for other in arrows[room]), default=0)
        return height[room]

    for room in arrows:
        floor(room)
    return [
        sorted(room for room, at in height.items() if at == number)
        for number in range(max(height.values()), 0, -1)
    ]


def who_runs(room: str) -> tuple[str, str]:
    """Return who runs a room, as its docstring tells it, and the kind of that."""
    path = PACKAGE / room / "__init__.py"
    if not path.exists():
        return "", ""
    told = ast.get_docstring(ast.parse(path.read_text())) or ""
    match = re.search(r"([^.\n]+?) runs? it\b", told)
    who = match[1].replace("`", "").strip() if match else ""
    kinds = [
        kind for kind in ("user", "root", "oar") if re.search(rf"\b{kind}\b(?! oar)", who, re.I)
    ]
    return who, kinds[0] if len(kinds) == 1 else ""


def draw() -> str:
    """Return the picture."""
    arrows = imports()
    rows = floors(arrows)
    total_x = max(map(len, rows)) * (WIDTH + GAP_X) + GAP_X
    total_y = len(rows) * (HEIGHT + GAP_Y) + GAP_Y
    place: dict[str, Box] = {}
    for y, row in enumerate(rows):
        top = GAP_Y / 2 + y * (HEIGHT + GAP_Y)
        if len(row) == 1:  # a floor of its own
            place[row[0]] = Box(GAP_X, top, total_x - 2 * GAP_X)
            continue
        left = (total_x - len(row) * (WIDTH + GAP_X) + GAP_X) / 2
        for x, room in enumerate(row):
            place[room] = Box(left + x * (WIDTH + GAP_X), top, WIDTH)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_x:g} {total_y:g}" '
        'font-family="sans-serif" font-size="13">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#64748b"/></marker></defs>',
    ]
    for room, targets in sorted(needed(arrows).items()):
        if below(room, arrows) | {room} != set(arrows):
            lines += [_arrow(place[room], place[target]) for target in sorted(targets)]
    for room, box in sorted(place.items()):
        middle, high = box.middle, box.top
        who, kind = who_runs(room)
        lines += [
            f'<rect x="{box.left:g}" y="{high:g}" width="{box.width:g}" height="{HEIGHT}" rx="6" '
            f'fill="{COLOURS[kind]}" stroke="#64748b"/>',
            f'<text x="{middle:g}" y="{high + 27:g}" text-anchor="middle" '
            f'font-weight="bold">{escape(room)}</text>',
            f'<text x="{middle:g}" y="{high + 45:g}" text-anchor="middle" '
            f'font-size="10" fill="#475569">{escape(who)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _arrow(start: Box, end: Box) -> str:
    x1 = start.middle if start.width <= end.width else end.middle
    x2 = end.middle if end.width <= start.width else start.middle
    y1, y2 = start.top + HEIGHT, end.top
    middle = (y1 + y2) / 2
    return (
        f'<path d="M{x1:g} {y1:g} C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}" '
        'fill="none" stroke="#94a3b8" marker-end="url(#tip)"/>'
    )


def main() -> None:
    """Write the picture, or check it."""
    text = draw()
    if "--check" not in sys.argv[1:]:
        PICTURE.write_text(text)
        return
    if not PICTURE.exists() or PICTURE.read_text() != text:
        sys.exit(f"{PICTURE.name} is not what the code is: run `python3 docs/rooms.py`")


if __name__ == "__main__":
    main()
