"""Every program that is started by name is in a package that is installed where it runs.

On a machine that was used before, nobody misses a package that nobody named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.sandbox.cluster import HOST_PACKAGES
from oar_lxc.setup import deb, packages
from tests.programs import of_file, of_perl, of_python, of_shell
from tests.vm import disk

REPOSITORY = Path(__file__).parents[2]

# Package → programs of it that something here starts.
PACKAGES = {
    "apt": "apt-cache apt-config apt-get",
    "bash": "bash",
    "bsdutils": "script",
    "coreutils": "cat chmod chown cp df du echo env false head id kill ln ls mkdir mv "
    "nproc printf pwd readlink rm sleep stat sync test timeout touch true",
    "dash": "sh",
    "dpkg": "dpkg dpkg-deb dpkg-query",
    "e2fsprogs": "chattr mkfs.ext4",
    "findutils": "find",
    "fuse3": "fusermount3",
    "git": "git",
    "grep": "grep",
    "hwloc": "hwloc-calc",
    "iproute2": "bridge ip tc",
    "iputils-ping": "ping",
    "libc-bin": "getent",
    "libcap2-bin": "getcap setcap",
    "lxc": "lxc-copy lxc-destroy lxc-info lxc-start lxc-stop",
    "lxcfs": "lxcfs",
    "make": "make",
    "mmdebstrap": "mmdebstrap",
    "mount": "losetup mount umount",
    "nfs-kernel-server": "exportfs",
    "nftables": "nft",
    "oar-lxc": "oar-lxc oar-lxc-node",
    "oar-node": "hwloc-calc",  # of the package hwloc, which that of OAR 2.6 depends on
    "oar-server": "oar-database oarnodesetting oarproperty oarremoveresource",
    "oar-user": "oardel oarhold oarnodes oarresume oarstat oarsub",
    "openssh-client": "ssh ssh-keygen ssh-keyscan",
    "passwd": "groupadd useradd userdel usermod",
    "perl": "perl",
    "postgresql": "psql",
    "procps": "pgrep pkill ps",
    "python3": "python3",
    "sed": "sed",
    "skopeo": "skopeo",
    "squashfs-tools": "mksquashfs",
    "squashfs-tools-ng": "sqfs2tar",
    "strace": "strace",
    "systemd": "busctl journalctl systemctl systemd-run",
    "taktuk": "taktuk",
    "tar": "tar",
    "umoci": "umoci",
    "util-linux": "findmnt flock ipcrm nsenter prlimit runuser setpriv su unshare",
    "zstd": "zstd",
}
PACKAGE_OF = {program: name for name, text in PACKAGES.items() for program in text.split()}

# What every Debian has (Priority: required), and systemd, without which a machine is none of ours.
DEBIAN = {
    *("apt", "bash", "bsdutils", "coreutils", "dash", "dpkg", "findutils", "grep"),
    *("libc-bin", "mount", "passwd", "sed", "systemd", "tar", "util-linux"),
}
# Measured beside ours where somebody has it; and what a test wants not to be there.
NOBODYS = {"runc", "no-such-program"}


def makefile(name: str) -> set[str]:
    """Return the packages that a variable of the Makefile names."""
    text = (REPOSITORY / "Makefile").read_text().replace("\\\n", " ")
    (value,) = re.findall(rf"^{name} := (.*)$", text, re.MULTILINE)
    names: set[str] = set()
    for word in value.split():
        inner = re.fullmatch(r"\$\((\w+)\)", word)
        names |= makefile(inner[1]) if inner else {word}
    return names


def names(packages: tuple[str, ...]) -> set[str]:
    """Return the names in a list of dependencies with versions."""
    return {package.split()[0] for package in packages}


OURS = {"oar-lxc", *names(deb.DEPENDS)}
# OAR 2.6 brings hwloc, and is the first for which set-up asks it.
CLUSTER = {*OURS, *packages.SERVER, *packages.FRONTEND, *packages.NODE, "hwloc"}
# Place → which packages are installed where its programs run.
PLACES = {
    "hooks": {*OURS, *packages.NODE},
    "oar_lxc/root": {*OURS, *packages.NODE, *packages.SERVER},
    "oar_lxc/setup": CLUSTER,
    "oar_lxc/sandbox": CLUSTER | makefile("SANDBOX_PACKAGES"),
    "oar_lxc/image": {*OURS, *packages.NODE, *deb.SUGGESTS},
    "oar_lxc": {*OURS, *packages.NODE, *packages.FRONTEND},
    "jobscripts": {*OURS, *packages.NODE},
    "tests/fresh": makefile("FRESH_PACKAGES"),
    "tests/vm": makefile("VM_PACKAGES"),
    "tests/vm/inside": {*OURS, *packages.NODE, *disk.TESTS} | makefile("APT_PACKAGES"),
    "tests/bench": CLUSTER | makefile("APT_PACKAGES"),
    "tests/e2e": CLUSTER | makefile("APT_PACKAGES"),
    "tests/matrix": CLUSTER | makefile("APT_PACKAGES"),
    "tests": makefile("APT_PACKAGES"),
}


def sources() -> Iterator[tuple[str, Path]]:
    """Yield the source files and the place that each is of, the narrowest."""
    for place in PLACES:
        for path in sorted((REPOSITORY / place).rglob("*")):
            relative = path.relative_to(REPOSITORY)
            inner = [p for p in PLACES if relative.is_relative_to(p)]
            if max(inner, key=len) != place or not path.is_file() or path == Path(__file__):
                continue
            if path.suffix in (".py", ".pl") or place == "hooks":
                yield place, path


@pytest.mark.parametrize("place", PLACES)
def test_what_is_started_is_in_a_package_that_is_there(place: str) -> None:
    missing = []
    for path in (path for where, path in sources() if where == place):
        for program in sorted(of_file(path) - NOBODYS):
            name = path.relative_to(REPOSITORY)
            package = PACKAGE_OF.get(program, "a package that PACKAGES does not name")
            if package not in PLACES[place] | DEBIAN:
                missing.append(f"{name} starts {program} of {package}")
    assert missing == []


def test_the_sandbox_installs_what_the_makefile_does_for_it() -> None:
    assert set(HOST_PACKAGES) - DEBIAN <= makefile("SANDBOX_PACKAGES")
    assert set(HOST_PACKAGES) - DEBIAN <= makefile("FRESH_PACKAGES")


def test_a_package_is_named_for_programs_that_are_started() -> None:
    started = {program for _, path in sources() for program in of_file(path)}
    assert set(PACKAGE_OF) - started == set()


def test_programs_are_found_however_they_are_written() -> None:
    source = """
argv = ["one", "-x"]
more = [*argv, "y"]
run(more)
subprocess.Popen(["two"] + rest, stdin=None)
run(in_own_namespaces(("/usr/sbin/three", name)))
shutil.which("four")
CODE = '''
import subprocess
subprocess.run(["five"])
'''
cluster.on(node, "six", "-v")
run([program])
"""
    assert set(of_python(source)) == {"one", "two", "three", "four", "five", "six"}
    shell = "# no\nif /usr/bin/one -q; then two x; fi\nthree='a' four | exec five \"$x\" # six\n"
    assert set(of_shell(shell)) == {"one", "two", "four", "five"}
    assert set(of_perl('exec "/usr/sbin/one"; # /bin/two')) == {"one", "two"}
