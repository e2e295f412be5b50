"""Steps about OAR's resources: one per core, with the properties host, cpu and core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from oar_lxc.errors import UsageError
from oar_lxc.linux.run import run
from oar_lxc.model.layout import check_node
from oar_lxc.setup import database
from oar_lxc.setup.steps import Step

# name, whether it holds text (else a number)
PROPERTIES = (("host", True), ("cpu", False), ("core", False))


@dataclass(frozen=True)
class Node:
    """A node as the administrator declares it: ``NAME=CORES``."""

    name: str
    cores: int

    @classmethod
    def parse(cls, text: str) -> Node:
        """Read ``NAME=CORES``.

        Raises:
            UsageError: it has another form.
        """
        name, _, cores = text.partition("=")
        if not cores.isdigit() or not 1 <= int(cores) <= 4096:
            raise UsageError(f"{text!r} is not of the form NAME=CORES, such as node1=16")
        return cls(check_node(name), int(cores))


def properties_exist() -> Step:
    """Make the step after which resources have the properties host, cpu and core."""

    def missing() -> list[tuple[str, bool]]:
        rows = database.connect().rows(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'resources'"
        )
        known = {row["column_name"] for row in rows}
        return [(name, text) for name, text in PROPERTIES if name not in known]

    def pending() -> str | None:
        names = [name for name, _ in missing()]
        return f"oarproperty -a {', '.join(names)}" if names else None

    def apply() -> None:
        for name, text in missing():
            run(["oarproperty", *(["-c"] if text else []), "-a", name])

    return Step("resources have the properties host, cpu and core", pending, apply)


def resources_exist(nodes: Sequence[Node]) -> Step:
    """Make the step after which every core of these nodes is a resource.

    Nothing is removed or changed: a node that has more resources than declared keeps them.
    """

    def missing() -> list[tuple[str, int]]:
        rows = database.connect().rows(
            "SELECT network_address AS node, cpuset FROM resources WHERE type = 'default'"
        )
        known = {(row["node"], str(row["cpuset"])) for row in rows}
        wanted = [(node.name, cpu) for node in nodes for cpu in range(node.cores)]
        return [(name, cpu) for name, cpu in wanted if (name, str(cpu)) not in known]

    def pending() -> str | None:
        left = missing()
        if not left:
            return None
        names = dict.fromkeys(name for name, _ in left)
        return f"add {len(left)} resources, of {', '.join(names)}"

    def apply() -> None:
        for name, cpuset in missing():
            _add(name, cpuset)

    count = sum(node.cores for node in nodes)
    return Step(f"{len(nodes)} nodes with {count} cores are resources", pending, apply)


def _add(name: str, cpuset: int) -> None:
    # One CPU (socket) per node is enough: OAR needs the hierarchy, but jobs ask for cores.
    rows = database.connect().rows(
        """SELECT (SELECT coalesce(max(core), 0) + 1 FROM resources) AS core,
                  coalesce((SELECT max(cpu) FROM resources WHERE network_address = :'node'),
                           (SELECT coalesce(max(cpu), 0) + 1 FROM resources)) AS cpu""",
        node=name,
    )
    values = {"host": name, "cpu": rows[0]["cpu"], "core": rows[0]["core"], "cpuset": cpuset}
    properties = [word for key, value in values.items() for word in ("-p", f"{key}={value}")]
    run(["oarnodesetting", "-a", "-h", name, *properties])
