"""OAR's ssh refuses a host key that is not the cluster's, whatever its configuration was."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from oar_lxc.setup.keys import CLIENT_CONFIG, strict


def says(text: str, tmp_path: Path) -> str:
    """Return what ssh itself takes from a configuration for checking host keys."""
    path = tmp_path / "config"
    path.write_text(text)
    ssh = shutil.which("ssh")
    assert ssh
    done = subprocess.run(
        [ssh, "-F", str(path), "-G", "-p", "6667", "node1"],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [x for x in done.stdout.splitlines() if x.startswith("stricthostkeychecking")]
    return line.split()[1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Host *\nForwardX11 no\nStrictHostKeyChecking no\nPasswordAuthentication no\n",
        "Host *\n    stricthostkeychecking=off\n",
        'Host *\n\tStrictHostKeyChecking = "no"\n',
        "Host node*\nStrictHostKeyChecking accept-new\nHost *\nStrictHostKeyChecking no\n",
    ],
)
def test_no_other_host_key_is_accepted(text: str, tmp_path: Path) -> None:
    assert says(strict(text), tmp_path) in ("yes", "true")


def test_the_rest_of_a_sites_configuration_stays() -> None:
    site = "# StrictHostKeyChecking no\nHost *\nStrictHostKeyChecking no\nCompression yes\n"
    assert strict(site) == site.replace(
        "\nStrictHostKeyChecking no", "\nStrictHostKeyChecking yes"
    )
    assert strict(strict(site)) == strict(site)
    assert strict(CLIENT_CONFIG) == CLIENT_CONFIG
