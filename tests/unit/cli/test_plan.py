"""`oar-lxc plan`: mistakes of a spec file that only show for a job's nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from oar_lxc.cli.main import cli
from oar_lxc.errors import SpecError
from tests.unit.fakes.programs import invoke


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("per_node = 5000", ", group vm: per_node is 5000; the job's network has 2044 addresses"),
        ("cores = 64", ", group vm: cores is 64; container vm1 would be given core number 64 of"),
        ("per_node = 2\nports = ['8080:80']", ", group vm: ports has 8080, which on node1 leads"),
    ],
)
def test_what_does_not_fit_is_one_sentence_with_file_group_key_and_value(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "vms.toml"
    path.write_text(f"[[group]]\n{text}\n")
    with pytest.raises(SpecError) as caught:
        invoke(cli, "plan", str(path), "--nodes", "2", "--cores", "2")
    assert str(caught.value).startswith(f"{path}{sentence}")
    assert "\n" not in str(caught.value)


def test_a_directory_is_no_spec_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"^{tmp_path} cannot be read: Is a directory$"):
        invoke(cli, "plan", str(tmp_path), "--nodes", "2", "--cores", "2")
