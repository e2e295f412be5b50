"""Containers are told name servers that they reach, or that there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from oar_lxc.linux.resolver import resolver_text

STUB = "nameserver 127.0.0.53\noptions edns0\n"


def files(tmp_path: Path, *texts: str | None) -> list[Path]:
    """Return the paths of files with these texts; None for one that is not there."""
    paths = [tmp_path / str(number) for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        if text is not None:
            path.write_text(text)
    return paths


@pytest.mark.parametrize(
    "text", ["nameserver 192.0.2.1\nsearch a b\n", "nameserver 2001:db8::1\n"]
)
def test_servers_elsewhere_are_handed_on_as_they_are(tmp_path: Path, text: str) -> None:
    assert resolver_text(sources=files(tmp_path, None, text, "nameserver 192.0.2.9\n")) == text


@pytest.mark.parametrize("server", ["127.0.0.1", "127.0.0.53", "::1", "0.0.0.0", "fe80::1%eth0"])
def test_a_server_that_only_the_node_reaches_is_not_handed_on(tmp_path: Path, server: str) -> None:
    stub = f"nameserver {server}\nsearch lab\n"
    real = "nameserver 192.0.2.1\n"
    assert resolver_text(sources=files(tmp_path, stub, real)) == real
    mixed = resolver_text(sources=files(tmp_path, stub + real))
    assert mixed == real + "search lab\n"


def test_where_there_is_none_the_file_says_what_to_do(tmp_path: Path) -> None:
    text = resolver_text(sources=files(tmp_path, STUB, None))
    assert "nameserver 127" not in text
    assert "options edns0\n" in text
    assert text.startswith("# No name server of the node can be reached from here")
    assert resolver_text(sources=[]).startswith("# No name server")


def test_those_that_the_administrator_names_are_the_only_ones(tmp_path: Path) -> None:
    paths = files(tmp_path, "nameserver 192.0.2.1\nsearch lab\n")
    assert resolver_text(["192.0.2.7"], paths) == "nameserver 192.0.2.7\nsearch lab\n"


@pytest.mark.parametrize("text", ["nameserver\n", "nameserver x\n", "#nameserver 1.2.3.4\n", "\0"])
def test_what_is_no_server_is_none(tmp_path: Path, text: str) -> None:
    assert "\nnameserver" not in "\n" + resolver_text(sources=files(tmp_path, text))
