"""Tables for people: whatever is in them, and however wide they are."""

from __future__ import annotations

import pytest

from oar_lxc.cli.shared.table import print_table


def test_what_is_in_a_table_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Markup, names of styles and numbers are nothing special, and no row is folded."""
    wide = "x" * 300
    print_table(("A", "B", "C"), [("[red]a[/red]", "1", wide), (":smile:", "10", "")], ("B",))
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["A", "B", "C"]
    assert first == f"[red]a[/red]   1  {wide}"
    assert second.rstrip() == ":smile:       10"
