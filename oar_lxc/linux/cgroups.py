"""Enter the cgroups that root delegated to the job's user."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from oar_lxc.errors import OarLxcError


def enter_cgroups(paths: Sequence[str]) -> None:
    """Move this process into the job's delegated cgroups; LXC makes its own below them.

    Raises:
        OarLxcError: the kernel refuses.
    """
    pid = str(os.getpid())
    for path in paths:
        try:
            (Path(path) / "cgroup.procs").write_text(pid)
        except OSError as error:
            raise OarLxcError(f"cannot enter cgroup {path}: {error.strerror}") from error
