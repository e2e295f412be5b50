"""Whatever stands in a file, it is read as its writer meant it or refused with one sentence."""

from __future__ import annotations

import json
import math
import os
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.client.lookup import parse_target
from oar_lxc.errors import (
    ConfigError,
    JobEnvironmentError,
    NodeNotPreparedError,
    SpecError,
    UsageError,
)
from oar_lxc.linux.mounts import read_mounts
from oar_lxc.model.config import Config, read_config
from oar_lxc.model.idspans import LOWEST, MOST_USERS
from oar_lxc.model.job import Job, read_nodefile, read_resources
from oar_lxc.model.layout import MAX_JOB_ID, JobLayout, check_node
from oar_lxc.model.published import PublishedJob, read_published
from oar_lxc.model.spec import Group, Mount
from oar_lxc.root.id_ranges import COUNT, is_first_id
from oar_lxc.root.record import Record, read_record
from oar_lxc.setup import former_lines
from oar_lxc.setup.former_lines import is_of_bridge, is_range
from tests.unit.strategies import hostile, job_ids, nodes, users

# What a JSON file may hold in a key's place, and what its keys may be.
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, LOWEST, LOWEST + 1, LOWEST + COUNT, 42, 2**31, 10**400]),
    st.floats(),
    hostile,
    st.sampled_from(["", "alice", "42", "/oar/alice_42", "/oar/bob_7", "/oar/../alice_42"]),
)
values = st.recursive(
    plain, lambda x: st.lists(x, max_size=3) | st.dictionaries(hostile, x, max_size=3)
)
NASTY_LINES = st.sampled_from(
    [
        "node1\0",
        "node1 node2",
        "-oProxyCommand=id",
        "node1\x1cnode2",
        "nöde",
        "node1;id",
        "a" * 254,
    ]
)


@given(st.lists(nodes, max_size=4), NASTY_LINES, st.integers(0, 4))
def test_a_nodefile_with_one_bad_line_is_refused_and_the_line_is_named(
    tmp_path: Path, names: list[str], bad: str, place: int
) -> None:
    path = tmp_path / "nodes"
    lines = [*names[:place], bad, *names[place:]]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(JobEnvironmentError, match=r"^OAR_NODEFILE .*, line \d+: .* host name$"):
        read_nodefile(path)


@given(st.binary())
def test_names_in_a_nodefile_are_host_names_whatever_its_bytes(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "nodes"
    path.write_bytes(content)
    try:
        found = read_nodefile(path)
    except JobEnvironmentError:
        return
    assert found
    assert all(check_node(name) == name and cores > 0 for name, cores in found.items())
    assert sum(found.values()) <= content.count(b"\n") + content.count(b"\r") + 99


KEYS = ("id", "host", "cpuset", "Type_1", "_x")
PROPERTIES = st.dictionaries(
    st.sampled_from(KEYS), st.text('abz09 ,=;/\\"$`.-', max_size=12), min_size=1
)


@given(st.lists(PROPERTIES, min_size=1, max_size=4))
def test_resources_are_read_as_oar_writes_them(
    tmp_path: Path, resources: list[dict[str, str]]
) -> None:
    path = tmp_path / "resources"
    lines = [" , ".join(f"{k} = '{v}'" for k, v in found.items()) for found in resources]
    path.write_text("".join(f"{line}\n" for line in lines))
    assert list(read_resources(path)) == resources


VARIABLES = ["OAR_JOB_ID", "OAR_NODEFILE", "OAR_USER", "OAR_JOB_WALLTIME_SECONDS", "OAR_ARRAY_ID"]


@given(st.dictionaries(st.sampled_from([*VARIABLES, "OAR_RESOURCE_PROPERTIES_FILE"]), hostile))
def test_any_environment_is_a_job_or_refused(environ: dict[str, str]) -> None:
    try:
        job = Job.from_environ(environ)
    except JobEnvironmentError:
        return
    assert 1 <= job.id <= MAX_JOB_ID


RECORD_KEYS = list(Record.__dataclass_fields__)


@given(st.dictionaries(st.sampled_from([*RECORD_KEYS, "more"]), values))
def test_a_record_of_any_values_is_one_of_the_job_or_none(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    """Where it is taken, its values have the types that the root side relies on."""
    good = {"job_id": 42, "user": "alice", "created": 1.5, "first_id": LOWEST}
    good |= {"oar_cgroup": "/oar/alice_42", "ended": 0.0}
    good |= {name: "here" for name in RECORD_KEYS if name.startswith("boot")}
    (tmp_path / "records").mkdir(exist_ok=True)
    path = JobLayout(42, tmp_path).record
    path.write_text(json.dumps(good))
    assert read_record(path) is not None
    path.write_text(json.dumps({**good, **changed}))
    record = read_record(path)
    if record is None:
        return
    assert type(record.job_id) is int
    assert record.job_id == 42
    assert type(record.first_id) is int
    assert record.first_id == 0 or is_first_id(record.first_id)
    assert record.oar_cgroup in ("", f"/oar/{record.user}_42")
    assert not math.isnan(record.created)
    assert not math.isnan(record.ended)
    assert JobLayout(42).record.name == f"{record.job_id}.json"


@pytest.mark.parametrize("value", ["42", 42.0, True, [42], None])
def test_a_job_id_in_a_record_that_is_no_number_is_none(tmp_path: Path, value: object) -> None:
    (tmp_path / "records").mkdir()
    path = JobLayout(42, tmp_path).record
    Record(42, "alice", "here", 1.0, 0, "").write(JobLayout(42, tmp_path))
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "job_id": value}))
    assert read_record(path) is None


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("key", ["created", "ended"])
def test_a_time_in_a_record_that_is_no_time_is_none(tmp_path: Path, key: str, value: str) -> None:
    """Compared with anything it is false: a job would be dead, or live, for ever."""
    (tmp_path / "records").mkdir()
    path = JobLayout(42, tmp_path).record
    Record(42, "alice", "here", 1.0, 0, "").write(JobLayout(42, tmp_path))
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, key: float(value)}))
    assert read_record(path) is None


PUBLISHED = PublishedJob(
    42, "alice", "node1", ("node1",), "ready", first_id=LOWEST, namespaces=True
)


@given(st.dictionaries(st.sampled_from(list(PublishedJob.__dataclass_fields__)), values))
def test_any_values_that_are_published_are_read_or_refused(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps({**json.loads(PUBLISHED.to_json()), **changed}))
    try:
        found = read_published(path, 42, "node1")
    except NodeNotPreparedError:
        return
    assert found.state == "ready"
    assert isinstance(found.nodes, tuple)
    assert isinstance(found.cgroups, tuple)


# A mount table in which users chose names: field by field what the kernel would write.
names = st.binary(max_size=12).map(lambda x: x.replace(b"/", b"").replace(b"\0", b""))


def escaped(name: bytes) -> bytes:
    """Write a name as the kernel does."""
    return b"".join(b"\\%03o" % x if x in b" \t\n\\" else bytes([x]) for x in name)


@given(
    st.lists(
        st.tuples(names, names, st.lists(names.map(lambda x: x.replace(b",", b"")))), max_size=5
    )
)
def test_a_mount_table_is_read_line_by_line(
    tmp_path: Path, mounts: list[tuple[bytes, bytes, list[bytes]]]
) -> None:
    path = tmp_path / "mountinfo"
    lines = []
    for number, (point, root, optional) in enumerate(mounts):
        head = b"%d 1 0:%d /%s /%s rw" % (number, number, escaped(root), escaped(point))
        tags = b"".join(b" shared:%d" % len(x) for x in optional)
        lines.append(head + tags + b" - tmpfs %s rw\n" % (escaped(point) or b"none"))
    path.write_bytes(b"".join(lines))
    found = list(read_mounts(path))
    points = [Path("/" + os.fsdecode(point)) for point, _, _ in mounts]
    assert [x.point for x in found] == points
    assert {x.kind for x in found} <= {"tmpfs"}


@given(st.binary())
def test_any_mount_table_can_be_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mountinfo"
    path.write_bytes(content)
    assert len(list(read_mounts(path))) <= content.count(b"\n") + 1


foreign = st.binary(max_size=30).map(lambda x: x.replace(b"\n", b""))


@given(
    job_ids, users, st.integers(0, MOST_USERS - 1), st.lists(foreign, max_size=5), st.booleans()
)
def test_lines_of_others_stay_to_the_byte_when_an_upgrade_removes_those_of_jobs(
    tmp_path_factory: pytest.TempPathFactory,
    job_id: int,
    user: str,
    number: int,
    lines: list[bytes],
    ended: bool,
) -> None:
    directory = tmp_path_factory.mktemp("etc")
    content = b"\n".join(lines) + (b"\n" if lines and ended else b"")
    ids = f"{user}:{LOWEST + number * COUNT}:{COUNT}\n".encode()
    net = f"{user} veth olb{job_id} 7\n".encode()
    files = {}
    for name, line, is_ours in (("subuid", ids, is_range), ("usernet", net, is_of_bridge)):
        (directory / name).write_bytes(line + content)
        files[directory / name] = is_ours
    step = former_lines.step(files, directory / "lock")
    assert step.pending() is not None
    assert step.apply is not None
    step.apply()
    assert [path.read_bytes() for path in files] == [content] * 2
    assert step.pending() is None


@given(st.sampled_from([field.name for field in fields(Group)]), values)
def test_a_spec_of_any_value_is_allowed_or_refused(key: str, value: object) -> None:
    try:
        group = Group(**{key: value})  # type: ignore[arg-type]
    except SpecError:
        return
    assert isinstance(group.name, str)
    assert group.per_node is None or (type(group.per_node) is int and group.per_node >= 1)
    assert isinstance(group.per_core, bool)
    assert group.memory is None or type(group.memory) is int
    assert all(isinstance(mount, Mount) for mount in group.mounts)


@given(st.dictionaries(st.sampled_from(["hooks", "network", "prepare", "pool", ""]), values))
def test_a_configuration_of_any_values_is_one_or_refused(
    tmp_path: Path, tables: dict[str, object]
) -> None:
    path = tmp_path / "oar-lxc.toml"
    lines = [f"{json.dumps(key)} = {_toml(value)}" for key, value in tables.items()]
    path.write_text("\n".join(lines), errors="replace")
    try:
        config = read_config(path)
    except ConfigError:
        return
    assert isinstance(config, Config)
    assert tomllib.loads(path.read_text()).keys() <= {"hooks", "network"}


def _toml(value: object) -> str:
    """Write a value as TOML, or as what is none."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


@given(
    job_ids,
    st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True, alphabet=st.characters(codec="ascii")),
)
def test_a_target_is_read_as_it_was_written(job_id: int, name: str) -> None:
    assert parse_target(f"{job_id}/{name}") == (job_id, name)
    assert parse_target(name) == (None, name)


@given(hostile, st.sampled_from(["{}/vm1", "42/{}", "{}", "42/vm1{}", "{}42/vm1", "42{}vm1"]))
def test_what_is_taken_for_a_target_names_a_job_and_a_directory(text: str, form: str) -> None:
    try:
        job, name = parse_target(form.format(text))
    except UsageError:
        return
    assert job is None or 1 <= job <= MAX_JOB_ID
    assert name.isascii()
    assert not set(name) & set("/.\0\n ")
    assert not name.startswith("-")
