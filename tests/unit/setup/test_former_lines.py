"""The lines that version 0.1 left for jobs go with an upgrade, and no others."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from oar_lxc.model.idspans import LOWEST
from oar_lxc.root.id_ranges import COUNT
from oar_lxc.setup import former_lines
from oar_lxc.setup.former_lines import is_of_bridge, is_range
from oar_lxc.setup.steps import SetupError, Step

SUBUID = f"""\
root:100000:65536
alice:{LOWEST}:{COUNT}
1001:{LOWEST + COUNT}:{COUNT}
bob:1879048192:65536
carol:{LOWEST}:{COUNT - 1}
dave:{LOWEST + 1}:{COUNT}
# alice:{LOWEST + COUNT}:{COUNT}:x

caf\udce9:165536:65536
"""
USERNET = """\
alice veth olb42 1023
bob veth lxcbr0 10
@students veth br0 2
# carol veth olb7 3
dave\tveth olb07 3
erin veth olb4294967295 3
"""
NICS = "alice veth olb42 veth1001_abcd\nbob veth lxcbr0 veth1002_efgh\n"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Return the files of a node with jobs of version 0.1, by name."""
    found = {name: tmp_path / name for name in ("subuid", "usernet", "nics")}
    for path, text in zip(found.values(), (SUBUID, USERNET, NICS), strict=True):
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        path.chmod(0o640)
    return found


def step_for(files: dict[str, Path]) -> Step:
    known = {path: is_range if name == "subuid" else is_of_bridge for name, path in files.items()}
    return former_lines.step(known, next(iter(files.values())).with_name("lock"))


def test_lines_of_jobs_go_and_no_others(files: dict[str, Path]) -> None:
    step = step_for(files)
    shown = step.pending()
    assert shown is not None
    assert f"-alice:{LOWEST}:{COUNT}" in shown
    assert "-alice veth olb42 1023" in shown
    assert step.apply is not None
    step.apply()
    kept = files["subuid"].read_bytes().decode("utf-8", "surrogateescape").splitlines()
    assert [line.partition(":")[0] for line in kept] == [
        *("root", "carol", "dave", "# alice", "", "caf\udce9")
    ]
    gone = "alice veth olb42 1023\n", "erin veth olb4294967295 3\n"
    assert files["usernet"].read_text() == USERNET.replace(gone[0], "").replace(gone[1], "")
    assert files["nics"].read_text() == NICS.partition("\n")[2]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files.values()} == {0o640}
    assert step.pending() is None


def test_a_node_without_such_lines_and_files_is_as_it_should_be(files: dict[str, Path]) -> None:
    files["subuid"].write_text("root:100000:65536\n")
    files["usernet"].unlink()
    files["nics"].write_text("")
    assert step_for(files).pending() is None


def test_a_file_that_cannot_be_read_is_one_sentence(files: dict[str, Path]) -> None:
    files["usernet"].unlink()
    files["usernet"].mkdir()
    with pytest.raises(SetupError, match=r"usernet cannot be read \(.*\): mend it"):
        step_for(files).pending()
