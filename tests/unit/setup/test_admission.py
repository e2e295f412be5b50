"""Admission rules: Perl that OAR evaluates when a job is submitted."""

from __future__ import annotations

import subprocess

import pytest

from oar_lxc.setup.admission import REFUSAL, allow_lxc
from oar_lxc.setup.steps import SetupError

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
