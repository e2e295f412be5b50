"""Imports point one way: domain ← user side and node side ← entry points."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "oar_lxc"

# The groups, by a module's first name below oar_lxc. What is not named is of the user side.
DOMAIN = {
    "apt",
    "arguments",
    "beside",
    "closed",
    "config",
    "contain",
    "doing",
    "ending",
    "errors",
    "hints",
    "idmap",
    "idspans",
    "image",
    "isolated",
    "job",
    "layout",
    "network",
    "plan",
    "published",
    "regular",
    "removal",
    "resolver",
    "run",
    "spec",
    "unsynced",
}
ENTRY_POINTS = {"cli", "sandbox", "setup"}
MAY_USE = {
    "domain": {"domain"},
    "user": {"domain", "user"},
    "node": {"domain", "node"},
    "setup": {"domain", "user", "node", "setup"},
    "sandbox": {"domain", "user", "node", "setup", "sandbox"},
    "cli": {"domain", "user", "node", "setup", "sandbox", "cli"},
}
# Too slow for a hook, or not there on a machine that is being cleaned up.
NOT_ON_THE_NODE_SIDE = {"click", "lxc", "pyroute2", "rich", "structlog"}

# Start programs whose streams are the user's or a copy's, which oar_lxc.run is not for.
HANDS_TERMINAL_OVER = {"cli/passing.py", "cli/tarpipe.py"}

MODULES = sorted(
    path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"
)


def group_of(name: str) -> str:
    """Return the group of a module, by its first name below the package."""
    if name in DOMAIN:
        return "domain"
    return name if name in {"node", *ENTRY_POINTS} else "user"


def imports_of(module: Path) -> Iterator[str]:
    """Yield the full names of all that a module imports, wherever it does."""
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(), str(module))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name != "oar_lxc", f"{module}:{node.lineno}: name the module"
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            assert node.module is not None
            # `from oar_lxc import run` names a module, `from oar_lxc.run import run` a thing.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_imports_only_what_its_group_may_use(module: Path) -> None:
    group = group_of(module.parts[0].removesuffix(".py"))
    for name in imports_of(module):
        parts = name.split(".")
        if parts[0] == "oar_lxc" and parts[1] != "__version__":
            used = group_of(parts[1])
            assert used in MAY_USE[group], f"{module} ({group}) imports {name} ({used})"


def test_every_module_of_the_domain_exists() -> None:
    assert {m.parts[0].removesuffix(".py") for m in MODULES} >= DOMAIN


def test_only_one_module_of_the_user_side_imports_lxc() -> None:
    found = {
        m.as_posix() for m in MODULES for n in imports_of(m) if n.split(".")[0] in ("lxc", "_lxc")
    }
    assert {m for m in found if not m.startswith("sandbox/")} <= {"container.py", "starter.py"}


def test_programs_are_started_through_one_door() -> None:
    found = {m.as_posix() for m in MODULES if "subprocess" in imports_of(m)}
    assert found <= {"run.py", *HANDS_TERMINAL_OVER}


def test_the_root_side_imports_nothing_heavy() -> None:
    names = [m for m in MODULES if m.parts[0] == "node"]
    assert NOT_ON_THE_NODE_SIDE.isdisjoint(_loaded_after_importing(names))


def test_importing_the_user_side_needs_no_lxc() -> None:
    names = [m for m in MODULES if group_of(m.parts[0].removesuffix(".py")) in ("domain", "user")]
    assert "lxc" not in _loaded_after_importing(names)


def test_importing_the_command_line_loads_no_command() -> None:
    loaded = _loaded_after_importing([Path("cli/main.py")])
    assert {"lxc", "pyroute2"}.isdisjoint(loaded)


def test_the_way_into_a_container_loads_nothing_that_plans_one() -> None:
    """Each command in a container waits for both ends of it."""
    for ends in (["cli/main.py", "cli/enter.py"], ["doorway.py", "keys.py", "readiness.py"]):
        loaded = _loaded_after_importing([Path(name) for name in ends])
        assert {"oar_lxc.plan", "oar_lxc.spec", "_hashlib", "structlog"}.isdisjoint(loaded)


def _loaded_after_importing(modules: list[Path]) -> set[str]:
    """Import modules in a fresh interpreter; return the names of all that it then holds.

    Of packages, their first names are told alone as well.
    """
    names = [".".join(("oar_lxc", *m.with_suffix("").parts)) for m in modules]
    code = (
        "import importlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "for name in sys.argv[2:]: importlib.import_module(name)\n"
        "print(*sys.modules, *{name.partition('.')[0] for name in sys.modules}, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(PACKAGE.parent), *names],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())
