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
from tests.vm.__main__ import AFTER, TESTS
from tests.vm.kernel import CONFIG, lacking, newest, unstable
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
    "memory": ({"memory": GIB}, "1.0 GiB of memory are left, and it needs 3.5"),
    "room for memory": ({"memory_files": GIB}, "/dev/shm has 1.0 GiB free"),
    "execution": ({"executable": False}, "/dev/shm is mounted noexec"),
    "disk": ({"disk": {PLACE: 5 * GIB}}, f"{PLACE} has 5.0 GiB free, and it needs 12"),
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


def test_the_newest_source_is_built() -> None:
    names = ["linux-source", "linux-source-6.12", "linux-source-7.9", "linux-source-7.10"]
    assert newest([*names, "linux-source-7.11-rt"]) == "linux-source-7.10"
    with pytest.raises(OarLxcError, match="release sid has no package linux-source-VERSION"):
        newest(["linux-source"])


def test_what_a_kernel_does_not_take_is_named() -> None:
    wanted = "# for jobs\nCONFIG_ONE=y\nCONFIG_TWO=y\nCONFIG_THREE=n\n"
    assert lacking(wanted, "CONFIG_ONE=y\n# CONFIG_TWO is not set\n") == ["CONFIG_TWO=y"]
    assert lacking(wanted, "CONFIG_TWO=y\nCONFIG_ONE=y\n") == []


def test_the_kernel_has_what_jobs_need_of_one() -> None:
    lines = CONFIG.read_text().splitlines()
    assert {"CONFIG_SMP=y", "CONFIG_CPUSETS=y", "CONFIG_NFT_FIB_INET=y"} <= set(lines)


def test_variables_reach_the_script_as_they_are() -> None:
    text = run_script({"ONE": "it's $HOME\nand more"})
    (line,) = re.findall(r"(?ms)^export ONE=.*?more'$", text)
    argv = ["bash", "-c", f'{line}\nprintf %s "$ONE"']
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == (
        "it's $HOME\nand more"
    )
    subprocess.run(["bash", "-n", "-c", text], check=True)


def test_what_is_run_by_default_is_there() -> None:
    for name in (*TESTS, AFTER):
        path = CHECKOUT / name
        assert path.is_file() or list(path.glob("test_*.py"))


def test_results_are_none_of_the_sources() -> None:
    ignored = (CHECKOUT / ".gitignore").read_text().splitlines()
    assert f"/{RESULTS.relative_to(CHECKOUT).parts[0]}/" in ignored
