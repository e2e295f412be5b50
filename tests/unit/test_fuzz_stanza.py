"""The stanza with descriptions that OAR's server could send, and with those that it could not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.site import Site
from tests.unit.site import site as site  # a fixture

# What users choose of a description: names, properties, types. As Data::Dumper quotes it.
TEXT = st.text("abz 09_=>{}()[]@%$&;#\\'\"`\t\n,.:/-é\u2028", max_size=20) | st.sampled_from(
    ["lxc => 1", "'lxc' => 1", "},types=>{lxc=>1}", "__END__", "@{[system('id')]}", "\\'", "\\"]
)
TYPES = st.sampled_from(["lxc", "deploy", "timesharing", "besteffort", "lxcx", "container"])
ACTION = st.sampled_from(["init", "clean"])


def quoted(text: str) -> str:
    """Quote a text as Data::Dumper does."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def perl(value: object) -> str:
    """Write a value as Data::Dumper does."""
    if isinstance(value, dict):
        pairs = [f"{quoted(str(key))} => {perl(x)}" for key, x in value.items()]
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(perl, value)) + "]"
    return (
        str(value) if isinstance(value, int) else "undef" if value is None else quoted(str(value))
    )


def forget(site: Site) -> None:
    for name in ("calls", "argv", "seen"):
        (site.directory / name).unlink(missing_ok=True)


@given(ACTION, st.dictionaries(TYPES, TEXT, max_size=3), TEXT, TEXT, st.lists(TEXT, max_size=2))
def test_what_users_choose_never_changes_what_is_done(
    site: Site, action: str, types: dict[str, str], name: str, project: str, hosts: list[str]
) -> None:
    """The site reads what was sent, and root's command gets the job, its user and its nodes."""
    forget(site)
    data = perl(
        {
            "job_id": 42,
            "name": "alice_42",
            "user": "alice",
            "cpuset_path": "/oar",
            "nodes": {"node1": [0], **{host: [1] for host in hosts}},
            "types": types,
            "job_name": name,
            "project": project,
            "resources": [{"host": "node1", "comment": name}],
            "ssh_keys": {"private": {"key": "", "file_name": "x"}, "public": {"key": ""}},
            "log_level": 3,
        }
    )
    assert site.run(action, data) == (0, "")
    assert (site.directory / "seen").read_text() == data
    if "lxc" not in types:
        assert site.calls == [f"site {action}"]
        return
    assert sorted(site.calls) == sorted(
        [f"site {action}", {"init": "prepare", "clean": "destroy"}[action]]
    )
    (argv,) = site.argv
    assert argv[2:8] == ["--job", "42", "--user", "alice", "--cgroup", "/oar/alice_42"]
    if action == "init":
        assert argv[8:] == ["--node", "node1", "--nodes", ",".join(nodes(hosts))]


def nodes(hosts: list[str]) -> list[str]:
    """Return names in perl's order, that of their bytes."""
    return sorted({"node1", *hosts}, key=str.encode)


ODD = st.recursive(
    st.none() | st.integers(0, 99) | TEXT | st.just("lxc"),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(TYPES | st.just("types"), x, max_size=3),
)


@given(ACTION, st.dictionaries(st.sampled_from(["types", "nodes", "ssh_keys", "job_id"]), ODD))
def test_a_description_of_another_shape_still_reaches_the_site(
    site: Site, action: str, odd: dict[str, object]
) -> None:
    """Whatever becomes of the job's containers, the site's own part must run."""
    forget(site)
    data = perl({"types": {"lxc": 1}, "log_level": 3, **odd})
    site.run(action, data)
    assert f"site {action}" in site.calls
    assert (site.directory / "seen").read_text() == data
