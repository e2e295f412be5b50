"""The runtime with LXC's bindings, as far as it needs no LXC."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from oar_lxc.container.job_namespaces import JobNamespaces
from oar_lxc.container.lxc_runtime import LxcRuntime
from oar_lxc.errors import ContainerError, OarLxcError
from oar_lxc.model.layout import JobLayout


class Nowhere(JobNamespaces):
    """Namespaces that are not entered."""

    def become_lxc(self) -> None:
        pass


def test_missing_bindings_are_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "lxc", None)
    with pytest.raises(OarLxcError, match="apt-get install python3-lxc"):
        LxcRuntime(tmp_path, Nowhere(JobLayout(42)))


@pytest.mark.parametrize(
    ("why", "told"),
    [
        ("No such file or directory", True),
        ("Permission denied", True),
        ("Cannot allocate memory", False),  # the init is there
    ],
)
def test_a_container_without_an_init_that_does_not_start_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, why: str, told: bool
) -> None:
    bindings = tmp_path / "lxc/__init__.py"
    monkeypatch.setitem(sys.modules, "lxc", SimpleNamespace(__file__=str(bindings)))
    (tmp_path / "lxc").mkdir()
    # Stands in for LXC: no container starts.
    (tmp_path / "_lxc.py").write_text(
        "class Container:\n"
        "    init_pid = -1\n"
        "    def __init__(self, name, path): pass\n"
        "    def start(self): return False\n"
    )
    (tmp_path / "vm1").mkdir()
    (tmp_path / "vm1/lxc.log").write_text(
        f'vm1 20240229101112.345 ERROR start - start.c:1 - {why} - Failed to exec "/sbin/init"\n'
        "vm1 20240229101112.346 ERROR sync - sync.c:2 - An error occurred\n"
    )
    with pytest.raises(ContainerError) as caught:
        LxcRuntime(tmp_path, Nowhere(JobLayout(42))).start("vm1")
    assert ("it has no /sbin/init that can be run: its image needs" in str(caught.value)) == told
    assert ("Failed to exec" in str(caught.value)) != told
