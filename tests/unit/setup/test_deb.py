"""The Debian package: what it holds, and that equal sources give equal bytes."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import oar_lxc
from oar_lxc.errors import UsageError
from oar_lxc.linux.node_log import LOG
from oar_lxc.setup import deb, files, node, units
from oar_lxc.setup.bundle import Bundle
from oar_lxc.setup.completion import script_for
from oar_lxc.setup.steps import Step

REPOSITORY = Path(__file__).parents[3]
BUNDLE = Bundle("server", {}, "/oar", "stanza", "private", "public", "private", "public")
# Its keys and lock, which it needs without the package, too.
WANTS = "etc/systemd/system/{}.target.wants"
UNITS = {
    "oar-lxc-reap.timer": WANTS.format("timers"),
    "oar-lxc-sweep.timer": WANTS.format("timers"),
    "oar-lxc-network.service": WANTS.format("multi-user"),
}
OARS = ("/etc/oar/oar_ssh_host_rsa_key", "/var/lib/oar/")
CHANGELOG = """\
# Changelog

## [Unreleased]

- Not yet.

## [1.2.3] - 2001-02-03

### Added

- One thing,
  on two lines.
- Another.

## [1.0.0] - 2000-01-01
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a small checkout that has all that a package is made from."""
    root = tmp_path / "checkout"
    for name, text in (
        ("oar_lxc/__init__.py", '__version__ = "1.2.3"\n'),
        ("oar_lxc/root/main.py", "def main() -> None: ...\n"),
        ("oar_lxc/node/__pycache__/main.cpython-311.pyc", "stale"),
        ("oar_lxc/py.typed", ""),
        ("hooks/prologue", "#!/bin/sh\n"),
        ("hooks/stanza.pl", "1;\n"),
        ("hooks/.prologue.swp", "an editor's"),
        ("jobscripts/job.py", "#!/usr/bin/env python3\n"),
        ("docs/man/oar-lxc.1", ".TH OAR-LXC 1\n"),
        ("CHANGELOG.md", CHANGELOG),
        ("pyproject.toml", (REPOSITORY / "pyproject.toml").read_text()),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def listing(package: Path) -> dict[str, tuple[str, str]]:
    """Return mode and owner of each file in a package, by its path."""
    done = subprocess.run(
        ["dpkg-deb", "--contents", package], capture_output=True, text=True, check=True
    )
    lines = (line.split(maxsplit=5) for line in done.stdout.splitlines())
    return {line[5].removeprefix("."): (line[0], line[1]) for line in lines}


def extract(package: Path, directory: Path) -> Path:
    subprocess.run(["dpkg-deb", "--raw-extract", package, directory], check=True)
    return directory


def test_the_package_is_named_by_its_version(checkout: Path, tmp_path: Path) -> None:
    package = deb.build(tmp_path / "new" / "directory", checkout)
    assert package == tmp_path / "new/directory/oar-lxc_1.2.3_all.deb"
    assert [path.name for path in package.parent.iterdir()] == [package.name]


def test_equal_sources_give_equal_bytes(checkout: Path, tmp_path: Path) -> None:
    first = deb.build(tmp_path / "first", checkout).read_bytes()
    for path in checkout.rglob("*"):
        os.utime(path, (1, 1))
        if path.is_file():
            path.chmod(0o600)
    before = os.umask(0o077)
    try:
        second = deb.build(tmp_path / "second", checkout).read_bytes()
    finally:
        os.umask(before)
    assert first == second
    with (checkout / "oar_lxc/root/main.py").open("a") as file:
        file.write("# changed\n")
    assert deb.build(tmp_path / "third", checkout).read_bytes() != first


def test_a_package_holds_what_a_machine_needs(checkout: Path, tmp_path: Path) -> None:
    files = listing(deb.build(tmp_path, checkout))
    assert {owner for _, owner in files.values()} == {"root/root"}
    python = "/usr/lib/python3/dist-packages"
    for path, mode in (
        ("/usr/bin/oar-lxc", "-rwxr-xr-x"),
        ("/usr/sbin/oar-lxc-node", "-rwxr-xr-x"),
        ("/usr/share/oar-lxc/hooks/prologue", "-rwxr-xr-x"),
        ("/usr/share/oar-lxc/hooks/stanza.pl", "-rw-r--r--"),
        ("/usr/share/oar-lxc/jobscripts/job.py", "-rwxr-xr-x"),
        ("/usr/share/man/man1/oar-lxc.1.gz", "-rw-r--r--"),
        ("/usr/share/doc/oar-lxc/copyright", "-rw-r--r--"),
        ("/usr/share/doc/oar-lxc/changelog.gz", "-rw-r--r--"),
        ("/usr/share/bash-completion/completions/oar-lxc", "-rw-r--r--"),
        ("/usr/share/zsh/vendor-completions/_oar-lxc", "-rw-r--r--"),
        ("/usr/share/fish/vendor_completions.d/oar-lxc.fish", "-rw-r--r--"),
        ("/etc/csh/cshrc.d/oar-lxc", "-rw-r--r--"),
        (f"{python}/oar_lxc/root/main.py", "-rw-r--r--"),
        (f"{python}/oar_lxc/py.typed", "-rw-r--r--"),
        (f"{python}/oar_lxc-1.2.3.dist-info/METADATA", "-rw-r--r--"),
    ):
        assert files[path][0] == mode, path
    assert not [path for path in files if path.endswith((".pyc", ".swp"))]


def test_python_finds_the_version_of_what_is_installed(checkout: Path, tmp_path: Path) -> None:
    root = extract(deb.build(tmp_path, checkout), tmp_path / "root")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from importlib.metadata import entry_points, version\n"
        "print(version('oar-lxc'), entry_points(group='console_scripts', name='oar-lxc'))"
    )
    argv = ["/usr/bin/python3", "-IS", "-c", code, str(root / "usr/lib/python3/dist-packages")]
    out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert out.startswith("1.2.3 ")
    assert "oar_lxc.cli.entry:main" in out


def test_the_sums_in_the_package_are_right(checkout: Path, tmp_path: Path) -> None:
    root = extract(deb.build(tmp_path, checkout), tmp_path / "root")
    argv = ["md5sum", "--check", "--strict", "--quiet", "DEBIAN/md5sums"]
    subprocess.run(argv, cwd=root, check=True)


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_a_maintainer_script_parses(script: str, checkout: Path, tmp_path: Path) -> None:
    root = extract(deb.build(tmp_path, checkout), tmp_path / "root")
    subprocess.run(["sh", "-n", root / "DEBIAN" / script], check=True)


def postrm(root: Path, action: str) -> subprocess.CompletedProcess[str]:
    """Run the package's last script on a directory in place of the machine."""
    script = deb.POSTRM.replace("/proc/self/mountinfo", f"{root}/mounts")
    for top in ("etc", "run", "var"):
        script = re.sub(f"(?<![a-z}}])/{top}/", f"{root}/{top}/", script)
    argv = ["sh", "-c", script, "postrm", action]
    environ = {**os.environ, "PATH": f"{root}/bin:{os.environ['PATH']}"}
    return subprocess.run(argv, env=environ, capture_output=True, text=True, check=True)


def written_by_set_up(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the files that set-up writes as its own, on a node and to sweep on a server."""
    written = set()

    def note(title: str, path: Path, *rest: object) -> Step:
        written.add(str(path))
        return Step(title, lambda: None)

    monkeypatch.setattr(files, "own_file", note)
    node.plan_of(BUNDLE, node.Options())
    units.server_steps()
    return written


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory that has what a node has of the package."""
    root = tmp_path / "machine"
    for name in (
        "etc/oar-lxc/oar-lxc.toml",
        "var/lib/oar-lxc/store/images/debian-12/rootfs/bin/sh",
        "var/lib/oar-lxc/records/.lock",
        *(f"var/log/oar-lxc.log{suffix}" for suffix in ("", ".1", ".2.gz")),
        *(f"run/oar-lxc{suffix}.lock" for suffix in ("", "-jobs")),
        *(path.removeprefix("/") for path in written_by_set_up(monkeypatch)),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for unit, wants in UNITS.items():
        (root / wants).mkdir(exist_ok=True)
        (root / wants / unit).symlink_to(f"../{unit}")
    for name in ("deb-systemd-invoke", "systemctl"):
        (root / "bin").mkdir(exist_ok=True)
        (root / "bin" / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (root / "bin" / name).chmod(0o755)
    (root / "run/systemd/system").mkdir(parents=True)
    (root / "run/oar-lxc-halted").mkdir()
    (root / "var/lib/oar-lxc/jobs").mkdir()
    (root / "mounts").write_text(f"29 1 8:1 / {root}/var/lib/oar-lxc rw - ext4 x rw\n")
    return root


def files_of(root: Path) -> set[str]:
    """Return the paths of a machine's files and links."""
    found = (path for top in ("etc", "run", "var") for path in (root / top).rglob("*"))
    return {f"/{path.relative_to(root)}" for path in found if path.is_symlink() or path.is_file()}


def test_a_purge_removes_all_but_what_is_others(machine: Path) -> None:
    others = machine / "etc/systemd/system/oar-node.service.d/limits.conf"
    others.touch()
    before = files_of(machine)
    for action in ("remove", "upgrade"):
        assert postrm(machine, action).stdout == ""
        assert files_of(machine) == before
    done = postrm(machine, "purge")
    left = files_of(machine)
    assert left == {
        path for path in before if path.startswith(OARS) or path.endswith("limits.conf")
    }
    assert not [path for path in left if "oar-lxc" in path]
    assert not (machine / "var/lib/oar-lxc").exists()
    assert not (machine / "run/oar-lxc-halted").exists()
    assert not (machine / "etc/systemd/system/lxcfs.service.d").exists()
    stops = [f"deb-systemd-invoke stop {unit}" for unit in UNITS]
    assert done.stdout.splitlines() == [*stops, "systemctl --system daemon-reload"]
    assert done.stderr == ""
    # Also where nothing was ever set up, and systemd does not run.
    (machine / "run/systemd/system").rmdir()
    assert postrm(machine, "purge").stdout == ""


@pytest.mark.parametrize("kept", ["a job", "a mount"])
def test_a_purge_keeps_jobs_and_what_is_mounted(machine: Path, kept: str) -> None:
    state = machine / "var/lib/oar-lxc"
    if kept == "a job":
        (state / "jobs/42").mkdir()
    else:
        with (machine / "mounts").open("a") as mounts:
            mounts.write(f"30 29 8:2 / {state}/store/images rw - ext4 x rw\n")
    done = postrm(machine, "purge")
    assert done.stderr.count("\n") == 1
    assert (state / "store/images/debian-12/rootfs/bin/sh").exists()
    assert not (machine / "etc/oar-lxc").exists()


def prerm(root: Path, action: str) -> subprocess.CompletedProcess[str]:
    """Run the package's first script on directories in place of a machine's."""
    script = deb.PRERM.replace("/var/lib/oar-lxc", f"{root}/state").replace("py3clean", "no-such")
    script = script.replace("/etc/systemd/system", f"{root}/units")
    argv = ["sh", "-c", script, "prerm", action]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kept", ["jobs/42", "records/42.json", ""])
@pytest.mark.parametrize("action", ["remove", "upgrade", "deconfigure"])
def test_nothing_is_removed_while_a_job_has_anything(
    tmp_path: Path, action: str, kept: str
) -> None:
    state = tmp_path / "state"
    for name in ("jobs", "records", "store", kept):
        (state / name).mkdir(parents=True, exist_ok=True)
    (state / "records/.lock").touch()
    done = prerm(tmp_path, action)
    refused = bool(kept) and action == "remove"
    assert done.returncode == refused
    assert done.stderr.count("\n") == refused
    assert ("has something of 42 (ids of jobs)" in done.stderr) == refused


def test_the_removal_from_a_node_tells_of_oars_hooks(tmp_path: Path) -> None:
    assert prerm(tmp_path, "remove").stderr == ""  # nothing was set up
    (tmp_path / "units").mkdir()
    (tmp_path / "units/oar-lxc-reap.timer").touch()
    done = prerm(tmp_path, "remove")
    assert done.returncode == 0
    assert done.stderr.startswith("oar-lxc: OAR suspects this node at its next job, unless")
    assert done.stderr.count("\n") == 1
    assert prerm(tmp_path, "upgrade").stderr == ""


@pytest.mark.parametrize("shell", deb.COMPLETIONS)
def test_the_completion_asks_the_installed_command(shell: str) -> None:
    assert f"_OAR_LXC_COMPLETE={shell}_complete" in script_for(shell)


def test_what_an_administrator_may_edit_stays_as_it_is(checkout: Path, tmp_path: Path) -> None:
    root = extract(deb.build(tmp_path, checkout), tmp_path / "root")
    listed = (root / "DEBIAN/conffiles").read_text().splitlines()
    assert listed == sorted(f"/{path.relative_to(root)}" for path in (root / "etc").rglob("*.d/*"))


def test_the_log_of_a_node_is_rotated(checkout: Path, tmp_path: Path) -> None:
    root = extract(deb.build(tmp_path, checkout), tmp_path / "root")
    (head, *_) = (root / "etc/logrotate.d/oar-lxc").read_text().splitlines()
    assert head == f"{LOG} {{"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("oar-lxc unf", ["unfreeze"]),
        ("oar-lxc image ver", ["verify"]),
        ("oar-lxc list --j", ["--json"]),
        ("oar-lxc 'unf", []),
        ("oar-lxc no-such ", []),
    ],
)
def test_what_is_typed_in_tcsh_is_completed(typed: str, words: list[str]) -> None:
    environ = {**os.environ, "_OAR_LXC_COMPLETE": "tcsh_complete", "COMMAND_LINE": typed}
    command = [sys.executable, "-m", "oar_lxc.cli"]
    done = subprocess.run(command, env=environ, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.split() == words


def test_this_repository_makes_a_package(tmp_path: Path) -> None:
    package = deb.build(tmp_path)
    assert package.name == f"oar-lxc_{oar_lxc.__version__}_all.deb"
    files = listing(package)
    for name in ("prologue", "epilogue"):
        assert files[f"/usr/share/oar-lxc/hooks/{name}"][0] == "-rwxr-xr-x"
    for page in ("man1/oar-lxc.1.gz", "man8/oar-lxc-node.8.gz"):
        assert f"/usr/share/man/{page}" in files


def test_the_newest_release_is_this_version() -> None:
    releases = deb.read_changelog((REPOSITORY / "CHANGELOG.md").read_text())
    assert releases[0][0] == deb.read_version(REPOSITORY) == oar_lxc.__version__


@pytest.mark.parametrize("missing", ["oar_lxc", "hooks", "jobscripts", "CHANGELOG.md"])
def test_a_directory_that_is_no_checkout_is_refused(
    missing: str, checkout: Path, tmp_path: Path
) -> None:
    (checkout / missing).rename(tmp_path / "away")
    with pytest.raises(UsageError, match=f"{missing} is missing"):
        deb.build(tmp_path / "out", checkout)
    assert not (tmp_path / "out").exists()


def test_a_checkout_without_a_version_is_refused(checkout: Path, tmp_path: Path) -> None:
    (checkout / "oar_lxc/__init__.py").write_text('__version__ = "1; rm"\n')
    with pytest.raises(UsageError, match="__version__"):
        deb.build(tmp_path / "out", checkout)


def test_changes_are_read_by_release() -> None:
    found = [(version, changes) for version, _, changes in deb.read_changelog(CHANGELOG)]
    assert found == [("1.2.3", ["One thing, on two lines.", "Another."]), ("1.0.0", [])]


def test_the_changelog_is_as_debian_writes_them(checkout: Path, tmp_path: Path) -> None:
    root = extract(deb.build(tmp_path, checkout), tmp_path / "root")
    path = root / "usr/share/doc/oar-lxc/changelog.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert lines[0] == "oar-lxc (1.2.3) unstable; urgency=medium"
    assert "  * One thing, on two lines." in lines
    assert f" -- {deb.MAINTAINER}  Sat, 03 Feb 2001 00:00:00 +0000" in lines


def test_file_times_are_those_of_the_release_or_as_told(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert deb.source_date_epoch(checkout) == 981158400
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    assert deb.source_date_epoch(checkout) == 1234567890
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError, match="yesterday"):
        deb.source_date_epoch(checkout)
