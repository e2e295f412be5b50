"""The runtime with LXC's bindings, as far as it needs no LXC."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from oar_lxc.container.lxc_runtime import LxcRuntime
from oar_lxc.errors import OarLxcError


def test_missing_bindings_are_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "lxc", None)
    with pytest.raises(OarLxcError, match="apt-get install python3-lxc"):
        LxcRuntime(tmp_path)
