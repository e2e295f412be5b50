"""The files with which plain ssh, and programs that use it, reach the containers of a job.

They are in ``~/.ssh/oar-lxc/JOB``: ``config`` has an entry for each container, which is called
``CONTAINER.JOB`` (a host name has no slash); ``id_ed25519`` is the job's key; ``known_hosts`` has
the containers' host keys. They belong to the user, and are useful only while the job runs. They
are removed at the end of the job's last session on its node, or by the next ``oar-lxc ssh-config``
of any job.
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.client.ssh_options import ssh_options
from oar_lxc.errors import OarLxcError
from oar_lxc.linux.atomic import write_atomic
from oar_lxc.model.description import containers_of
from oar_lxc.model.events import Container
from oar_lxc.model.layout import JobLayout

INCLUDE = "Include oar-lxc/*/config"


def ssh_home() -> Path:
    """Return the ``~/.ssh`` that ssh reads: that of the user's account, whatever HOME says."""
    return Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh"


def host_name(container: str, job_id: int) -> str:
    """Return the host name that a container has for ssh."""
    return f"{container}.{job_id}"


@dataclass(frozen=True)
class SshFiles:
    """The files of one job.

    Args:
        job_id: OAR's job id.
        home: the user's ``.ssh``.
    """

    job_id: int
    home: Path

    @property
    def directory(self) -> Path:
        """The directory of the job's files."""
        return self.home / "oar-lxc" / str(self.job_id)

    @property
    def config(self) -> Path:
        """The file with an entry for each container, for ``ssh -F`` or an ``Include``."""
        return self.directory / "config"

    def write(
        self,
        containers: Sequence[Container],
        keys: Mapping[str, str],
        proxy: Callable[[Container], str],
    ) -> None:
        """Write all files, each whole or not at all.

        Args:
            containers: the job's containers.
            keys: the job's keys, of which this writes ``client``, the private one; see
                :func:`oar_lxc.client.lookup.find_keys`.
            proxy: returns the shell command that passes bytes to a container's sshd.

        Raises:
            OarLxcError: a file cannot be written.
        """
        try:
            for directory in (self.home, self.directory.parent, self.directory):
                directory.mkdir(mode=0o700, exist_ok=True)
            self.directory.chmod(0o700)
            key, known = self.directory / "id_ed25519", self.directory / "known_hosts"
            write_atomic(key, keys["client"])
            lines = (f"{host_name(c.name, self.job_id)} {c.host_key}\n" for c in containers)
            write_atomic(known, "".join(lines))
            write_atomic(self.config, self._text(containers, key, known, proxy))
        except OSError as error:
            raise OarLxcError(
                f"cannot write {error.filename or self.directory}: {error.strerror}"
            ) from error

    def _text(
        self,
        containers: Sequence[Container],
        key: Path,
        known: Path,
        proxy: Callable[[Container], str],
    ) -> str:
        lines = [
            f"# Containers of OAR job {self.job_id}; `oar-lxc ssh-config` wrote this and removes",
            "# it when the job is over.",
        ]
        for container in containers:
            name = host_name(container.name, self.job_id)
            options = ssh_options(str(key), str(known), name, proxy(container))
            # No pattern such as *.42: it would match IP addresses as well.
            lines += [f"Host {name}", *(f"    {key} {value}" for key, value in options.items())]
        return "\n".join(lines) + "\n"

    def remove(self) -> bool:
        """Remove all files; return whether there were any."""
        if self.directory.is_symlink() or not self.directory.is_dir():
            return False
        shutil.rmtree(self.directory, ignore_errors=True)
        with suppress(OSError):  # not empty: it has files of other jobs
            self.directory.parent.rmdir()
        return not self.directory.exists()


def known_jobs(home: Path) -> list[int]:
    """Return the jobs that have files in a ``.ssh`` directory."""
    with suppress(OSError):
        return sorted(int(name) for name in os.listdir(home / "oar-lxc") if name.isdecimal())
    return []


def is_included(home: Path) -> bool:
    """Whether ssh's configuration includes the files of all jobs."""
    with suppress(OSError):
        text = (home / "config").read_text("utf-8", "surrogateescape")
        return any(line.split() == INCLUDE.split() for line in text.splitlines())
    return False


def include(home: Path) -> bool:
    """Make ssh's configuration include the files of all jobs; return whether it changed.

    The line goes to the top: further down, it would belong to the entry above it.

    Raises:
        OarLxcError: the configuration cannot be read or written.
    """
    if is_included(home):
        return False
    try:
        home.mkdir(mode=0o700, exist_ok=True)
        config = Path(os.path.realpath(home / "config"))  # may be a link into a repository
        before, mode = "", 0o600
        if config.exists():
            before = config.read_text("utf-8", "surrogateescape")
            mode = config.stat().st_mode & 0o7777
        write_atomic(config, f"{INCLUDE}\n\n{before}", mode, durable=True)
    except OSError as error:
        raise OarLxcError(
            f"cannot write {error.filename or home / 'config'}: {error.strerror}"
        ) from error
    return True


def forget_ended(layout: JobLayout, home: Path | None = None) -> None:
    """Remove the files of a job that has no containers left on this node; never raise an error.

    While another session of the job has containers here, the user still needs the files.

    Args:
        layout: the job's names.
        home: the user's ``.ssh``; by default that of the calling user.
    """
    with suppress(OSError, KeyError):
        files = SshFiles(layout.job_id, home or ssh_home())
        if files.directory.is_dir() and not containers_of(layout, None):
            files.remove()
