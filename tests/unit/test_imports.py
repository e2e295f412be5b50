"""Each room imports only what its rule says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "oar_lxc"

# Room → the rooms that it may import besides itself. Every room has to be here.
MAY_IMPORT = {
    "errors": "",
    "linux": "errors",
    "model": "errors linux",
    "oar": "errors linux model",
    "image": "errors linux model",
    "root": "errors linux model oar",
    "container": "errors linux model image",
    "remote": "errors linux model oar",
    "agent": "errors linux model image container",
    "client": "errors linux model oar remote",
    "setup": "errors linux model oar image root container agent client",
    "doctor": "errors linux model oar image root container setup",
    "sandbox": "errors linux model image setup",
    "cli": "errors linux model oar image root container remote agent client setup doctor sandbox",
}
# Too slow for a hook, or not there on a machine that is being cleaned up.
NOT_FOR_ROOT = {"click", "lxc", "psutil", "pyroute2", "rich", "structlog"}
# Start programs with streams of the user's or of a copy, which oar_lxc.linux.run is not for.
STARTS_PROGRAMS = {"cli/shared/streams.py", "cli/shared/tarpipe.py", "linux/run.py"}
IMPORTS_LXC = {"container/lxc_runtime.py", "container/starter.py"}

MODULES = sorted(
    path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"
)


def name_of(module: Path) -> str:
    """Return a module's full name."""
    return ".".join(("oar_lxc", *module.with_suffix("").parts)).removesuffix(".__init__")


NAMES = {name_of(module): module for module in MODULES}
ROOMS = sorted({module.parts[0].removesuffix(".py") for module in MODULES})


@cache
def nodes_of(module: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of a module's syntax tree."""
    return tuple(ast.walk(ast.parse((PACKAGE / module).read_text(), str(module))))


@cache
def imports_of(module: Path) -> frozenset[str]:
    """Return the full names of all that a module imports, wherever it does."""
    return frozenset(_imports_of(module))


def _imports_of(module: Path) -> Iterator[str]:
    for node in nodes_of(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name != "oar_lxc", f"{module}:{node.lineno}: name the module"
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            assert node.module is not None
            # `from oar_lxc.linux import run` names a module, `from … .run import run` a thing.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def used_by(module: Path) -> Iterator[str]:
    """Yield the modules of the package that a module imports, wherever it does."""
    for name in imports_of(module):
        while name and name not in NAMES:
            name = name.rpartition(".")[0]
        if name:
            yield name


def test_every_room_has_its_rule() -> None:
    assert set(MAY_IMPORT) == set(ROOMS)
    loose = {path.name for path in PACKAGE.glob("*.py")}
    assert loose == {"__init__.py", "errors.py"}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_imports_only_what_its_room_may(module: Path) -> None:
    room = module.parts[0].removesuffix(".py")
    for name in used_by(module):
        used = name.split(".")[1]
        assert used in {room, *MAY_IMPORT[room].split()}, f"{module} ({room}) imports {name}"


def test_no_module_imports_itself_over_others() -> None:
    """Nor by an import within a function, which would only put the circle off."""
    graph = {name: set(used_by(module)) - {name} for name, module in NAMES.items()}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "errors"])
def test_a_room_tells_what_lives_in_it(room: str) -> None:
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text())
    assert ast.get_docstring(tree)


def test_only_the_room_of_containers_imports_lxc() -> None:
    found = {
        m.as_posix() for m in MODULES for n in imports_of(m) if n.split(".")[0] in ("lxc", "_lxc")
    }
    assert {m for m in found if not m.startswith("sandbox/")} <= IMPORTS_LXC


def test_programs_are_started_by_few_modules() -> None:
    found = {m.as_posix() for m in MODULES if "subprocess" in imports_of(m)}
    assert found <= STARTS_PROGRAMS


def test_strings_that_name_a_module_name_one_that_there_is() -> None:
    """Operations of the agent, commands, programs: what is loaded by its name when needed."""
    wrong = []
    for module in MODULES:
        for node in nodes_of(module):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            text = node.value
            if re.fullmatch(r"oar_lxc(\.\w+)+(:\w+)?", text):
                name, _, attribute = text.partition(":")
                source = (PACKAGE / NAMES[name]).read_text() if name in NAMES else ""
                if name not in NAMES or (attribute and f"def {attribute}(" not in source):
                    wrong.append(f"{module}:{node.lineno}: {text}")
    assert wrong == []


def test_root_loads_nothing_heavy() -> None:
    loaded = _loaded_after_importing(m for m in MODULES if m.parts[0] in ("root", "oar"))
    assert NOT_FOR_ROOT.isdisjoint(name.partition(".")[0] for name in loaded)
    assert not {name for name in loaded if name.startswith(("oar_lxc.image", "oar_lxc.cli"))}


def test_the_client_loads_nothing_of_a_node() -> None:
    loaded = _loaded_after_importing(m for m in MODULES if m.parts[0] in ("client", "remote"))
    rooms = ("oar_lxc.agent", "oar_lxc.container", "oar_lxc.root")
    assert not {name for name in loaded if name == "lxc" or name.startswith(rooms)}


def test_no_module_needs_lxc_to_be_imported() -> None:
    names = [m for m in MODULES if m.parts[0] in ("agent", "container", "image")]
    assert "lxc" not in _loaded_after_importing(names)


def test_importing_the_command_line_loads_no_command() -> None:
    loaded = _loaded_after_importing([Path("cli/main.py")])
    assert {"lxc", "pyroute2", "oar_lxc.client.session"}.isdisjoint(loaded)


def _loaded_after_importing(modules: Iterator[Path] | list[Path]) -> set[str]:
    """Import modules in a fresh interpreter; return the names of all that it then holds."""
    code = (
        "import importlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "for name in sys.argv[2:]: importlib.import_module(name)\n"
        "print(*sys.modules, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, os.fspath(REPOSITORY), *map(name_of, modules)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())
