"""The administrator's file: one value is changed, and the rest stays."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from oar_lxc.errors import OarLxcError
from oar_lxc.model.config import lenient_config
from oar_lxc.setup import config_file
from oar_lxc.setup.steps import SetupError


def test_the_administrator_s_other_keys_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "oar-lxc.toml"
    monkeypatch.setattr(config_file, "CONFIG", path)
    path.write_text("# mine\n[hooks]\ndeadline = 30\nprepare = 'stanza'\n")
    assert config_file.text_prepared_by("prologue") == (
        '# mine\n[hooks]\ndeadline = 30\nprepare = "prologue"\n'
    )
    path.unlink()
    assert config_file.text_prepared_by("stanza").endswith('[hooks]\nprepare = "stanza"\n')


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[hooks] # note\n", '[hooks] # note\nprepare = "prologue"\n'),
        ("[ hooks ]\ndeadline = 9", '[ hooks ]\nprepare = "prologue"\ndeadline = 9\n'),
        ("hooks.deadline = 30\n", 'hooks.prepare = "prologue"\nhooks.deadline = 30\n'),
        ('hooks.prepare = "stanza" # x\n', 'hooks.prepare = "prologue" # x\n'),
        ("hooks = { deadline = 9 }\n", 'hooks = { prepare = "prologue", deadline = 9 }\n'),
        ("hooks = {}\n", 'hooks = { prepare = "prologue" }\n'),
        ("hooks = { prepare = 'stanza' }\n", 'hooks = { prepare = "prologue" }\n'),
        ("['hooks']\n\"prepare\" = 'stanza'\n", '[\'hooks\']\n"prepare" = "prologue"\n'),
        ("[mounts]\ntrees = []\n", '[mounts]\ntrees = []\n[hooks]\nprepare = "prologue"\n'),
        (
            "[hooks]\n# prepare = 'stanza'\n[mounts]\ntrees = ['/x[hooks]']\n",
            "[hooks]\nprepare = \"prologue\"\n# prepare = 'stanza'\n"
            "[mounts]\ntrees = ['/x[hooks]']\n",
        ),
        ("[hooks]\r\ndeadline = 9\r\n", '[hooks]\nprepare = "prologue"\ndeadline = 9\n'),
        ("\ufeff[hooks]\n", '\ufeff[hooks]\nprepare = "prologue"\n'),
        ("[hooks]\nprepare = 'prologue'  # kept", "[hooks]\nprepare = 'prologue'  # kept"),
        ("", '\n[hooks]\nprepare = "prologue"\n'),
    ],
)
def test_whatever_form_the_file_has_one_value_is_another_and_the_rest_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    path = tmp_path / "oar-lxc.toml"
    monkeypatch.setattr(config_file, "CONFIG", path)
    path.write_text(before, newline="")
    old = lenient_config(path)
    text = config_file.text_prepared_by("prologue")
    assert text.lstrip("\n") == after.lstrip("\n")
    path.write_text(text)
    assert lenient_config(path) == (replace(old[0], prepare="prologue"), "")
    assert config_file.text_prepared_by("prologue") == text


def test_a_file_that_cannot_be_changed_safely_is_left_with_the_line_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "oar-lxc.toml"
    monkeypatch.setattr(config_file, "CONFIG", path)
    path.write_text('[hooks]\nprepare = """\nstanza"""\n')
    with pytest.raises(SetupError, match='write prepare = "prologue" into its table hooks'):
        config_file.text_prepared_by("prologue")


@pytest.mark.parametrize("kind", ["wrong", "binary", "fifo", "directory"])
def test_a_wrong_configuration_is_not_set_ups_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "oar-lxc.toml"
    monkeypatch.setattr(config_file, "CONFIG", path)
    make: dict[str, Callable[[], object]] = {
        "wrong": lambda: path.write_text("[hooks]\ndeadlin = 30\n"),
        "binary": lambda: path.write_bytes(b"\xff\0"),
        "fifo": lambda: os.mkfifo(path),
        "directory": path.mkdir,
    }
    make[kind]()
    with pytest.raises(OarLxcError, match=str(path)):
        config_file.text_prepared_by("prologue")


def test_nodes_are_prepared_by_one_of_two() -> None:
    with pytest.raises(SetupError, match="stanza or prologue"):
        config_file.nodes_are_prepared_by("nobody")
