"""What pip installs: all of the package, also where it is built from the archive of sources."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
NO_SOURCES = shutil.ignore_patterns("__pycache__", ".*")


def build(kind: str, source: Path, target: Path) -> Path:
    """Build a wheel or an archive of sources with what is installed, without a network."""
    code = f"import sys; from setuptools.build_meta import build_{kind} as b; b(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(target)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (made,) = target.iterdir()
    return made


def test_a_wheel_from_the_archive_of_sources_has_the_whole_package(tmp_path: Path) -> None:
    source, unpacked = tmp_path / "source", tmp_path / "unpacked"
    shutil.copytree(REPOSITORY / "oar_lxc", source / "oar_lxc", ignore=NO_SOURCES)
    for name in SOURCES:
        shutil.copy(REPOSITORY / name, source)
    wanted = {str(path.relative_to(source)) for path in source.rglob("oar_lxc/**/*.*")}
    for place in ("archive", "unpacked", "wheel"):
        (tmp_path / place).mkdir()
    archive = build("sdist", source, tmp_path / "archive")
    subprocess.run(["tar", "-xf", archive, "-C", unpacked], check=True)
    (top,) = unpacked.iterdir()
    with zipfile.ZipFile(build("wheel", top, tmp_path / "wheel")) as wheel:
        names = set(wheel.namelist())
        (entries,) = (name for name in names if name.endswith("/entry_points.txt"))
        assert "oar-lxc = oar_lxc.cli.entry:main" in wheel.read(entries).decode()
    assert {name for name in names if name.startswith("oar_lxc/")} == wanted
