"""What agents and their callers write to each other."""

from __future__ import annotations

import ast
import json
import string
from collections.abc import Mapping
from dataclasses import MISSING, FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.errors import ContainerError, UsageError
from oar_lxc.model import events, plan, requests, spec, wire
from oar_lxc.model.job import Job
from oar_lxc.model.message import Message
from oar_lxc.model.names import Peer

REPOSITORY = Path(__file__).parents[3]
# Surrogates too: bytes that are no UTF-8 travel as those.
TEXT = st.text(st.characters())
EVERY = [*wire.REQUESTS.values(), *wire.EVENTS.values()]
GROUPS = [spec.Group(), spec.Group("b", ports=(spec.Port(2222, 22),), environment={"A": "é"})]
SPECS = st.builds(
    lambda groups, wait: spec.Spec(groups, wait),
    st.lists(st.sampled_from(GROUPS), min_size=1, unique_by=lambda group: group.name),
    st.sampled_from(["ssh", "running", "true"]),
)
PLANS = SPECS.map(lambda asked: plan.make_plan(asked, Job(42, "alice", {"node1": 3, "node2": 1})))
OWN: dict[object, st.SearchStrategy[Any]] = {
    spec.Spec: SPECS,
    plan.Plan: PLANS,
    spec.Port: st.just(spec.Port(2222, 22)),
    Peer: st.builds(
        Peer, TEXT, TEXT, st.dictionaries(TEXT, st.lists(TEXT, max_size=2).map(tuple), max_size=2)
    ),
    str: TEXT,
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    type(None): st.none(),
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Return all values of a type as fields have it."""
    if hint in OWN:
        return OWN[hint]
    arguments = get_args(hint)
    if get_origin(hint) is Mapping:
        return st.dictionaries(*map(values, arguments), max_size=3)
    if get_origin(hint) is tuple:
        if arguments[1:] == (...,):
            return st.lists(values(arguments[0]), max_size=3).map(tuple)
        return st.tuples(*map(values, arguments))
    return st.one_of(*map(values, arguments))


def _messages(cls: type[Message]) -> st.SearchStrategy[Message]:
    names = {"Plan": plan.Plan, "Spec": spec.Spec, "Port": spec.Port}
    hints = get_type_hints(cls, localns=names)
    return st.builds(cls, **{one.name: values(hints[one.name]) for one in fields(cls)})


MESSAGES = {cls: _messages(cls) for cls in EVERY}


def known(message: Message) -> Mapping[str, type[Message]]:
    return wire.EVENTS if isinstance(message, events.Event) else wire.REQUESTS


def there(message: Message, line: str | bytes | None = None) -> Message | None:
    """Return what the other side reads."""
    kind = "" if isinstance(message, events.Event) else message.kind
    return wire.decode(line or wire.encode(message), known(message), kind)


def test_kinds_are_different_and_none_is_forgotten() -> None:
    for module, table in ((requests, wire.REQUESTS), (events, wire.EVENTS)):
        classes = [
            cls
            for cls in vars(module).values()
            if isinstance(cls, type) and issubclass(cls, Message) and "kind" in vars(cls)
        ]
        assert len({cls.kind for cls in classes}) == len(classes)
        assert {cls.kind: cls for cls in classes} == table


@pytest.mark.parametrize("cls", EVERY)
@given(st.data())
def test_a_message_arrives_as_it_was(cls: type[Message], data: st.DataObject) -> None:
    message = data.draw(MESSAGES[cls])
    line = wire.encode(message)
    assert b"\n" not in line
    arrived = there(message)
    assert arrived == message
    assert type(arrived) is cls
    assert repr(arrived) == repr(message)


@pytest.mark.parametrize("cls", EVERY)
@given(st.data())
def test_fields_of_a_newer_version_are_left_alone(cls: type[Message], data: st.DataObject) -> None:
    message = data.draw(MESSAGES[cls])
    told = json.loads(wire.encode(message)) | {"colour": "red"}
    assert there(message, json.dumps(told)) == message


@pytest.mark.parametrize("cls", EVERY)
@given(st.data())
def test_what_an_older_version_does_not_write_has_its_default(
    cls: type[Message], data: st.DataObject
) -> None:
    message = data.draw(MESSAGES[cls])
    told = json.loads(wire.encode(message))
    for one in fields(cls):
        without = json.dumps({key: value for key, value in told.items() if key != one.name})
        if one.default is not MISSING:
            assert there(message, without) == replace(message, **{one.name: one.default})
        elif one.default_factory is not MISSING:
            empty = one.default_factory()
            assert there(message, without) == replace(message, **{one.name: empty})
        else:
            with pytest.raises(wire.NoMessageError):
                there(message, without)


@pytest.mark.parametrize("data", [None, [], {}, {"job_id": 42, "containers": [{"colour": "red"}]}])
def test_a_plan_of_another_version_is_refused_when_it_is_read(data: object) -> None:
    line = json.dumps({"plan": data, "wait": "ssh", "timeout": 9})
    request = wire.decode(line, wire.REQUESTS, "ready")
    assert isinstance(request, requests.AwaitReady)
    assert request.wait == "ssh"
    with pytest.raises(UsageError, match="of another version of oar-lxc"):
        _ = request.plan


def test_events_of_a_newer_version_are_none() -> None:
    assert wire.decode('{"event": "sung", "container": "vm1"}', wire.EVENTS) is None
    assert wire.decode("{}", wire.REQUESTS, "sing") is None


@pytest.mark.parametrize(
    "line",
    ["", "Welcome!", "7", "[]", "{", "{}", '{"event": []}', '{"event": "gone"}', "[" * 9999],
)
def test_what_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(wire.NoMessageError):
        wire.decode(line, wire.EVENTS)


def test_a_message_is_a_frozen_dataclass() -> None:
    one = events.Exit("vm1", status=3)
    assert is_dataclass(one)
    assert repr(one) == "Exit(container='vm1', status=3)"
    assert one == events.Exit("vm1", 3) != events.Exit("vm1", 4)
    assert {one, events.Exit("vm1", 3)} == {one}
    assert replace(one, status=4) == events.Exit("vm1", 4)
    assert events.Gone("vm1") != events.Stopped("vm1")
    with pytest.raises(FrozenInstanceError, match="status"):
        one.status = 4  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError, match="status"):
        del one.status
    match one:
        case events.Exit(container=name, status=status):
            assert (name, status) == ("vm1", 3)
        case _:
            pytest.fail("it is an Exit")


@pytest.mark.parametrize(
    ("values", "keys", "why"),
    [
        (("vm1",), {}, "status is missing"),
        (("vm1", 3, 4), {}, "not so many fields"),
        (("vm1", 3), {"colour": "red"}, "no fields but container, status"),
    ],
)
def test_a_message_has_its_fields_and_no_others(
    values: tuple[object, ...], keys: dict[str, object], why: str
) -> None:
    with pytest.raises(TypeError, match=why):
        events.Exit(*values, **keys)  # type: ignore[arg-type]


def test_scripts_that_take_events_for_dicts_can_read_them() -> None:
    event = events.Started("vm1", 0.5, 7, "0-3", "/oar")
    assert (event["event"], event["container"], event["seconds"]) == ("started", "vm1", 0.5)
    with pytest.raises(KeyError, match="colour"):
        event["colour"]


def test_an_error_is_told_and_raised_again_with_its_node() -> None:
    error = events.Failed.of(ContainerError("vm1", "", "no init", ["a", "b"])).error("node1")
    assert str(error) == "container vm1 on node node1: no init\n    a\n    b"


def test_nobody_else_tells_messages_apart_by_strings() -> None:
    wrong = []
    for room in ("agent", "client", "cli", "remote"):
        for path in sorted((REPOSITORY / "oar_lxc" / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                by_key = isinstance(node, ast.Subscript) and ast.unparse(node.slice) == "'event'"
                by_kind = isinstance(node, ast.Compare) and ".kind" in ast.unparse(node)
                if by_key or by_kind:
                    wrong.append(f"{path}: {ast.unparse(node)}")
    assert wrong == []


def test_letters_of_kinds_are_those_of_a_command_line() -> None:
    letters = set(string.ascii_lowercase + "-")
    assert all(set(cls.kind) <= letters for cls in EVERY)
