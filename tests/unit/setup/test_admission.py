"""Admission rules: Perl, or Python, that OAR evaluates when a job is submitted."""

from __future__ import annotations

import os
import re
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from oar_lxc.setup import admission, files, oarconf
from oar_lxc.setup.admission import PYTHON_REFUSAL, REFUSAL, allow_lxc, allow_lxc_in_python
from oar_lxc.setup.steps import NotYetError, SetupError, Step
from tests.unit.setup.conftest import Installer

RULE = r"""# Check if job types are valid
my @types = (
    qr/^container(?:=\w+)?$/,                 qr/^deploy(?:=standby)?$/,
    qr/^timesharing=(?:(?:\*|user),(?:\*|name)|(?:\*|name),(?:\*|user))$/,
    qr/^state=permissive$/,
);
foreach my $t ( @{$type_list} ) {
    my $match = 0;
    foreach my $r (@types) {
        if ($t =~ $r) { $match = 1; }
    }
    unless ( $match ) {
        die( "[ADMISSION RULE] Error: unknown job type: $t\n");
    }
}
"""


def admit(rule: str, *types: str) -> subprocess.CompletedProcess[str]:
    """Evaluate a rule as OAR does, for a job of these types."""
    script = "my $type_list = [@ARGV]; local $/; my $rule = <STDIN>; eval $rule; die $@ if $@;"
    argv = ["perl", "-w", "-e", script, *types]
    return subprocess.run(argv, input=rule, capture_output=True, text=True, check=False)


def test_the_type_is_unknown_before_and_known_after() -> None:
    assert "unknown job type: lxc" in admit(RULE, "lxc").stderr
    for types in (["lxc"], ["lxc", "deploy"], ["container=x"], []):
        assert admit(allow_lxc(RULE), *types).returncode == 0
    assert "unknown job type: lxcx" in admit(allow_lxc(RULE), "lxcx").stderr
    assert "unknown job type: xlxc" in admit(allow_lxc(RULE), "xlxc").stderr


def test_only_a_line_is_added() -> None:
    old, new = RULE.splitlines(), allow_lxc(RULE).splitlines()
    assert [line for line in new if line not in old] == ["    qr/^lxc$/,"]
    assert [line for line in new if line in old] == old


def test_a_second_time_changes_nothing() -> None:
    once = allow_lxc(RULE)
    assert allow_lxc(once) == once


@pytest.mark.parametrize(
    "site", ["my @types = (qr/^a$/);", "my @types=( qr/^a$/ , ) ;", "@types = ();"]
)
def test_a_list_that_a_site_wrote_in_its_own_way_is_extended(site: str) -> None:
    rule = allow_lxc(site.replace("@types", "our @types").replace("my our", "my"))
    check = rule + "\n(grep { 'lxc' =~ $_ } @types) or die 'no';"
    assert admit(check).returncode == 0, rule


def test_a_rule_without_a_list_is_left_to_a_person() -> None:
    with pytest.raises(SetupError, match="by hand"):
        allow_lxc("die 'unknown job type' unless $t eq 'besteffort';")


@pytest.mark.parametrize("other", ["deploy", "cosystem", "deploy=standby", "cosystem=standby"])
def test_types_that_cannot_work_together_are_refused_with_a_sentence(other: str) -> None:
    refused = admit(REFUSAL, "lxc", other)
    assert refused.returncode != 0
    assert refused.stderr.startswith("[ADMISSION RULE] Error: a job cannot be of type lxc and")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "types", [["lxc"], ["deploy"], ["lxc", "besteffort"], ["deployed", "lxc"]]
)
def test_other_jobs_are_admitted(types: list[str]) -> None:
    assert admit(REFUSAL, *types).returncode == 0


# As OAR 3 has it in a file of Python: some patterns, one made of them, and a look at each type.
PYTHON_RULE = """\
if types:
    first = "^container(?:=\\\\w+)?$"
    second = "^deploy(?:=standby)?$"
    known = re.compile(
        "(%s|%s|%s)" % (first, second, "^besteffort$")
    )

    for t in types:
        if not re.match(known, t):
            raise Exception("[ADMISSION RULE] Error: unknown job type: " + t)
"""


def admit_in_python(rule: str, *types: str) -> str:
    """Evaluate a rule as OAR 3 does, for a job of these types; return why it is refused, or ""."""
    job = {"types": list(types) or None, "name": "mine"}
    try:
        exec(compile(rule, "<string>", "exec"), {"re": re, "session": None}, job)
    except Exception as refusal:
        return str(refusal)
    assert job["name"] == "mine"
    return ""


def test_the_type_is_unknown_to_oar_3_before_and_known_after() -> None:
    assert "unknown job type: lxc" in admit_in_python(PYTHON_RULE, "lxc")
    new = allow_lxc_in_python(PYTHON_RULE)
    for types in (["lxc"], ["lxc", "deploy"], ["container=x"], []):
        assert admit_in_python(new, *types) == ""
    for other in ("lxcx", "xlxc", "lxc=1", "unheard"):
        assert f"unknown job type: {other}" in admit_in_python(new, "lxc", other)


def test_only_a_line_is_added_to_a_rule_of_oar_3_and_once() -> None:
    new = allow_lxc_in_python(PYTHON_RULE)
    old, lines = PYTHON_RULE.splitlines(), new.splitlines()
    (added,) = [line for line in lines if line not in old]
    assert [line for line in lines if line != added] == old
    assert allow_lxc_in_python(new) == new


def test_a_site_s_own_indentation_and_patterns_stay() -> None:
    rule = PYTHON_RULE.replace("    ", "\t").replace("\\\\w", "\\w")
    rule = rule.replace("unknown job type", "no lxc either: unknown job type")
    assert '"^container(?:=\\w+)?$"' in rule
    new = allow_lxc_in_python(rule)
    assert len(new.splitlines()) == len(rule.splitlines()) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert admit_in_python(new, "lxc", "container=x") == ""
        assert "unknown job type: lxcx" in admit_in_python(new, "lxcx")


@pytest.mark.parametrize("quote", ["'^lxc$'", 'r"^(lxc|besteffort)$"', '".*"'])
def test_a_rule_that_a_site_has_extended_stays(quote: str) -> None:
    rule = PYTHON_RULE.replace('"^besteffort$"', quote)
    assert allow_lxc_in_python(rule) == rule


@pytest.mark.parametrize(
    "rule",
    [
        "if types and set(types) - {'besteffort'}: raise Exception('unknown job type')",
        "if types: known = re.compile('a')  # unknown job type",
        "known = re.compile('a')\nother = re.compile('b')  # unknown job type",
        "raise Exception('unknown job type: ' + t",
        "die('unknown job type');",
    ],
)
def test_a_rule_of_another_form_is_left_to_a_person(rule: str) -> None:
    with pytest.raises(SetupError, match="by hand"):
        allow_lxc_in_python(rule)


@pytest.mark.parametrize("other", ["deploy", "cosystem", "deploy=standby", "cosystem=standby"])
def test_types_that_cannot_work_together_are_refused_by_oar_3(other: str) -> None:
    said = admit_in_python(PYTHON_REFUSAL, "besteffort", other, "lxc")
    assert said.startswith("[ADMISSION RULE] Error: a job cannot be of type lxc and")
    assert "\n" not in said


@pytest.mark.parametrize("types", [[], ["lxc"], ["deploy"], ["deployed", "lxc"]])
def test_other_jobs_are_admitted_by_oar_3(types: list[str]) -> None:
    assert admit_in_python(PYTHON_REFUSAL, *types) == ""


Rules = dict[str, str]
Site = Callable[[Rules], Path]


@pytest.fixture
def oar_3(tmp_path: Path, install: Installer, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return what makes this a machine of OAR 3 whose rules are files; it tells where they are."""
    install("3.0.2-1")
    directory = tmp_path / "etc/rules.d"
    directory.parent.mkdir()
    text = f'ADMISSION_RULES_IN_FILES="yes"\nADMISSION_RULES_PATH="{directory}/"\n'
    monkeypatch.setattr(admission, "CONF", directory.parent / "oar.conf")
    monkeypatch.setattr(oarconf, "read", lambda: oarconf.OarConf(text))
    monkeypatch.setattr(files, "ids", lambda user, group: (os.geteuid(), os.getegid()))

    def make(rules: Rules) -> Path:
        directory.mkdir()
        for name, rule in rules.items():
            (directory / name).write_text(rule)
        return directory

    return make


def apply(steps: list[Step]) -> list[str]:
    """Apply what is left to do of steps; return the titles of those that had anything."""
    done = []
    for step in steps:
        if step.pending() is not None:
            assert step.apply is not None
            step.apply()
            done.append(step.title)
        assert step.pending() is None
    return done


def all_rules(directory: Path) -> str:
    """Return the rules that OAR 3 runs: one text of all files whose names begin with a number."""
    names = sorted(path.name for path in directory.iterdir() if re.match(r"\d+_", path.name))
    return "".join((directory / name).read_text() for name in names)


@pytest.mark.parametrize("steps", [admission.server_steps, admission.frontend_steps])
def test_oar_3_takes_its_rules_from_files(oar_3: Site, steps: Callable[[], list[Step]]) -> None:
    names = ("15_check_types.py", "15_check_types.py~", "OFF_15_check_types.py")
    directory = oar_3(dict.fromkeys(names, PYTHON_RULE) | {"01_queue.py": "queue = 'a'\n"})
    assert len(apply(steps())) == 2
    assert apply(steps()) == []
    assert admit_in_python(all_rules(directory), "lxc", "besteffort") == ""
    assert "cannot be of type lxc" in admit_in_python(all_rules(directory), "lxc", "deploy")
    assert (directory / "OFF_15_check_types.py").read_text() == PYTHON_RULE
    # Beside the rules, OAR would run a copy of what they were.
    new = {path.name for path in directory.iterdir()} - {*names, "01_queue.py"}
    assert new == {admission.REFUSAL_FILE}
    assert (directory.parent / "15_check_types.py.oar-lxc.bak").read_text() == PYTHON_RULE


def test_a_frontend_without_rules_says_where_they_come_from(oar_3: Site) -> None:
    with pytest.raises(SetupError, match=r"no .*/rules.d.*: copy there what OAR's sources have"):
        apply(admission.frontend_steps())


def test_a_server_without_rules_is_no_frontend(oar_3: Site) -> None:
    assert apply(admission.server_steps()) == []


def test_rules_that_check_no_types_let_all_pass(oar_3: Site) -> None:
    directory = oar_3({"01_queue.py": "queue = 'a'\n"})
    apply(admission.frontend_steps())
    assert admit_in_python(all_rules(directory), "lxc", "heard") == ""
    assert "cannot be of type lxc" in admit_in_python(all_rules(directory), "lxc", "cosystem")


@pytest.mark.parametrize(
    ("version", "conf"),
    [("2.5.9-1", 'ADMISSION_RULES_IN_FILES="yes"'), ("2.6.1-1", ""), ("3.0.2-1", "")],
)
def test_rules_in_the_database_are_the_servers(
    install: Installer, monkeypatch: pytest.MonkeyPatch, version: str, conf: str
) -> None:
    install(version)
    monkeypatch.setattr(oarconf, "read", lambda: oarconf.OarConf(conf))
    assert apply(admission.frontend_steps()) == []
    for step in admission.server_steps():
        with pytest.raises(NotYetError, match="database"):
            step.pending()
