"""Build the Debian package from a checkout, with dpkg-deb only.

Equal sources give equal bytes: file times come from ``SOURCE_DATE_EPOCH`` or the newest release in
CHANGELOG.md, root owns all files, and their modes are set here.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import sys
import tempfile
import tomllib
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from textwrap import wrap
from typing import Any

from oar_lxc.errors import OarLxcError, UsageError
from oar_lxc.linux.node_log import LOG
from oar_lxc.linux.run import run
from oar_lxc.model.arguments import check_options
from oar_lxc.setup.completion import NAME, script_for

MAINTAINER = "oar_lxc maintainers <oar-lxc@packages.invalid>"

# Packages that all machines need, also frontends. python3-lxc brings liblxc1, but no service.
DEPENDS = (
    "python3 (>= 3.11)",
    "python3-click",
    "python3-lxc",
    "python3-psutil",
    "python3-rich",
    "python3-structlog",
    "iproute2",
    "openssh-client",
)
# For the shell's completion of commands, jobs and containers.
RECOMMENDS = ("bash-completion",)
# Files in /etc are the administrator's. tcsh reads completions only there.
TCSH_COMPLETION = "etc/csh/cshrc.d/oar-lxc"
LOGROTATE = "etc/logrotate.d/oar-lxc"
CONFFILES = (TCSH_COMPLETION, LOGROTATE)
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/oar-lxc",
    "fish": "usr/share/fish/vendor_completions.d/oar-lxc.fish",
    "tcsh": TCSH_COMPLETION,
    "zsh": "usr/share/zsh/vendor-completions/_oar-lxc",
}
# Packages that only nodes need; `oar-lxc setup node` installs them. As recommended packages, they
# would bring LXC with its own bridge, DHCP server and PAM module to servers and frontends, too.
# The last one is for images of squashfs.
SUGGESTS = (
    "lxc",
    "lxcfs",
    "nftables",
    "mmdebstrap",
    "zstd",
    "squashfs-tools-ng",
)

DESCRIPTION = """\
LXC system containers inside OAR jobs
 A user of a cluster that OAR schedules reserves nodes and gets rootless LXC
 system containers on them, each with an init, an ssh server and an address of
 its own. They live inside the job's cgroups, and nothing of them is left on any
 node when the job is over.
 .
 This package holds the library, the commands oar-lxc and oar-lxc-node, the
 hooks for OAR and an example job script.
"""

COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: oar_lxc

Files: *
Copyright: 2026 The oar_lxc authors
License: LGPL-2.1+
 This library is free software; you can redistribute it and/or modify it under
 the terms of the GNU Lesser General Public License as published by the Free
 Software Foundation; either version 2.1 of the License, or (at your option) any
 later version.
 .
 On Debian systems, the full text of the GNU Lesser General Public License
 version 2.1 is in the file /usr/share/common-licenses/LGPL-2.1.
"""

# -I ignores the caller's variables and directories: clusters' environment modules set PYTHONPATH
# and PYTHONHOME for other versions of Python.
OAR_LXC = """\
#!/usr/bin/python3 -I
import sys

from oar_lxc.cli.entry import main

sys.exit(main())
"""

# Root runs this one with OAR's environment: -I ignores the caller's variables and directories. -S
# starts faster: it skips the search for .pth files, which no module here needs.
OAR_LXC_NODE = """\
#!/usr/bin/python3 -IS
import sys

sys.path.append("/usr/lib/python3/dist-packages")

from oar_lxc.linux.quick_start import quick_start

quick_start()

from oar_lxc.root.main import main

sys.exit(main())
"""

POSTINST = """\
#!/bin/sh
set -e
if [ "$1" = configure ] && command -v py3compile >/dev/null; then
    py3compile -p oar-lxc
fi
"""

# Without the package nothing could destroy what a job has on this node: OAR's own clean would wait
# for its cgroups for ever. So nothing is removed while there is anything of a job. On a node that
# is set up, OAR needs the hooks, too, for jobs of all types.
PRERM = """\
#!/bin/sh
set -e
if [ "$1" = remove ]; then
    state=/var/lib/oar-lxc
    jobs=$(ls $state/jobs $state/records 2>/dev/null | grep -o '^[0-9][0-9]*' | sort -nu || true)
    if [ -n "$jobs" ]; then
        echo "oar-lxc: this node has something of" $jobs "(ids of jobs), which nothing could" \
            "destroy without this package: wait until the jobs end, or end them with oardel." \
            "What dead jobs left goes with: oar-lxc-node reap" >&2
        exit 1
    fi
    if [ -e /etc/systemd/system/oar-lxc-reap.timer ]; then
        echo "oar-lxc: OAR suspects this node at its next job, unless the server's oar.conf" \
            "names no hook of this package any more (PROLOGUE_EXEC_FILE, EPILOGUE_EXEC_FILE)" >&2
    fi
fi
if command -v py3clean >/dev/null; then
    py3clean -p oar-lxc
fi
"""

# The log is opened for each line, so nothing has to be told that there is a new file.
ROTATION = f"""\
{LOG} {{
    weekly
    rotate 8
    compress
    delaycompress
    missingok
    notifempty
}}
"""

# Set-up's own files go with a purge; after a removal they stay, and do nothing. What set-up has
# written into OAR's own files is an administrator's to undo: other machines may depend on it.
# Only the root side removes a job's directory, so a purge keeps them: the job may still run. What
# is mounted below may be other machines' too. The directory itself may be a mount point.
POSTRM = """\
#!/bin/sh
set -e
if [ "$1" = purge ]; then
    units=/etc/systemd/system
    for unit in oar-lxc-reap.timer oar-lxc-sweep.timer oar-lxc-network.service; do
        if [ -e $units/$unit ] && [ -d /run/systemd/system ]; then
            deb-systemd-invoke stop $unit || true
        fi
        rm -f $units/*.wants/$unit
    done
    rm -f $units/oar-lxc-reap.service $units/oar-lxc-reap.timer
    rm -f $units/oar-lxc-sweep.service $units/oar-lxc-sweep.timer $units/oar-lxc-network.service
    rm -f $units/lxcfs.service.d/oar-lxc.conf $units/oar-node.service.d/10-oar-lxc.conf
    rm -f $units/-.slice.d/60-oar-lxc.conf
    rmdir $units/lxcfs.service.d $units/oar-node.service.d $units/-.slice.d 2>/dev/null || true
    if [ -d /run/systemd/system ]; then
        systemctl --system daemon-reload || true
    fi
    rm -f /etc/systemd/journald.conf.d/60-oar-lxc.conf /etc/sysctl.d/60-oar-lxc.conf
    rm -f /etc/oar/check.d/oar-lxc /var/lib/oar/checklogs/oar-lxc
    rm -rf /etc/oar-lxc
    rm -f /var/log/oar-lxc.log /var/log/oar-lxc.log.* /run/oar-lxc.lock /run/oar-lxc-*.lock
    rmdir /run/oar-lxc-halted 2>/dev/null || true
    state=/var/lib/oar-lxc
    if [ -n "$(ls -A $state/jobs 2>/dev/null)" ]; then
        echo "oar-lxc: $state/jobs is not empty: left $state as it is" >&2
    elif grep -q " $state/" /proc/self/mountinfo; then
        echo "oar-lxc: something is mounted below $state: left it as it is" >&2
    elif [ -d $state ]; then
        find $state -xdev -mindepth 1 -delete
        rmdir $state 2>/dev/null || true
    fi
fi
"""


def build(output_directory: Path, source: Path | None = None) -> Path:
    """Build the Debian package.

    Args:
        output_directory: the directory for the package; made if missing.
        source: the checkout to build from; if None, the checkout of this module.

    Returns:
        The path of ``oar-lxc_<version>_all.deb``.

    Raises:
        UsageError: ``source`` is not a checkout of oar_lxc.
        CommandError: dpkg-deb failed, or is not installed.
    """
    source = source if source is not None else Path(__file__).resolve().parents[2]
    for needed in ("pyproject.toml", "CHANGELOG.md", "oar_lxc", "hooks", "jobscripts"):
        if not (source / needed).exists():
            raise UsageError(f"{source} is no checkout of oar_lxc: {needed} is missing")
    version = read_version(source)
    epoch = source_date_epoch(source)
    output_directory.mkdir(parents=True, exist_ok=True)
    target = output_directory / f"{NAME}_{version}_all.deb"
    with tempfile.TemporaryDirectory(prefix="oar-lxc-deb.") as scratch:
        root = Path(scratch) / "root"
        root.mkdir()
        _stage_files(root, source, version)
        _stage_control(root, version)
        _set_modes_and_times(root, epoch)
        built = Path(scratch) / target.name
        # One thread: with more, the way in which xz splits its work depends on the machine.
        options = ("--root-owner-group", "--threads-max=1")
        run(
            ["dpkg-deb", *options, "--build", str(root), str(built)],
            env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "LC_ALL": "C"},
            timeout=120,
        )
        # The temporary directory may be on another file system: copy to the target's directory
        # first, then rename.
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        partial.write_bytes(built.read_bytes())
        partial.replace(target)
    return target


def read_version(source: Path) -> str:
    """Return the version of a checkout, from the text of ``oar_lxc/__init__.py``.

    Raises:
        UsageError: the checkout has no version.
    """
    text = (source / "oar_lxc" / "__init__.py").read_text()
    match = re.search(r'^__version__ = "([0-9][0-9A-Za-z.+~]*)"$', text, re.MULTILINE)
    if match is None:
        raise UsageError(f'{source}/oar_lxc/__init__.py has no line __version__ = "…"')
    return match[1]


def read_changelog(text: str) -> list[tuple[str, datetime, list[str]]]:
    """Return the releases in a changelog in the format of Keep a Changelog, newest first.

    Returns:
        For each release its version, its date at midnight UTC, and its changes.
    """
    releases: list[tuple[str, datetime, list[str]]] = []
    changes: list[str] | None = None
    for line in text.splitlines():
        if line.startswith("## "):
            match = re.match(r"## \[([^\]]+)\] - (\d{4}-\d{2}-\d{2})", line)
            changes = None
            if match is not None:  # not [Unreleased]
                changes = []
                date = datetime.fromisoformat(match[2]).replace(tzinfo=UTC)
                releases.append((match[1], date, changes))
        elif changes is not None and line.startswith("- "):
            changes.append(line[2:])
        elif changes and line.startswith("  "):
            changes[-1] += " " + line.strip()
    return releases


def source_date_epoch(source: Path) -> int:
    """Return the time of all files of the package, in seconds since 1970.

    Raises:
        UsageError: neither ``SOURCE_DATE_EPOCH`` nor CHANGELOG.md gives a time.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text:
        if not re.fullmatch(r"[0-9]{1,11}", text):
            raise UsageError(f"SOURCE_DATE_EPOCH is {text!r}; it is a number of seconds")
        return int(text)
    releases = read_changelog((source / "CHANGELOG.md").read_text())
    if not releases:
        raise UsageError(f"{source}/CHANGELOG.md has no release")
    return int(releases[0][1].timestamp())


def debian_changelog(text: str) -> str:
    """Translate the changelog to the format of Debian's."""
    entries = []
    for version, date, changes in read_changelog(text):
        lines = [f"{NAME} ({version}) unstable; urgency=medium", ""]
        for change in changes or ["Release."]:
            item = wrap(f"* {change}", 76, subsequent_indent="  ", break_long_words=False)
            lines += [f"  {line}" for line in item]
        lines += ["", f" -- {MAINTAINER}  {format_datetime(date)}", ""]
        entries.append("\n".join(lines))
    return "\n".join(entries)


def _stage_files(root: Path, source: Path, version: str) -> None:
    python = root / "usr/lib/python3/dist-packages"
    _copy_tree(source / "oar_lxc", python / "oar_lxc")
    metadata = python / f"oar_lxc-{version}.dist-info"
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    _write(metadata / "METADATA", _metadata(project, version))
    _write(metadata / "INSTALLER", "debian\n")
    _write(metadata / "entry_points.txt", _entry_points(project))
    _write(root / "usr/bin/oar-lxc", OAR_LXC)
    _write(root / "usr/sbin/oar-lxc-node", OAR_LXC_NODE)
    share = root / "usr/share"
    _copy_tree(source / "hooks", share / "oar-lxc/hooks")
    _copy_tree(source / "jobscripts", share / "oar-lxc/jobscripts")
    documents = share / "doc" / NAME
    _write(documents / "copyright", COPYRIGHT)
    changelog = debian_changelog((source / "CHANGELOG.md").read_text())
    _write(documents / "changelog.gz", _gzip(changelog))
    for page in sorted((source / "docs/man").glob("*.[1-8]")):
        section = page.suffix[1:]
        _write(share / f"man/man{section}/{page.name}.gz", _gzip(page.read_text()))
    for shell, path in COMPLETIONS.items():
        _write(root / path, script_for(shell))
    _write(root / LOGROTATE, ROTATION)


def _stage_control(root: Path, version: str) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    kibibytes = sum((path.stat().st_size + 1023) // 1024 for path in files)
    sums = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  "
        f"{path.relative_to(root)}\n"
        for path in files
        if str(path.relative_to(root)) not in CONFFILES
    ]
    control = (
        f"Package: {NAME}\n"
        f"Version: {version}\n"
        "Architecture: all\n"
        "Section: admin\n"
        "Priority: optional\n"
        f"Maintainer: {MAINTAINER}\n"
        f"Installed-Size: {kibibytes}\n"
        f"Depends: {', '.join(DEPENDS)}\n"
        f"Recommends: {', '.join(RECOMMENDS)}\n"
        f"Suggests: {', '.join(SUGGESTS)}\n"
        f"Description: {DESCRIPTION}"
    )
    _write(root / "DEBIAN/control", control)
    _write(root / "DEBIAN/conffiles", "".join(f"/{path}\n" for path in CONFFILES))
    _write(root / "DEBIAN/md5sums", "".join(sums))
    for name, text in (("postinst", POSTINST), ("prerm", PRERM), ("postrm", POSTRM)):
        _write(root / "DEBIAN" / name, text)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy the files that git would hold: no caches, hidden files or editors' backups."""
    for path in sorted(source.iterdir()):
        if path.name.startswith(".") or path.name == "__pycache__" or path.name.endswith("~"):
            continue
        if path.is_dir():
            _copy_tree(path, target / path.name)
        elif path.suffix != ".pyc":
            _write(target / path.name, path.read_bytes())


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _set_modes_and_times(root: Path, epoch: int) -> None:
    """Set modes and times that do not depend on the umask and the checkout's age."""
    for path in [root, *root.rglob("*")]:
        runs = path.is_dir() or path.read_bytes().startswith(b"#!")
        path.chmod(0o755 if runs else 0o644)
        os.utime(path, (epoch, epoch))


def _gzip(text: str) -> bytes:
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)


def _metadata(project: dict[str, Any], version: str) -> str:
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {project['name']}",
        f"Version: {version}",
        f"Summary: {project['description']}",
        f"License: {project['license']}",
        f"Requires-Python: {project['requires-python']}",
        *(f"Requires-Dist: {requirement}" for requirement in project["dependencies"]),
    ]
    return "\n".join(lines) + "\n"


def _entry_points(project: dict[str, Any]) -> str:
    scripts = (f"{name} = {where}\n" for name, where in sorted(project["scripts"].items()))
    return "[console_scripts]\n" + "".join(scripts)


def main() -> None:
    """Build the package and print its path."""
    parser = argparse.ArgumentParser(
        prog="python -m oar_lxc.setup.deb", description="Build the Debian package of oar_lxc."
    )
    parser.add_argument("--output", type=Path, default=Path("dist"), help="directory (dist)")
    parser.add_argument("--source", type=Path, help="checkout (the one this module is in)")
    arguments = parser.parse_args()
    try:
        check_options(vars(arguments))
        print(build(arguments.output, arguments.source))
    except OarLxcError as error:
        print(f"oar-lxc: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
