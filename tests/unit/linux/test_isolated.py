"""Programs of the package, run so that nothing of the user's gets into them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oar_lxc.linux.isolated import isolated
from oar_lxc.linux.login_shell import mark_of, pack, unpack

SHADOW = "raise SystemExit('shadowed')"
MODULES = ("json", "random", "queue", "select", "re", "oar_lxc", "os", "signal")


@pytest.mark.parametrize(
    "module", ["agent.main", "agent.attach", "remote.fanout", "agent.forward"]
)
def test_no_module_comes_from_the_working_directory_or_the_users_variables(
    tmp_path: Path, module: str
) -> None:
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(SHADOW)
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "os.py")}
    environ |= {"HOME": str(tmp_path), "PYTHONHOME": "/opt/none", "PYTHONINSPECT": "1"}
    done = subprocess.run(
        isolated(f"oar_lxc.{module}", ["x:y"]),
        cwd=tmp_path,
        env=environ,
        input=b"",
        capture_output=True,
        check=False,
        timeout=30,
    )
    said = (done.stdout + done.stderr).decode()
    assert "shadowed" not in said
    assert "Fatal" not in said
    assert done.returncode in (0, 2)


def test_the_package_is_that_of_the_caller_wherever_it_lies(tmp_path: Path) -> None:
    """And only it: what lies beside it does not come before the system's modules."""
    package = tmp_path / "a place" / "oar_lxc"
    (package / "linux").mkdir(parents=True)
    (package.parent / "json.py").write_text(SHADOW)
    (package / "__init__.py").write_text("")
    source = Path(__file__).parents[3] / "oar_lxc/linux"
    for name in ("isolated.py", "quick_start.py"):
        (package / "linux" / name).write_text((source / name).read_text())
    (package / "told.py").write_text(
        "import json, sys\ndef main(): print(json.dumps([__file__, sys.argv]))\n"
    )
    argv = [sys.executable, "-I", str(package / "linux/isolated.py"), "oar_lxc.told", "a b"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout == f'["{package}/told.py", ["oar_lxc.told", "a b"]]\n'


@pytest.mark.parametrize(
    "words", [["x"], ["", ""], ["-", "=", "a\nb"], ["caf\udce9", "é\U0001f600"], ["x" * 1000]]
)
def test_words_cross_any_shell(words: list[str]) -> None:
    packed = pack(words)
    assert unpack(packed) == words
    assert packed.replace("-", "").replace("_", "").isalnum()
    assert not packed.startswith("-")


@pytest.mark.parametrize("text", ["w!", "wäö", "wA"])
def test_what_is_no_packed_word_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        unpack(text)


def test_a_mark_begins_a_line_whatever_was_written_before() -> None:
    assert mark_of("12").startswith(b"\n")
    assert mark_of("12").endswith(b"12\n")
