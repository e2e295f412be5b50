"""The library in an environment of a user's own, as pipx makes it: without packages of Debian."""

from __future__ import annotations

import shutil
from pathlib import Path

from oar_lxc import __version__
from oar_lxc.linux.run import run
from tests.pretend import PYTHON, SOURCE

SOURCES = ("oar_lxc", "pyproject.toml", "setup.py", "README.md", "LICENSE")
# No module needs LXC's bindings to be loaded.
LOAD = """
import importlib, importlib.util, pkgutil, oar_lxc
assert importlib.util.find_spec("lxc") is None
for module in pkgutil.walk_packages(oar_lxc.__path__, "oar_lxc."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(oar_lxc.Session.__name__, oar_lxc.__file__)
"""


def test_a_user_installs_the_library_without_root_and_without_lxc(tmp_path: Path) -> None:
    sources, environment = tmp_path / "sources", tmp_path / "environment"
    sources.mkdir()
    for name in SOURCES:
        path = SOURCE / name
        if path.is_dir():
            shutil.copytree(path, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, sources)
    run([PYTHON, "-m", "venv", str(environment)], timeout=300)
    python = str(environment / "bin/python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, str(sources)], timeout=600)
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [str(environment / "bin/oar-lxc")]
    assert __version__ in run([*command, "--version"], env=home, timeout=60).stdout
    assert "Commands:" in run([*command, "--help"], env=home, timeout=60).stdout
    said = run([python, "-I", "-c", LOAD], env=home, timeout=60).stdout.split()
    assert said[0] == "Session"
    assert Path(said[1]).is_relative_to(environment)
