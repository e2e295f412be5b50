"""Which OAR is installed, and what follows from that."""

from __future__ import annotations

import pytest

from oar_lxc.setup import oar_version, packages
from oar_lxc.setup.oar_version import OarVersion
from oar_lxc.setup.steps import NotYetError, SetupError
from tests.unit.setup.conftest import Installer


@pytest.mark.parametrize(
    ("package", "version", "python"),
    [
        ("2.5.9-1+deb12u1", (2, 5), False),
        ("2.5.10-1", (2, 5), False),
        ("2.5.10~g5k32-1", (2, 5), False),
        ("2.6.1-1+deb13u1", (2, 6), False),
        ("3.0.2-1", (3, 0), True),
        ("1:3.1.0", (3, 1), True),
    ],
)
def test_the_version_is_that_of_the_package(
    install: Installer, package: str, version: tuple[int, int], python: bool
) -> None:
    install(package)
    found = oar_version.installed_version()
    assert found == version
    assert found.has_python_rules == python


def test_oar_may_not_be_there_yet(install: Installer) -> None:
    with pytest.raises(NotYetError, match="OAR is not installed"):
        oar_version.installed_version()
    install("3.0.2-1", ["oar-doc"])
    with pytest.raises(NotYetError):
        oar_version.installed_version()


@pytest.mark.parametrize("package", ["2.4.8-1", "4.0.0-1", "20260101", "1.6.1-2"])
def test_an_oar_that_set_up_does_not_know_is_named(install: Installer, package: str) -> None:
    install(package)
    with pytest.raises(SetupError, match=rf"version {package}: set-up knows OAR 2.5, 2.6 and 3"):
        oar_version.installed_version()


def test_the_packages_of_oar_2_are_not_installed_beside_oar_3(install: Installer) -> None:
    assert packages.needed(packages.FRONTEND) == list(packages.FRONTEND)
    install("2.6.1-1+deb13u1")
    assert packages.needed(packages.FRONTEND) == list(packages.FRONTEND)
    install("3.0.2-1")
    for role in (packages.SERVER, packages.FRONTEND, packages.NODE):
        names = packages.needed(role)
        assert len(set(names)) == len(names)
        assert set(role) - set(names) == {name for name in role if name.endswith("-pgsql")}


@pytest.mark.parametrize("package", ["", "2.5.9-1+deb12u1", "2.6.1-1+deb13u1"])
def test_the_cpuset_of_oar_2_may_be_off(install: Installer, package: str) -> None:
    if package:
        install(package)
    oar_version.require_optional_cpuset()


def test_that_of_oar_3_may_not(install: Installer) -> None:
    install("3.0.2-1")
    with pytest.raises(SetupError, match="OAR 3 does not run without CPUSET_PATH"):
        oar_version.require_optional_cpuset()


def test_versions_compare() -> None:
    assert oar_version.parse("2.5.10-1") < OarVersion(2, 6) < oar_version.parse("3.0.0-1")
