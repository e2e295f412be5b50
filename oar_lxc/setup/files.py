"""Steps about files: they write a file atomically, back it up once, and show changes as a diff."""

from __future__ import annotations

import difflib
import grp
import os
import pwd
import re
import stat
from collections.abc import Callable
from pathlib import Path

from oar_lxc.linux.atomic import write_atomic
from oar_lxc.setup.steps import NotYetError, Step

BACKUP_SUFFIX = ".oar-lxc.bak"

Edit = Callable[[str], str]

_SECRET = re.compile(r"""^([-+ ]?\s*#?\s*\w*PASSWD\w*\s*=\s*).+$""", re.MULTILINE)


def write_through(
    path: Path, data: bytes, mode: int, owner: tuple[int, int] | None = None
) -> None:
    """Write a file whole, and through a link to it; also a crash leaves the old or the new.

    Args:
        path: the file; the target if it is a symbolic link.
        data: its new bytes.
        mode: its permissions.
        owner: uid and gid; the caller's if None.
    """
    write_atomic(Path(os.path.realpath(path)), data, mode, owner, durable=True)


def edited_file(
    title: str, path: Path, edit: Edit, needs: str, backup: Path | None = None
) -> Step:
    """Make the step that edits a file of another package, and keeps its mode and owner.

    The first edit saves the old file.

    Args:
        title: what is true afterwards.
        path: the file.
        edit: maps its text to the wanted text.
        needs: the package that brings the file.
        backup: where the old file is saved; ``FILE.oar-lxc.bak`` if None.
    """
    saved = backup or backup_of(path)

    def read() -> str:
        try:
            return path.read_text("utf-8", "surrogateescape")
        except FileNotFoundError:
            raise NotYetError(f"{path} comes with the package {needs}") from None

    def pending() -> str | None:
        old = read()
        return diff(path, old, edit(old))

    def apply() -> None:
        status = path.stat()
        old = read()
        mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
        if not saved.exists():
            write_through(saved, old.encode("utf-8", "surrogateescape"), mode, owner)
        write_through(path, edit(old).encode("utf-8", "surrogateescape"), mode, owner)

    return Step(title, pending, apply)


def own_file(
    title: str,
    path: Path,
    text: Callable[[], str] | str,
    mode: int = 0o644,
    user: str = "root",
    group: str = "root",
) -> Step:
    """Make the step that writes a file that belongs to oar-lxc alone.

    Args:
        title: what is true afterwards.
        path: the file; its directory is made if missing.
        text: its text, or a function that computes it when the step runs.
        mode: its permissions. If others may not read the file, its text is not shown.
        user: its owner.
        group: its group.
    """

    def wanted() -> str:
        return text if isinstance(text, str) else text()

    def pending() -> str | None:
        new = wanted()
        try:
            old = path.read_text("utf-8", "surrogateescape")
            status = path.stat()
        except FileNotFoundError:
            old, status = None, None
        if old != new:
            if not mode & 0o004:
                return f"{path}: write it (its text is secret)"
            return diff(path, old or "", new) or f"{path}: make it, empty"
        if status is None:
            return f"{path}: make it"
        return _ownership_pending(path, status, mode, user, group)

    def apply() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        data = wanted().encode("utf-8", "surrogateescape")
        write_through(path, data, mode, ids(user, group))

    return Step(title, pending, apply)


def directory(title: str, path: Path, mode: int, user: str = "root", group: str = "root") -> Step:
    """Make the step that makes a directory with these permissions."""

    def pending() -> str | None:
        try:
            status = path.stat()
        except FileNotFoundError:
            return f"{path}: make the directory, mode {mode:04o}"
        return _ownership_pending(path, status, mode, user, group)

    def apply() -> None:
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, *ids(user, group))
        path.chmod(mode)

    return Step(title, pending, apply)


def backup_of(path: Path) -> Path:
    """Return the path of the backup that the first edit of a file makes."""
    return path.with_name(path.name + BACKUP_SUFFIX)


def diff(path: Path, old: str, new: str) -> str | None:
    """Return a unified diff with passwords masked; None if the texts are equal."""
    if old == new:
        return None
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), str(path), str(path), n=1
    )
    text = "".join(line if line.endswith("\n") else line + "\n" for line in lines)
    return _SECRET.sub(r'\1"…"', text)


def ids(user: str, group: str) -> tuple[int, int]:
    """Return the uid of a user and the gid of a group.

    Raises:
        NotYetError: there is no such user or group.
    """
    try:
        return pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError:
        raise NotYetError(f"user {user} and group {group} come with OAR's packages") from None


def _ownership_pending(
    path: Path, status: os.stat_result, mode: int, user: str, group: str
) -> str | None:
    is_ids, is_mode = (status.st_uid, status.st_gid), stat.S_IMODE(status.st_mode)
    if is_mode == mode and is_ids == ids(user, group):
        return None
    return f"{path}: mode {mode:04o}, owner {user}:{group} (now {is_mode:04o}, {is_ids})"
