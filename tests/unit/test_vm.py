"""The virtual machine: what its host must have, which kernel is built, what is run in it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from oar_lxc.errors import OarLxcError
from oar_lxc.sandbox.host import GIB
from tests.vm import needs
from tests.vm.__main__ import TESTS
from tests.vm.kernel import unstable, with_loader
from tests.vm.machine import RESULTS, run_script
from tests.vm.needs import CHECKOUT, Host

PLACE = Path("/var/cache/somewhere")
GOOD = Host(
    is_root=True,
    architecture="x86_64",
    memory=64 * GIB,
    disk={PLACE: 100 * GIB},
    memory_files=32 * GIB,
    executable=True,
    cached=False,
    commit=True,
)
# What is missing → the facts, and what the sentence has.
LACKS: dict[str, tuple[dict[str, object], str]] = {
    "root": ({"is_root": False}, "needs root"),
    "a processor": ({"architecture": "aarch64"}, "the processor is aarch64"),
    "memory": ({"memory": GIB}, "1.0 GiB of memory are left, and it needs 2.5"),
    "room for memory": ({"memory_files": GIB}, "/dev/shm has 1.0 GiB free"),
    "execution": ({"executable": False}, "/dev/shm is mounted noexec"),
    "disk": ({"disk": {PLACE: 5 * GIB}}, f"{PLACE} has 5.0 GiB free, and it needs 6"),
    "a commit": ({"commit": False}, "the checkout has no commit"),
}


def test_a_good_host_has_no_problem() -> None:
    assert needs.problems(GOOD) == []
    assert needs.problems(replace(GOOD, commit=None)) == []  # git is yet to be installed


@pytest.mark.parametrize("what", LACKS)
def test_what_a_host_lacks_is_one_sentence(what: str) -> None:
    facts, told = LACKS[what]
    (sentence,) = needs.problems(replace(GOOD, **facts))  # type: ignore[arg-type]
    assert told in sentence
    assert sentence in needs.refusal([sentence])


def test_less_disk_is_enough_where_all_is_built() -> None:
    little = replace(GOOD, disk={PLACE: 5 * GIB})
    assert len(needs.problems(little)) == 1
    assert needs.problems(replace(little, cached=True)) == []


def test_this_machine_is_looked_at_with_the_standard_library_alone() -> None:
    code = "import sys; import tests.vm.needs; print(*sys.modules)"
    argv = ["/usr/bin/python3", "-Ss", "-c", code]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert {"click", "rich", "structlog"} & set(done.stdout.split()) == set()
    assert needs.look().memory > 0


def test_the_unstable_release_is_at_the_mirror_of_the_others() -> None:
    lines = [
        "deb [signed-by=/usr/share/keyrings/a b.gpg] http://mirror/debian bookworm main",
        "deb http://mirror/debian-security bookworm-security main",
    ]
    assert unstable(lines) == (
        "deb [signed-by=/usr/share/keyrings/a b.gpg] http://mirror/debian sid main"
    )


def test_a_program_gets_the_loader_of_its_directory_and_no_other_size() -> None:
    program = b"ELF\0/lib64/ld-linux-x86-64.so.2\0code"
    changed = with_loader(program)
    assert changed.startswith(b"ELF\0ld.so\0")
    assert changed.endswith(b"\0code")
    assert len(changed) == len(program)


@pytest.mark.parametrize("program", [b"ELF", b"/lib64/ld-linux-x86-64.so.2\0" * 2])
def test_a_program_with_another_loader_is_refused(program: bytes) -> None:
    with pytest.raises(OarLxcError, match=r"not loaded by /lib64/ld-linux-x86-64\.so\.2$"):
        with_loader(program)


def test_variables_reach_the_script_as_they_are() -> None:
    text = run_script({"ONE": "it's $HOME\nand more"})
    (line,) = re.findall(r"(?ms)^export ONE=.*?more'$", text)
    argv = ["bash", "-c", f'{line}\nprintf %s "$ONE"']
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == (
        "it's $HOME\nand more"
    )
    subprocess.run(["bash", "-n", "-c", text], check=True)


def test_what_is_run_by_default_is_there() -> None:
    assert list((CHECKOUT / TESTS).glob("test_*.py"))


def test_results_are_none_of_the_sources() -> None:
    ignored = (CHECKOUT / ".gitignore").read_text().splitlines()
    assert f"/{RESULTS.relative_to(CHECKOUT).parts[0]}/" in ignored
