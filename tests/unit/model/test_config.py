"""The administrator's configuration."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.errors import ConfigError
from oar_lxc.model.addresses import POOL, PREFIX
from oar_lxc.model.config import (
    MAX_DEADLINE,
    PREPARE_BY,
    Config,
    lenient_config,
    parse_config,
    read_config,
)
from oar_lxc.setup.config_file import with_prepare
from tests.unit.strategies import hostile


def read(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "oar-lxc.toml"
    path.write_text(text)
    return read_config(path)


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert read_config(tmp_path / "missing") == Config("stanza", 45.0, POOL)


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Config()


def test_what_is_set_holds(tmp_path: Path) -> None:
    text = '[hooks]\nprepare = "prologue"\ndeadline = 20\n[network]\npool = "172.16.0.0/12"\n'
    text += '[mounts]\ntrees = ["/home", "/scratch/lab 1", "/home"]\n'
    trees = ("/home", "/scratch/lab 1")
    assert read(tmp_path, text) == Config("prologue", 20.0, IPv4Network("172.16.0.0/12"), trees)
    assert read(tmp_path, "[mounts]\ntrees = []\n").trees == ()
    assert read(tmp_path, "").trees == ("/home",)
    users = read(tmp_path, '[ids]\nusers = ["1000-1999", "7"]\n').users
    assert users == ((1000, 1999), (7, 7))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[hook]\n", r"unknown key hook; did you mean hooks\?"),
        ("[x]\n", "unknown key x; known: hooks, network, mounts"),
        ('[network]\npol = "x"\n', r"unknown key network.pol; did you mean network.pool"),
        ('network = "10.0.0.0/8"\n', r"network is a table, written \[network\]"),
        ('[network]\npool = "x"\n', "network.pool is 'x'; it is an IPv4 network"),
        ('[network]\nnameservers = ["ns1"]\n', r"network.nameservers is \['ns1'\]; it is a list"),
        ("[network]\nnameservers = [53]\n", r"network.nameservers is \[53\]; it is a list of"),
        ("[network]\nnameservers = 1\n", "network.nameservers is 1; it is a list of addresses"),
        ("[network]\npool = 10\n", "network.pool is 10; it is an IPv4 network"),
        ('[network]\npool = "10.0.0.0/24"\n', "prefix length of 21 at most"),
        ('[network]\npool = "10.0.0.1/8"\n', "network.pool is '10.0.0.1/8'"),
        ('[network]\npool = "fd00::/8"\n', "network.pool is 'fd00::/8'"),
        (
            '[hooks]\nprepares = "stanza"\n',
            r"unknown key hooks.prepares; did you mean hooks.prepare",
        ),
        ('[mounts]\ntrees = "/home"\n', "mounts.trees is '/home'; it is a list such as"),
        *(
            (f"[mounts]\ntrees = {value}\n", "mounts.trees has .*; it is a list of directories")
            for value in (
                *("[1]", '["home"]', '["/home/"]', '["/a/../b"]', '["/"]', '["//x"]'),
                *('["/proc/1"]', '["/var"]', '["/var/lib/oar-lxc/jobs"]', "[[]]", '[""]'),
            )
        ),
        ("hooks = 1\n", r"hooks is a table, written \[hooks\]"),
        ('[hooks]\nprepare = "both"\n', "hooks.prepare is 'both'; allowed are stanza, prologue"),
        ("[hooks]\nprepare = []\n", r"hooks.prepare is \[\]; allowed are"),
        ("[hooks]\ndeadline = 0\n", "hooks.deadline is 0; it is a number of seconds"),
        ("[hooks]\ndeadline = -5.0\n", "hooks.deadline is -5.0; it is a number"),
        ("[hooks]\ndeadline = true\n", "hooks.deadline is True; it is a number"),
        ('[hooks]\ndeadline = "45"\n', "hooks.deadline is '45'; it is a number"),
        ("[hooks]\ndeadline = nan\n", "hooks.deadline is nan; it is a number"),
        ("[hooks]\ndeadline = inf\n", "hooks.deadline is inf; it is a number"),
        ("[hooks\n", "Expected"),
        ('[images]\nstore = "images"\n', "images.store is 'images'; it is the absolute path"),
        ('[images]\nstore = "/x/../y"\n', "images.store is '/x/../y'"),
        ("[images]\nstore = 1\n", "images.store is 1"),
        ('[ids]\nusers = "1000-1999"\n', "ids.users is '1000-1999': no list; it is a list"),
        (
            "[ids]\nusers = [1000]\n",
            r"ids.users is \[1000\]: 1000 is not .*; it is a list of user",
        ),
        ("[ids]\nusers = []\n", r"ids.users is \[\]: it is empty"),
        ('[ids]\nusers = ["1-4096"]\n', "4096 user ids, of which there may be 4095"),
        ('[images]\nstroe = "/x"\n', "unknown key images.stroe; did you mean images.store"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_file_and_key(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/oar-lxc.toml: ")
    assert "\n" not in str(caught.value)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def _second_name(path: Path) -> None:
    path.with_name("other").write_text("")
    os.link(path.with_name("other"), path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.mkdir, "Is a directory"),
        (_fifo, "it is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is no regular file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (_huge, "it has more than 1048576 bytes"),
        (_second_name, "it is not of whom it should be"),
        (lambda path: path.write_bytes(b"\xff\xfe\0"), "it is no text in UTF-8"),
        (lambda path: path.write_bytes(b"\0"), "Invalid"),
        (lambda path: path.write_text("x = " + "[" * 100_000), "nested too deeply"),
        (lambda path: path.write_text("x = " + "9" * 100_000), "Exceeds the limit"),
    ],
)
def test_what_is_no_configuration_is_refused_and_destroying_takes_the_defaults(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "oar-lxc.toml"
    make(path)
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert lenient_config(path) == (Config(), str(caught.value))


def test_a_file_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "oar-lxc.toml"
    path.write_text("")
    if os.geteuid() == 0:
        os.chown(path, 1000, 0)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: -1)
    with pytest.raises(ConfigError, match="it is not of whom it should be"):
        read_config(path)


def test_a_link_to_the_file_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"\xef\xbb\xbf[hooks]\r\ndeadline = 30\r\n")
    (tmp_path / "oar-lxc.toml").symlink_to("real")
    assert lenient_config(tmp_path / "oar-lxc.toml") == (Config(deadline=30.0), "")


keys = st.one_of(st.sampled_from(["hooks", "prepare", "deadline"]), st.text("ab", min_size=1))
values = st.one_of(st.integers(), st.floats(), st.booleans(), st.sampled_from(["stanza", "x"]))


@given(st.one_of(st.binary(), hostile.map(str.encode)))
def test_any_content_is_a_configuration_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "oar-lxc.toml"
    path.write_bytes(content)
    try:
        read_config(path)
    except ConfigError:
        return
    assert tomllib.loads(content.decode("utf-8-sig")).keys() <= {"hooks", "network", "images"}


@given(st.dictionaries(keys, values))
def test_only_known_keys_and_values_are_taken(tmp_path: Path, hooks: dict[str, object]) -> None:
    lines = [f"{key} = {_toml(value)}" for key, value in hooks.items()]
    try:
        config = read(tmp_path, "\n".join(["[hooks]", *lines]))
    except ConfigError:
        return
    assert hooks.keys() <= {"prepare", "deadline"}
    assert config.prepare in ("stanza", "prologue")
    assert 1 <= config.deadline < float("inf")


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


paths = st.lists(st.text("aé '\"\\.#", min_size=1).filter(lambda x: x.strip(".")), min_size=1).map(
    lambda parts: "/srv/" + "/".join(parts)
)
spans = st.lists(st.integers(1, 40), min_size=1, max_size=6).map(
    lambda widths: tuple((100 * i + 1, 100 * i + width) for i, width in enumerate(widths))
)
configs = st.builds(
    Config,
    prepare=st.sampled_from(PREPARE_BY),
    deadline=st.floats(1, MAX_DEADLINE),
    pool=st.builds(
        lambda address, length: IPv4Network((address, length), strict=False),
        st.integers(0, 2**32 - 1),
        st.integers(0, PREFIX),
    ),
    trees=st.lists(paths, unique=True).map(tuple),
    store=paths.map(Path),
    users=spans,
    nameservers=st.lists(st.ip_addresses().map(str)).map(tuple),
)


@given(configs)
def test_a_configuration_is_read_as_it_was_written(config: Config) -> None:
    users = [f"{first}-{last}" for first, last in config.users]
    content = "\n".join(
        [
            "[hooks]",
            f"prepare = {json.dumps(config.prepare)}",
            f"deadline = {config.deadline!r}",
            "[network]",
            f"pool = {json.dumps(str(config.pool))}",
            f"nameservers = {json.dumps(config.nameservers)}",
            "[mounts]",
            f"trees = {json.dumps(config.trees)}",
            "[images]",
            f"store = {json.dumps(str(config.store))}",
            "[ids]",
            f"users = {json.dumps(users)}",
        ]
    )
    assert parse_config(content.encode()) == config


@given(configs, st.sampled_from(PREPARE_BY))
def test_what_set_up_changes_is_one_value(config: Config, prepare: str) -> None:
    content = f"[mounts]\ntrees = {json.dumps(config.trees)}  # hooks\n[hooks]  # prepare = 1\n"
    content += f"deadline = {config.deadline!r}\n[images]\nstore = {json.dumps(str(config.store))}"
    told = parse_config(with_prepare(content, prepare).encode())
    assert told == replace(parse_config(content.encode()), prepare=prepare)
