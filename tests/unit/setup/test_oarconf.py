"""oar.conf is edited by key, and every other byte stays."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from oar_lxc.errors import UsageError
from oar_lxc.setup.oarconf import OarConf, check_value, parse_settings, read

TEXT = """\
# Database type ("mysql" or "Pg")
DB_TYPE="Pg"

SCHEDULER_NB_PROCESSES=1
LOG_LEVEL="2" # of the site
#TAKTUK_CMD="/usr/bin/taktuk -t 30 -s"
# Files to execute
#PROLOGUE_EXEC_FILE="/path/to/prog"
CPUSET_PATH="/oar"
"""


def changed_lines(old: str, new: str) -> list[str]:
    kept = old.splitlines()
    return [line for line in new.splitlines() if line not in kept]


def test_reads_quoted_and_bare_values_but_no_comments() -> None:
    conf = OarConf(TEXT)
    assert conf.get("DB_TYPE") == "Pg"
    assert conf.get("SCHEDULER_NB_PROCESSES") == "1"
    assert conf.get("TAKTUK_CMD") is None


def test_the_last_assignment_counts_as_for_oar() -> None:
    assert OarConf('A="1"\nA="2"\n').get("A") == "2"
    assert OarConf('A="1"\nA="2"\n').set("A", "3").text == 'A="1"\nA="3"\n'


def test_setting_a_key_changes_its_line_alone() -> None:
    new = OarConf(TEXT).set("DB_TYPE", "mysql").text
    assert changed_lines(TEXT, new) == ['DB_TYPE="mysql"']
    assert new.count("\n") == TEXT.count("\n")


def test_what_stands_behind_a_value_stays() -> None:
    assert 'LOG_LEVEL="3" # of the site\n' in OarConf(TEXT).set("LOG_LEVEL", "3").text


def test_an_example_in_a_comment_stays_and_the_value_goes_below_it() -> None:
    new = OarConf(TEXT).set("PROLOGUE_EXEC_FILE", "/x").text
    assert '#PROLOGUE_EXEC_FILE="/path/to/prog"\nPROLOGUE_EXEC_FILE="/x"\n' in new


def test_the_same_value_in_a_comment_is_uncommented() -> None:
    new = OarConf(TEXT).set("TAKTUK_CMD", "/usr/bin/taktuk -t 30 -s").text
    assert '\nTAKTUK_CMD="/usr/bin/taktuk -t 30 -s"\n' in new
    assert "#TAKTUK_CMD" not in new


def test_an_unknown_key_goes_to_the_end() -> None:
    assert OarConf(TEXT).set("NEW", "v").text == TEXT + 'NEW="v"\n'
    assert OarConf("A=1").set("NEW", "v").text == 'A=1\nNEW="v"\n'


def test_setting_what_is_set_changes_nothing() -> None:
    assert OarConf(TEXT).set("SCHEDULER_NB_PROCESSES", "1").text == TEXT


def test_off_and_on_again_any_number_of_times_gives_the_same_text() -> None:
    conf = OarConf(TEXT)
    for _ in range(3):
        conf = conf.unset("CPUSET_PATH")
        assert conf.get("CPUSET_PATH") is None
        conf = conf.restore("CPUSET_PATH", "/other")
    assert conf.text == TEXT


def test_a_site_s_own_value_comes_back() -> None:
    conf = OarConf('CPUSET_PATH="/site"\n').unset("CPUSET_PATH").restore("CPUSET_PATH", "/oar")
    assert conf.get("CPUSET_PATH") == "/site"


@pytest.mark.parametrize("value", ['a"b', "a`b", "a$b", "a\\b", "a\nb"])
def test_a_value_that_a_shell_would_act_on_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be a value in oar\.conf"):
        check_value(value)


def test_a_shell_reads_what_was_written(tmp_path: Path) -> None:
    value = "a 'quoted' #word; (x) {y} & *"
    path = tmp_path / "oar.conf"
    path.write_text(OarConf(TEXT).set("SITE", value).text)
    said = subprocess.run(
        ["bash", "-c", '. "$1"; printf %s "$SITE"', "bash", path], capture_output=True, check=True
    )
    assert said.stdout.decode() == value


def test_settings_are_key_and_value() -> None:
    assert parse_settings(("A=1", "B_C=x=y")) == {"A": "1", "B_C": "x=y"}
    for bad in ("A", "a=1", "=1", "A B=1"):
        with pytest.raises(UsageError, match="KEY=VALUE"):
            parse_settings((bad,))


def test_a_file_that_is_not_there_reads_as_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "none").text == ""
