"""Programs that start faster, and find all modules that they use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3]
START = "from oar_lxc.linux.quick_start import quick_start; quick_start(); import sys;"


def told(program: str) -> str:
    argv = [sys.executable, "-c", START + program]
    return subprocess.run(argv, cwd=SOURCE, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("module", ["root.main", "root.prepare", "root.destroy", "remote.fanout"])
def test_a_program_does_not_load_what_only_classes_without_docstrings_need(module: str) -> None:
    assert told(f"import oar_lxc.{module}; print('ast' in sys.modules)") == "False\n"


@pytest.mark.parametrize(
    "program",
    [
        "import inspect; print(inspect.isclass(str))",
        "from inspect import isclass; print(isclass(str))",
        "import dataclasses, inspect; print(inspect.isclass(str) and inspect.isclass(int))",
        "import dataclasses; print(dataclasses.make_dataclass('A', ['b']).__doc__[:2] == 'A(')",
        "import inspect; print(not hasattr(inspect, 'nothing'))",
        "import inspect; print(inspect.get_annotations(lambda: 1) == {})",
        "import inspect; print(inspect.get_annotations(print, eval_str=True) == {})",
    ],
)
def test_a_module_that_is_loaded_late_is_there_when_it_is_used(program: str) -> None:
    assert told(program) == "True\n"
