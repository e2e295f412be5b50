"""The fresh machine: what it is given of this one, and where the clone may be."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from oar_lxc.sandbox.state import STATE
from tests.fresh import machine
from tests.fresh.__main__ import place
from tests.fresh.host import pip_conf


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_pip_reaches_the_same_indexes_over_the_network_and_no_disk(tmp_path: Path) -> None:
    write(
        tmp_path / "etc/xdg/pip/pip.conf",
        "[global]\nconstraint = /etc/xdg/pip/constraints.txt\nindex-url = https://old/simple\n",
    )
    write(
        tmp_path / "home/.config/pip/pip.conf",
        "[global]\nindex-url = https://new/simple\nfind-links = /opt/wheels\n"
        "extra-index-url = file:///opt/pypi/simple\n  https://more/simple\n",
    )
    environ = {"PIP_DEFAULT_TIMEOUT": "180", "PIP_CERT": "/some/where.pem", "HOME": "/root"}
    assert pip_conf(tmp_path / "home", environ, tmp_path).splitlines() == [
        "[global]",
        "cert = /etc/ssl/certs/ca-certificates.crt",
        "index-url = https://new/simple",
        "extra-index-url = https://more/simple",
        "default-timeout = 180",
    ]


def test_without_a_configuration_pip_has_its_own_defaults(tmp_path: Path) -> None:
    assert pip_conf(tmp_path, {}, tmp_path) == "[global]\n"


@pytest.mark.parametrize("text", ["", "oar_lxc", "/", "/srv", "../x"])
def test_a_clone_is_put_below_a_directory(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="absolute path below a directory"):
        place(text)


def test_continuous_integration_runs_on_a_fresh_machine_alone() -> None:
    text = (machine.CHECKOUT / ".ci/run").read_text()
    (there,) = re.findall(r'^FRESH="(.*?)"$', text, re.MULTILINE | re.DOTALL)
    assert "make test" in there.splitlines()
    here = text.replace(there, "")
    assert re.findall(r"^(?:exec )?make (\S+)", here, re.MULTILINE) == ["fresh"]


def test_a_fresh_machine_and_the_sandbox_have_no_name_in_common() -> None:
    assert machine.STATE != STATE
    assert not machine.STATE.is_relative_to(STATE)
