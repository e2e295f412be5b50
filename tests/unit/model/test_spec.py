"""What a user may ask for."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from oar_lxc.errors import SpecError, UsageError
from oar_lxc.model.links import Link
from oar_lxc.model.networks import Main, Membership, Network
from oar_lxc.model.spec import Group, Mount, Port, Spec, as_spec, documented


def test_by_default_one_container_a_node_is_asked_for() -> None:
    assert as_spec(None) == Spec((Group("debian-12", name="vm"),), wait="running")
    assert (Group().per_node, Group().per_core, Group().total) == (None, False, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": "../../etc"}, "image '../../etc' is not an image name"),
        ({"image": ".."}, "image '..' is not an image name"),
        ({"image": "a..b"}, "image 'a..b' is not an image name"),
        ({"image": ""}, "image '' is not an image name"),
        ({"image": "Debian"}, "image 'Debian' is not an image name"),
        ({"image": "x" * 65}, "at most 64"),
        ({"image": "debian\n"}, "is not an image name"),
        ({"image": 12}, "image is 12; it is a text"),
        ({"per_node": 0}, "per_node is 0; at least 1"),
        ({"per_node": -3}, "per_node is -3; at least 1"),
        ({"per_node": 1.5}, "per_node is 1.5; it is a whole number"),
        ({"per_node": True}, "per_node is True; it is a whole number"),
        ({"per_node": "2"}, "per_node is '2'; it is a whole number"),
        ({"total": 0}, "total is 0; at least 1 container"),
        ({"per_core": 1}, "per_core is 1; it is true or false"),
        ({"per_core": True, "per_node": 2}, "per_node and per_core are both given"),
        ({"total": 3, "per_node": 2}, "per_node and total are both given"),
        ({"per_core": True, "cores": 2}, "a container per core has one core"),
        ({"cores": 0}, "cores is 0; at least 1 core"),
        ({"memory": "5X"}, "memory is '5X'; it is a size such as '512M'"),
        ({"memory": "1K"}, "memory is '1K'; at least 4M is allowed"),
        ({"memory": -1}, "memory is -1; at least 4M"),
        ({"memory": 1.5}, "memory is 1.5; it is a size"),
        ({"processes": 3}, "processes is 3; at least 4 are allowed, for an init, an ssh server"),
        ({"processes": -1}, "processes is -1; at least 1"),
        ({"processes": 8.5}, "processes is 8.5; it is a whole number"),
        ({"environment": {"A=B": "x"}}, "'A=B' is no name of a variable"),
        ({"environment": {"A": "x\ny"}}, "which is not a text of one line"),
        ({"environment": {"A": "a#b"}}, "A is 'a#b', and '#' begins a comment"),
        ({"environment": ["A"]}, "it is a table of names and texts"),
        ({"home": "yes"}, "home is 'yes'; it is true or false"),
        ({"mounts": "/data"}, "mounts is '/data'; it is a list"),
        ({"mounts": ["data:/data"]}, "mounts has 'data:/data', which is not SOURCE"),
        ({"mounts": ["/a:/b:/c"]}, "mounts has '/a:/b:/c', which is not SOURCE"),
        ({"mounts": ["/a/../b"]}, "absolute paths without"),
        ({"mounts": ["/a:/"]}, "mounts has '/a:/', which is not SOURCE"),
        (
            {"mounts": ["/a:/usr/"]},
            "mounts has '/a:/usr/', which would hide the container's own /usr",
        ),
        ({"mounts": ["/proc"]}, "would hide the container's own /proc"),
        ({"mounts": ["/a:/dev/x:rw"]}, "would hide the container's own /dev/x"),
        ({"mounts": ["/a:/x\n/y"]}, "is not SOURCE"),
        ({"mounts": ["/a:/t", "/b:/t/"]}, "mounts has the target /t more than once"),
        ({"provision": " "}, "provision is ' '; it is the text of a script"),
        ({"provision_timeout": 0}, "provision_timeout is 0; it is a number of seconds"),
        ({"provision_timeout": float("nan")}, "provision_timeout is nan; it is a number"),
        ({"ssh_keys": ["secret"]}, "'secret' is no public key"),
        ({"ssh_keys": ["ssh-rsa AAAA x\nssh-rsa BBBB"]}, "is no public key"),
        ({"ports": ["80:80"]}, "ports has '80:80', which is not NODE:CONTAINER"),
        ({"ports": ["8080:0"]}, "ports has '8080:0', which is not"),
        ({"ports": ["8080:80", "8080:81"]}, "ports has the node's port 8080 more than once"),
        ({"networks": "left"}, "networks is 'left'; it is a list"),
        ({"networks": ["left:"]}, "networks has 'left:', which is not NETWORK"),
        ({"networks": [":10.0.0.1"]}, "networks has ':10.0.0.1', which is not NETWORK"),
        ({"networks": ["left:10.0.0"]}, "networks has 'left:10.0.0', which is not NETWORK"),
        ({"networks": ["left:10.0.0.1/24"]}, "which is not NETWORK"),
        ({"networks": [1]}, "networks has 1, which is not NETWORK"),
        ({"networks": ["left", "left:10.0.0.1"]}, "networks has left more than once"),
        (
            {"networks": [f"n{i}" for i in range(8)]},
            "networks has 8 networks and main is true; a container has at most 8 interfaces",
        ),
        ({"main": False}, "main is false and networks is empty: name a network"),
        (
            {"main": False, "networks": ["a"], "ports": ["8080:80"]},
            "main is false, and ports lead into the main network",
        ),
        ({"main": 0}, "main is 0; it is true or false"),
        ({"forward": "yes"}, "forward is 'yes'; it is true or false"),
        ({"name": ""}, "name is ''; it starts with a small letter"),
        ({"name": "a b"}, "name is 'a b'"),
        ({"name": "../x"}, "name is '../x'"),
        ({"name": "-x"}, "name is '-x'"),
        ({"name": "x-"}, "name is 'x-'"),
        ({"name": "1x"}, "name is '1x'"),
        ({"name": "x" * 33}, "at most 32"),
        ({"name": "vm\n"}, "name is 'vm"),
    ],
)
def test_what_cannot_be_is_one_sentence_that_names_the_value(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        Group(**values)
    assert isinstance(caught.value, UsageError)
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a", "vm", "web-server", "x" * 32])
def test_a_name_may_have_letters_digits_and_dashes(name: str) -> None:
    assert Group(name=name).name == name


@pytest.mark.parametrize(
    ("size", "number"),
    [("512M", 512 << 20), ("4G", 4 << 30), ("4 GiB", 4 << 30), (5 << 20, 5 << 20)],
)
def test_sizes_are_texts_or_numbers(size: str | int, number: int) -> None:
    assert Group(memory=size).memory == number


def test_mounts_and_ports_are_texts_or_objects() -> None:
    group = Group(
        mounts=("/data", Mount("/a", "/b"), "/home/alice/x:/x:rw"),  # type: ignore[arg-type]
        ports=("8080:80", Port(2022, 22)),  # type: ignore[arg-type]
    )
    assert group.mounts == (
        Mount("/data", "/data"),
        Mount("/a", "/b"),
        Mount("/home/alice/x", "/x", writable=True),
    )
    assert group.ports == (Port(8080, 80), Port(2022, 22))


@pytest.mark.parametrize("wait", ["running", "boot", "ssh", "pg_isready -q", "/usr/bin/true"])
def test_a_word_or_a_command_can_be_waited_for(wait: str) -> None:
    assert Spec(wait=wait).wait == wait


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"wait": "sssh"}, "wait is 'sssh'; did you mean ssh?"),
        ({"wait": "bot"}, "wait is 'bot'; did you mean boot?"),
        ({"wait": ""}, "wait is ''; allowed are running, boot, ssh, or a command"),
        ({"wait": None}, "wait is None; it is a text"),
        ({"timeout": -1}, "timeout is -1; it is a number of seconds"),
        ({"groups": ()}, "at least one is needed"),
        ({"groups": (Group(), Group())}, "two groups have the name 'vm'"),
    ],
)
def test_a_spec_that_cannot_be_is_one_sentence(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message.replace("?", r"\?")) as caught:
        Spec(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "key", "hint"),
    [
        (Group, "count", "did you mean total?"),
        (Group, "n", "did you mean total?"),
        (Group, "env", "did you mean environment?"),
        (Group, "per_nod", "did you mean per_node?"),
        (Group, "zzz", "known: image, per_node"),
        (Spec, "group", "did you mean groups?"),
        (Spec, "count", "known: groups, wait, timeout"),
        (Spec, "network", "did you mean networks?"),
        (Network, "subnett", "did you mean subnet?"),
        (Link, "latency", "did you mean delay?"),
        (Link, "bandwidth", "did you mean rate?"),
    ],
)
def test_a_key_that_there_is_not_is_answered_by_the_one_that_was_meant(
    kind: type[Group | Spec | Network | Link], key: str, hint: str
) -> None:
    with pytest.raises(SpecError) as caught:
        kind(**{key: 2})  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{kind.__name__}: unknown key '{key}'; {hint}")


JUNK = [0, -1, 1.5, float("nan"), "", "x\0", b"x", [None], [[]], {}, {1: 2}, {"a"}, object(), int]


@pytest.mark.parametrize("key", [f.name for f in fields(Group)])
@pytest.mark.parametrize("value", JUNK, ids=lambda value: repr(value)[:12])
def test_a_value_of_another_type_is_taken_or_refused_by_one_sentence(
    key: str, value: object
) -> None:
    said, group = "", Group()
    try:
        group = Group(**{key: value})  # type: ignore[arg-type]
    except SpecError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 300
    spec = as_spec(group)
    assert Spec.from_data(json.loads(json.dumps(spec.to_data()))) == spec


@pytest.mark.parametrize("value", [*JUNK, "web", b"web", [1], ["web"], [Group(), "web"]])
def test_what_is_no_spec_is_refused_by_one_sentence(value: Any) -> None:
    with pytest.raises(SpecError, match=r"it is a Group or a list of Groups|at least one"):
        as_spec(value)


def test_groups_are_one_or_several() -> None:
    web, db = Group(name="web"), Group(name="db")
    assert as_spec(web) == as_spec([web]) == Spec((web,))
    assert as_spec([web, db]) == as_spec(group for group in (web, db)) == Spec((web, db))


def test_a_rich_spec_survives_json() -> None:
    group = Group(
        total=2,
        memory="1G",
        mounts=(Mount("/data", "/data", writable=True),),
        ports=(Port(8080, 80),),
        environment={"A": "b"},
        provision="true",
        ssh_keys=("ssh-ed25519 AAAA x",),
        networks=(Membership("left", "10.0.0.9"),),
        forward=True,
    )
    spec = Spec(
        (group, Group(name="b", networks=(Membership("left"),), main=False)),
        "boot",
        5,
        networks=(Network("left", "10.0.0.0/24", ipv6=True),),
        links=(Link("left", "b", "vm1", rate="10Mbit", delay="40ms", both=False),),
        main=Main(internet=False),
    )
    assert Spec.from_data(json.loads(json.dumps(spec.to_data()))) == spec


def test_every_key_is_documented() -> None:
    assert [key for key, _, _ in documented(Spec)] == ["wait", "timeout"]
    keys = [key for key, _, _ in documented(Group)]
    assert {"image", "per_node", "cores", "memory", "mounts", "provision", "ports"} <= set(keys)
    assert all(text.endswith(".") for _, text, _ in documented(Group))
