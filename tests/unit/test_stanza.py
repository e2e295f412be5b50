"""The stanza in front of a site's job resource manager, run by perl as OAR's server does."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.unit.fakes.programs import add_program
from tests.unit.site import STANZA, Site
from tests.unit.site import site as site  # a fixture

KEY = "/tmp/alice_42.jobkey"

# As Data::Dumper writes it for OAR: all on one line.
JOB = (
    "{'job_id' => 42,'name' => 'alice_42','user' => 'alice','job_user' => 'alice',"
    "'cpuset_path' => '/oar','nodes' => {'node2' => [0],'node1' => [0,1]},'types' => {TYPES},"
    "'ssh_keys' => {'public' => {'key' => ''},'private' => {'key' => '','file_name' => 'KEY'}},"
    "'log_level' => 3,"
    "'resources' => [{'host' => 'node1','comment' => COMMENT}],'job_name' => COMMENT}"
)


def job(types: str = "'lxc' => 1", comment: str = "''") -> str:
    return JOB.replace("TYPES", types).replace("COMMENT", comment).replace("KEY", KEY)


def test_a_node_is_prepared_after_the_sites_init(site: Site) -> None:
    assert site.run("init", job()) == (0, "")
    assert site.calls == ["site init", "prepare"]
    (argv,) = site.argv
    assert argv[:6] == [site.node, "prepare", "--job", "42", "--user", "alice"]
    assert argv[6:] == ["--cgroup", "/oar/alice_42", "--node", "node1", "--nodes", "node1,node2"]


# As OAR 3 writes it: Python's lists, numbers and None in Perl, and the word undef as a text.
JOB_3 = (
    "{'job_id' => 42,'name' => 'alice_42','nodes' => {'node1' => ['0', '1'],'node2' => ['0']},"
    "'cpuset_path' => '/oar','ssh_keys' => {'public' => {'file_name' => '.ssh/authorized_keys',"
    "'key' => 'environment=\"OAR_CPUSET=/oar/alice_42\" \n'},"
    "'private' => {'file_name' => '/var/lib/oar/alice_42.jobkey','key' => ''}},"
    "'oar_tmp_directory' => '/nowhere','user' => 'alice','job_user' => 'alice','array_id' => 42,"
    "'job_name' => undef,'types' => {TYPES},'walltime_seconds' => 'undef','walltime' => 'undef',"
    "'project' => 'it\\'s lxc => 1','log_level' => 3,'resources' => [{'id' => 1,'gpu' => undef}]}"
)


@pytest.mark.parametrize("types", ["'lxc' => 1", "'besteffort' => 1,'lxc' => 1"])
def test_oar_3_s_description_of_a_job_is_read_too(site: Site, types: str) -> None:
    data = JOB_3.replace("TYPES", types)
    assert site.run("init", data) == (0, "")
    assert site.run("clean", data) == (0, "")
    assert site.calls == ["site init", "prepare", "destroy", "site clean"]
    common = ["--job", "42", "--user", "alice", "--cgroup", "/oar/alice_42"]
    prepared, destroyed = site.argv
    assert prepared[2:] == [*common, "--node", "node1", "--nodes", "node1,node2"]
    assert destroyed[2:] == [*common, "--layer", "stanza"]


@pytest.mark.parametrize("types", ["", "'besteffort' => 1", "'inner' => 'lxc'"])
def test_oar_3_s_other_jobs_are_let_alone(site: Site, types: str) -> None:
    for action in ("init", "clean"):
        assert site.run(action, JOB_3.replace("TYPES", types)) == (0, "")
    assert site.calls == ["site init", "site clean"]


@pytest.mark.parametrize("types", ["", "'lxc' => 1"])
@pytest.mark.parametrize("action", ["init", "clean"])
def test_a_full_tmp_stops_nothing(site: Site, action: str, types: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("to mount a full /tmp takes root")
    full = site.directory / "full"
    full.mkdir()
    # Perl's temporary files are where TMPDIR says; the rest of the test needs the real /tmp.
    fill = f"mount -t tmpfs -o size=4k full {full}; cat /dev/zero >{full}/fill 2>/dev/null"
    script = f'{fill}; export TMPDIR={full}; exec "$@"'
    site.before = ("unshare", "--mount", "sh", "-c", script, "sh")
    assert site.run(action, job(types)) == (0, "")
    assert f"site {action}" in site.calls


def test_the_servers_word_on_users_goes_to_the_node(site: Site) -> None:
    site.users = "1000-1999,7"
    assert site.run("init", job()) == (0, "")
    assert site.argv[0][-2:] == ["--users", "1000-1999,7"]


def test_a_job_is_destroyed_before_the_sites_clean(site: Site) -> None:
    assert site.run("clean", job()) == (0, "")
    assert site.calls == ["destroy", "site clean"]
    assert site.argv == [
        [
            *(site.node, "destroy", "--job", "42", "--user", "alice"),
            *("--cgroup", "/oar/alice_42", "--layer", "stanza"),
        ]
    ]


@pytest.mark.parametrize("cpuset", ["undef", "''"])
def test_without_a_cpuset_no_cgroup_is_named(site: Site, cpuset: str) -> None:
    data = job().replace("'/oar'", cpuset)
    assert site.run("clean", data) == (0, "")
    assert site.run("init", data) == (0, "")
    assert [argv[1] for argv in site.argv] == ["destroy", "prepare"]
    assert all("--cgroup" not in argv for argv in site.argv)


@pytest.mark.parametrize("action", ["init", "clean"])
@pytest.mark.parametrize(
    "types",
    ["", "'deploy' => 1", "'cosystem' => 1", "'lxcx' => 1", "'xlxc' => 1", "'container' => 'lxc'"],
)
def test_for_a_job_of_another_type_nothing_is_done(site: Site, types: str, action: str) -> None:
    assert site.run(action, job(types)) == (0, "")
    assert site.calls == [f"site {action}"]


@pytest.mark.parametrize("action", ["init", "clean"])
@pytest.mark.parametrize(
    "comment",
    [
        "'lxc => 1'",
        "'\\'lxc\\' => 1'",
        "'types => {lxc => 1}'",
        '"lxc =>\\n"',
        "'}, types => {lxc'",
    ],
)
def test_a_name_or_property_that_says_lxc_is_no_type(
    site: Site, comment: str, action: str
) -> None:
    assert site.run(action, job("", comment)) == (0, "")
    assert site.calls == [f"site {action}"]


def test_a_job_of_several_types_is_prepared(site: Site) -> None:
    types = "'lxc' => 1,'timesharing' => 'user,name'"
    assert site.run("init", job(types)) == (0, "")
    assert site.calls == ["site init", "prepare"]


@pytest.mark.parametrize("types", ["'lxc' => 1", ""])
@pytest.mark.parametrize("action", ["init", "clean"])
def test_the_site_reads_what_the_server_sent(site: Site, types: str, action: str) -> None:
    data = job(types, r'"a\nb \x{e9} \$x"')
    assert site.run(action, data)[0] == 0
    assert (site.directory / "seen").read_text() == data


def test_programs_that_the_site_runs_have_a_standard_input_that_is_read_out(site: Site) -> None:
    assert site.run("init", job())[0] == 0
    assert (site.directory / "rest").read_text() == ""


@pytest.mark.parametrize(
    "data", ["", "{", "[1]", "1", "die 'x'", "{'types' => {'lxc' => 1}", "lxc =>"]
)
@pytest.mark.parametrize("action", ["init", "clean"])
def test_a_damaged_description_is_the_sites_to_complain_of(
    site: Site, data: str, action: str
) -> None:
    assert site.run(action, data)[0] != 0
    assert site.calls == [f"site {action}"]
    assert (site.directory / "seen").read_text() == data


def test_after_a_failed_init_of_the_site_no_node_is_prepared(site: Site) -> None:
    site.status = 5
    assert site.run("init", job())[0] == 5
    assert site.calls == ["site init"]


@pytest.mark.parametrize("status", [1, 2])
def test_a_failed_prepare_is_the_status_of_init(site: Site, status: int) -> None:
    site.prepare = status
    assert site.run("init", job())[0] == status
    assert site.calls == ["site init", "prepare"]


def test_where_cgroups_are_left_the_sites_clean_would_wait_for_ever_and_is_not_run(
    site: Site,
) -> None:
    site.destroy = 3
    assert site.run("clean", job())[0] == 3
    assert site.calls == ["destroy"]


@pytest.mark.parametrize("status", [1, 2])
def test_where_something_else_is_left_the_site_cleans_and_the_status_tells(
    site: Site, status: int
) -> None:
    site.destroy = status
    assert site.run("clean", job())[0] == status
    assert site.calls == ["destroy", "site clean"]


def test_the_status_of_the_sites_clean_comes_first(site: Site) -> None:
    site.destroy, site.status = 1, 6
    assert site.run("clean", job())[0] == 6
    assert site.calls == ["destroy", "site clean"]


def test_a_destroy_that_is_killed_has_failed(site: Site) -> None:
    calls = site.directory / "calls"
    add_program(site.directory / "bin", "oardodo", f'echo "$2" >> "{calls}"; kill -9 $$')
    assert site.run("clean", job(), oardodo=False)[0] == 1
    assert site.calls == ["destroy", "destroy", "site clean"]


def test_a_destroy_that_is_killed_goes_on_where_it_was(site: Site) -> None:
    calls = site.directory / "calls"
    once = f'echo "$2" >> "{calls}"; mkdir "{calls}.first" || exit 0; kill -9 $$'
    add_program(site.directory / "bin", "oardodo", once)
    assert site.run("clean", job(), oardodo=False)[0] == 0
    assert site.calls == ["destroy", "destroy", "site clean"]


@pytest.mark.parametrize("action", ["init", "clean"])
def test_without_oardodo_the_node_is_not_as_it_should_be(site: Site, action: str) -> None:
    status, _ = site.run(action, job(), oardodo=False)
    assert status == 127
    assert site.calls == [f"site {action}"]


@pytest.mark.parametrize("action", ["init", "clean"])
def test_a_node_without_oar_lxc_is_no_broken_node(site: Site, action: str) -> None:
    site.installed = False
    assert site.run(action, job()) == (0, "")
    assert site.calls == [f"site {action}"]


def test_the_users_key_of_the_job_is_named_where_oar_has_one(site: Site) -> None:
    data = job().replace("'private' => {'key' => ''", "'private' => {'key' => '-----BEGIN'")
    assert "BEGIN" in data
    assert site.run("init", data) == (0, "")
    assert site.argv[0][-2:] == ["--job-key", KEY]


@pytest.mark.parametrize(("cpuset", "made"), [("undef", True), ("''", True), ("'/oar'", False)])
def test_without_a_cpuset_oar_is_let_keep_the_keys_of_other_jobs(
    site: Site, cpuset: str, made: bool
) -> None:
    data = job().replace("'private' => {'key' => ''", "'private' => {'key' => '-----BEGIN'")
    assert site.run("init", data.replace("'/oar'", cpuset))[0] == 0
    assert (["mkdir", "-p", "/dev/cpuset/undef"] in site.argv) == made


def test_oars_own_files_of_a_job_are_gone_whatever_became_of_its_clean(site: Site) -> None:
    tmp = site.directory / "oar"
    tmp.mkdir()
    ours = ["42", "42_resources", "alice_42.env", "pid_of_oarexec_for_jobId_42"]
    for name in (*ours, "421", "alice_421.env"):
        (tmp / name).touch()
    site.status = 18
    data = job().replace("'log_level'", f"'oar_tmp_directory' => '{tmp}','log_level'")
    assert site.run("init", data)[0] == 18
    assert len(list(tmp.iterdir())) == 6
    assert site.run("clean", data)[0] == 18
    assert sorted(path.name for path in tmp.iterdir()) == ["421", "alice_421.env"]


@pytest.mark.parametrize("user", ["a;id", "$(id)", "a b", "'"])
def test_arguments_are_no_shell_line(site: Site, user: str) -> None:
    quoted = user.replace("'", "\\'")
    data = job().replace("'user' => 'alice'", f"'user' => '{quoted}'")
    assert site.run("clean", data)[0] == 0
    assert site.argv[0][5] == user


def test_the_stanza_declares_nothing_that_the_site_would_trip_over(site: Site) -> None:
    # The site's own `use strict`, variables and subroutines of the same names.
    more = "our @command = ('x'); my $text = 'y'; my $job; sub run { return 'z' }\n"
    combined = f"{STANZA.read_text()}use strict; use warnings FATAL => 'all';\n{more}exit 0;\n"
    done = subprocess.run(
        ["perl", "-", "init"],
        input=f"{combined}__END__\n{job('')}",
        env={"PATH": os.environ["PATH"], "TAKTUK_HOSTNAME": "node1"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
