"""The job, as OAR's environment and files describe it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.errors import JobEnvironmentError
from oar_lxc.model.job import Job, read_nodefile, read_resources
from tests.unit.strategies import hostile, nodes

ASCII = st.characters(codec="ascii")
# As oarexec of OAR 2.5.9 writes it: a blank before each property, no comma after the last.
RESOURCES = (
    " cpu = '1' , network_address = 'node1' , comment = 'it's 5, maybe' ,host = 'node1' \n"
    " cpu = '2' , network_address = 'node2' , comment = '' ,host = 'node2' \n"
)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a job of 3 cores on 2 nodes, as OAR 2.5.9 sets it."""
    (tmp_path / "nodes").write_text("node2\nnode1\nnode2\n")
    (tmp_path / "resources").write_text(RESOURCES)
    return {
        "OAR_JOB_ID": "42",
        "OAR_JOBID": "42",
        "OAR_USER": "alice",
        "USER": "alice",
        "OAR_NODEFILE": str(tmp_path / "nodes"),
        "OAR_RESOURCE_PROPERTIES_FILE": str(tmp_path / "resources"),
        "OAR_JOB_NAME": "my job",
        "OAR_PROJECT_NAME": "default",
        "OAR_JOB_WALLTIME_SECONDS": "3600",
        "OAR_ARRAY_ID": "40",
        "OAR_ARRAY_INDEX": "3",
    }


def test_a_job_has_all_that_oar_tells_of_it(environ: dict[str, str]) -> None:
    job = Job.from_environ(environ)
    assert (job.id, job.user, job.name, job.project) == (42, "alice", "my job", "default")
    assert (job.walltime, job.array_id, job.array_index) == (3600, 40, 3)
    assert [r["network_address"] for r in job.resources] == ["node1", "node2"]


def test_a_node_is_repeated_for_each_core(environ: dict[str, str]) -> None:
    job = Job.from_environ(environ)
    assert job.cores == {"node2": 2, "node1": 1}
    assert job.nodes == ("node2", "node1")


def test_the_process_environment_is_the_default(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert Job.from_environ() == Job.from_environ(environ)


def test_an_older_name_of_a_variable_does(environ: dict[str, str]) -> None:
    environ["OAR_NODE_FILE"] = environ.pop("OAR_NODEFILE")
    del environ["OAR_JOB_ID"], environ["OAR_USER"]
    job = Job.from_environ(environ)
    assert (job.id, job.user, job.nodes) == (42, "alice", ("node2", "node1"))


def test_what_oar_does_not_tell_is_empty(environ: dict[str, str]) -> None:
    only = {name: environ[name] for name in ("OAR_JOB_ID", "OAR_NODEFILE")}
    job = Job.from_environ(only)
    assert (job.user, job.name, job.project) == ("", "", "")
    assert (job.walltime, job.array_id, job.resources) == (0, 0, ())


def test_outside_of_a_job_it_says_how_to_submit_one() -> None:
    with pytest.raises(JobEnvironmentError, match=r"not an OAR job .*`oarsub -S") as caught:
        Job.from_environ({})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OAR_JOB_ID", "x", "OAR_JOB_ID: job id 'x' is not a number from 1"),
        ("OAR_JOB_ID", "../../etc", "OAR_JOB_ID: job id '../../etc' is not a number"),
        ("OAR_JOB_ID", "99999999999", "is not a number from 1 to 2147483647"),
        ("OAR_NODEFILE", "", "OAR_NODEFILE is not set in job 42"),
        ("OAR_NODEFILE", "/no/such", "OAR_NODEFILE /no/such cannot be read: No such file or dir"),
        ("OAR_NODEFILE", "/", "OAR_NODEFILE / cannot be read: Is a directory"),
        ("OAR_RESOURCE_PROPERTIES_FILE", "/no/such", "/no/such cannot be read: No such file"),
        ("OAR_JOB_WALLTIME_SECONDS", "1:00", "OAR_JOB_WALLTIME_SECONDS is '1:00', which is not a"),
        ("OAR_ARRAY_ID", "²", "OAR_ARRAY_ID is '²', which is not a number"),
    ],
)
def test_a_damaged_environment_is_one_sentence_that_names_the_variable(
    environ: dict[str, str], name: str, value: str, message: str
) -> None:
    with pytest.raises(JobEnvironmentError, match=message) as caught:
        Job.from_environ({**environ, name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no node"),
        (b"\n  \n\n", "names no node"),
        (b"node1\n/etc/passwd\n", "line 2: '/etc/passwd' is not a host name"),
        (b"-oProxyCommand=id\n", "line 1: '-oProxyCommand=id' is not a host name"),
        (b"node1\n\nnode1;id\n", "line 3: 'node1;id' is not a host name"),
        (b"\xff\xfe\n", "is not a host name"),
        (b"a..b\n", "line 1: 'a..b' is not a host name"),
        (b"x" * 255 + b"\n", "is not a host name"),
    ],
)
def test_a_damaged_nodefile_is_one_sentence_that_names_file_and_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "nodes"
    path.write_bytes(content)
    with pytest.raises(JobEnvironmentError, match=message) as caught:
        read_nodefile(path)
    assert str(caught.value).startswith(f"OAR_NODEFILE {path}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_a_nodefile_may_have_blank_lines_and_carriage_returns(tmp_path: Path) -> None:
    (tmp_path / "nodes").write_bytes(b"\nnode1 \r\nnode1.example.org\n\nnode1")
    assert read_nodefile(tmp_path / "nodes") == {"node1": 2, "node1.example.org": 1}


def test_a_link_to_a_nodefile_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("node1\n")
    (tmp_path / "nodes").symlink_to("real")
    assert read_nodefile(tmp_path / "nodes") == {"node1": 1}


@given(st.lists(nodes, min_size=1, max_size=8))
def test_a_nodefile_is_read_as_it_was_written(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "nodes").write_text("".join(f"{name}\n" for name in names))
    cores = read_nodefile(tmp_path / "nodes")
    assert cores == Counter(names)
    assert list(cores) == list(dict.fromkeys(names))


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True, alphabet=ASCII),
            st.text("ab ,='/.\"\\é"),
        )
    )
)
def test_a_resource_is_read_as_oarexec_writes_it(
    tmp_path: Path, properties: list[tuple[str, str]]
) -> None:
    # What no reader of this format can tell apart: a value with a quote before a comma or the end.
    clean = {key: value.replace("'", "") for key, value in properties}
    line = "".join(f" {key} = '{value}' ," for key, value in clean.items())[:-1]
    (tmp_path / "resources").write_text(line + "\n")
    assert read_resources(tmp_path / "resources") == ((clean,) if clean else ())


def test_a_resource_may_hold_quotes_and_commas(tmp_path: Path) -> None:
    (tmp_path / "resources").write_text(RESOURCES)
    first, second = read_resources(tmp_path / "resources")
    assert first["comment"] == "it's 5, maybe"
    assert second["comment"] == ""


def test_blank_lines_between_resources_are_none(tmp_path: Path) -> None:
    (tmp_path / "resources").write_text("\n cpu = '1' \n\n cpu = '2' \n")
    assert read_resources(tmp_path / "resources") == ({"cpu": "1"}, {"cpu": "2"})


@pytest.mark.parametrize(
    "line",
    [
        "node1",
        "cpu = 1",
        "cpu = '1",
        "= '1'",
        "cpu = '1' x",
        "a='1'",
        "cpu = '1' , x",
        "a = '1',;",
    ],
)
def test_a_damaged_resource_file_is_one_sentence_that_names_file_and_line(
    tmp_path: Path, line: str
) -> None:
    path = tmp_path / "resources"
    path.write_text(f" cpu = '1' \n{line}\n")
    with pytest.raises(JobEnvironmentError, match=r"line 2: .* is not a list of key = 'value'"):
        read_resources(path)


@given(st.one_of(st.binary(), hostile.map(str.encode)))
@pytest.mark.parametrize("read", [read_nodefile, read_resources])
def test_any_content_is_read_or_refused(
    tmp_path: Path, read: Callable[[Path], object], content: bytes
) -> None:
    (tmp_path / "file").write_bytes(content)
    said = ""
    try:
        read(tmp_path / "file")
    except JobEnvironmentError as error:
        said = str(error)
    assert not said or str(tmp_path / "file") in said
    assert "\n" not in said
