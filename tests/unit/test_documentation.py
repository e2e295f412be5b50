"""The documentation names what there is: commands, options, configuration."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

import click
import pytest

from oar_lxc.cli.doctor import doctor
from oar_lxc.cli.main import COMMANDS, cli
from oar_lxc.cli.setup import setup
from oar_lxc.model.config import TABLES, Config
from oar_lxc.root.main import parser
from tests.unit.test_imports import MAY_IMPORT

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"


def page(name: str) -> str:
    """Return a page of the manual as plain text: no macros, no marks for hyphens."""
    return (DOCS / "man" / name).read_text()


def options(command: click.Command) -> set[str]:
    """Return the long options of a command."""
    parameters = (p for p in command.params if isinstance(p, click.Option))
    return {name for p in parameters for name in p.opts if name.startswith("--")}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_manual_has_every_command(command: str) -> None:
    text = page("oar-lxc.1")
    synopsis = text.partition(".Sh SYNOPSIS\n")[2].partition(".Sh ")[0]
    assert len(re.findall(rf"^\.Nm\n\.Cm {command}$", synopsis, re.MULTILINE)) == 1, "SYNOPSIS"
    assert re.search(rf"^\.It Cm {command}$", text, re.MULTILINE), "DESCRIPTION"


@pytest.mark.parametrize("group", ["image", "setup", "sandbox"])
def test_the_manual_has_the_commands_of_groups(group: str) -> None:
    command = cli.get_command(click.Context(cli), group)
    assert isinstance(command, click.Group)
    synopsis = re.search(rf"^\.Cm {group}\n\.Cm (.*)$", page("oar-lxc.1"), re.MULTILINE)
    assert synopsis is not None
    shown = {name for name, one in command.commands.items() if not one.hidden}
    assert set(synopsis[1].split(" | ")) == shown


def test_the_manual_has_every_command_and_option_of_the_root_side() -> None:
    text = page("oar-lxc-node.8")
    commands = next(
        action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    for name, command in commands.choices.items():
        assert f".It Cm {name}\n" in text
        for action in command._actions:
            for option in action.option_strings:
                if option.startswith("--") and option != "--help":
                    assert f".It Fl -{option[2:]}" in text, option


@pytest.mark.parametrize("role", sorted(setup.commands))
def test_the_guide_has_every_option_of_setup(role: str) -> None:
    text = (DOCS / "administrator.rst").read_text()
    for option in options(setup.commands[role]):
        assert f"``{option} " in text or f"``{option}``" in text, option


def test_the_guide_has_every_option_of_the_doctor() -> None:
    text = (DOCS / "administrator.rst").read_text()
    shown = [p for p in doctor.params if isinstance(p, click.Option) and not p.hidden]
    for option in (name for p in shown for name in p.opts):
        assert f"``{option} " in text or f"``{option}``" in text, option


def test_the_guides_have_every_key_of_the_configuration() -> None:
    assert {key for keys in TABLES.values() for key in keys} == {
        field.name for field in dataclasses.fields(Config)
    }
    for table, keys in TABLES.items():
        for key in keys:
            assert f"{key} = " in (DOCS / "administrator.rst").read_text(), key
            assert f"[{table}] {key}\n" in page("oar-lxc-node.8"), key


def test_the_guide_has_every_option_of_the_job_script() -> None:
    script = (DOCS.parent / "jobscripts/lxc_job.py").read_text()
    text = (DOCS / "user.rst").read_text()
    found = re.findall(r'add_argument\(\s*"(--[a-z-]+)"', script)
    assert found
    for option in found:
        assert f"``{option}" in text, option


def test_the_developers_guide_names_files_that_there_are() -> None:
    """Also those of the package by their path in it, or by their name alone after such a one."""
    named = re.findall(r"``([\w/.-]+\.(?:py|pl|toml|1))``", (DOCS / "development.rst").read_text())
    roots = (REPOSITORY, REPOSITORY / "oar_lxc")
    modules = {
        path.name for room in ("oar_lxc", "tests") for path in (REPOSITORY / room).rglob("*.py")
    }
    missing = [
        name
        for name in named
        if not any((root / name).exists() for root in roots) and name not in modules
    ]
    assert missing == []
    assert len(named) > 40


def test_the_developers_guide_has_the_rule_of_each_room() -> None:
    text = (DOCS / "development.rst").read_text()
    rows = re.findall(
        r"^``(\w+)`` +\S.*?  +(\S.*)$", text.partition("The rule of each room")[2], re.M
    )
    told = {}
    for room, allowed in rows:
        others = allowed.partition("all but ")[2]
        names = set(re.findall(r"\w+", others if others else allowed)) - {"and", "nothing"}
        everything = set(MAY_IMPORT) - {room}
        told[room] = everything if allowed == "all" else everything - names if others else names
    assert told == {room: set(names.split()) for room, names in MAY_IMPORT.items()}
