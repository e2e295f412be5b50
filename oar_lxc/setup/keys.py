"""Steps about the ssh keys with which OAR's machines authenticate each other."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from oar_lxc.linux.run import run
from oar_lxc.oar.paths import SSH_DIRECTORY, SSHD_PORT
from oar_lxc.setup import files
from oar_lxc.setup.steps import NotYetError, Step

ETC = Path("/etc/oar-lxc")

# With this mark, OAR tells its own key from the jobs' keys in the same file.
OAR_KEY = 'environment="OAR_KEY=1" '
CLIENT_CONFIG = """\
Host *
ForwardX11 no
StrictHostKeyChecking yes
PasswordAuthentication no
AddressFamily inet
"""
# OAR's own set-up has such a line: ssh then connects even if the host key is not the known one.
_LAX = re.compile(
    r"^([ \t]*StrictHostKeyChecking[ \t]*[ \t=][ \t]*)\"?(no|off|accept-new)\"?[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)


def generate(comment: str) -> tuple[str, str]:
    """Make an RSA key pair, as OAR 2.5 recognises only ``ssh-rsa`` keys.

    Returns:
        The text of the private key and that of the public key.
    """
    with tempfile.TemporaryDirectory(prefix="oar-lxc-key.") as scratch:
        path = Path(scratch) / "key"
        run(
            [
                "ssh-keygen",
                "-q",
                "-t",
                "rsa",
                "-b",
                "3072",
                "-N",
                "",
                "-C",
                comment,
                "-f",
                str(path),
            ]
        )
        return path.read_text(), path.with_suffix(".pub").read_text()


def key_pair_exists(title: str, path: Path, user: str, group: str, comment: str) -> Step:
    """Make the step after which a key pair exists; an existing one is kept."""

    def pending() -> str | None:
        if path.exists() and path.with_name(path.name + ".pub").exists():
            return None
        return f"make a key pair, {path}"

    def apply() -> None:
        private, public = generate(comment)
        owner = files.ids(user, group)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_through(path, private.encode(), 0o600, owner)
        files.write_through(path.with_name(path.name + ".pub"), public.encode(), 0o644, owner)

    return Step(title, pending, apply)


def oar_account_has(private: str, public: str) -> list[Step]:
    """Make the steps after which user oar of this machine has the cluster's key pair."""
    return [
        files.directory("user oar has a directory for keys", SSH_DIRECTORY, 0o700, "oar", "oar"),
        files.own_file(
            "user oar has the cluster's key",
            SSH_DIRECTORY / "id_rsa",
            private,
            0o600,
            "oar",
            "oar",
        ),
        files.own_file(
            "user oar has the cluster's public key",
            SSH_DIRECTORY / "id_rsa.pub",
            public,
            0o644,
            "oar",
            "oar",
        ),
    ]


def oar_lets_itself_in(public: Callable[[], str]) -> Step:
    """Make the step after which user oar may log in with its own key, marked as OAR's."""
    path = SSH_DIRECTORY / "authorized_keys"

    def with_key(text: str) -> str:
        key = " ".join(public().split()[:2])
        # OAR keeps the jobs' keys in the same file; they stay.
        kept = [line for line in text.splitlines() if OAR_KEY not in line or key in line]
        if not any(line.startswith(OAR_KEY) and key in line for line in kept):
            kept.insert(0, OAR_KEY + public().strip())
        return "\n".join(kept) + "\n"

    # 0o600: OAR locks the file before a change, and a user who could read it could hold the lock.
    return _oar_file("user oar's key opens its account", path, with_key, 0o600)


def oar_knows_the_nodes(host_public: Callable[[], str]) -> list[Step]:
    """Make the steps after which user oar accepts only the known host key on port 6667."""

    def with_line(text: str) -> str:
        key = " ".join(host_public().split()[:2])
        others = [
            line for line in text.splitlines() if line and not line.startswith(f"[*]:{SSHD_PORT} ")
        ]
        return "\n".join([f"[*]:{SSHD_PORT} {key}", *others]) + "\n"

    return [
        _oar_file(
            "user oar knows the host key of port 6667",
            SSH_DIRECTORY / "known_hosts",
            with_line,
            0o644,
        ),
        _oar_file(
            "user oar's ssh asks no questions, and refuses other host keys",
            SSH_DIRECTORY / "config",
            strict,
            0o644,
        ),
    ]


def strict(text: str) -> str:
    """Return a text of ssh_config(5) with which ssh refuses unknown host keys.

    Otherwise a process that holds a node's port would get OAR's commands, with the keys of jobs.
    The site's other lines stay.
    """
    return _LAX.sub(r"\1yes", text) or CLIENT_CONFIG


def _oar_file(title: str, path: Path, edit: files.Edit, mode: int) -> Step:
    def wanted() -> str:
        try:
            return edit(path.read_text())
        except FileNotFoundError:
            return edit("")

    return files.own_file(title, path, wanted, mode, "oar", "oar")


def read_public(path: Path) -> str:
    """Read the public half of a key pair.

    Raises:
        NotYetError: it does not exist yet.
    """
    try:
        return path.with_name(path.name + ".pub").read_text()
    except FileNotFoundError:
        raise NotYetError(f"{path} is not made yet") from None
