"""The matrix of faults kills hooks after each of their steps."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType

import pytest

from oar_lxc.root import destroy, prepare
from tests.matrix.hooks import STEPS


@pytest.mark.parametrize("module", [prepare, destroy])
def test_the_matrix_has_each_step_of_a_hook(module: ModuleType) -> None:
    calls = (x for x in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(x, ast.Call))
    names = {
        word.value
        for call in calls
        if ast.unparse(call.func).endswith("step")
        for word in call.args
        if isinstance(word, ast.Constant)
    }
    assert "links" in names
    assert set(STEPS[module.__name__.rpartition(".")[2]]) == names
