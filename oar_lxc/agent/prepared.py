"""Find what root has prepared on this node for a job of the calling user."""

from __future__ import annotations

import os
import pwd

from oar_lxc.errors import NodeNotPreparedError
from oar_lxc.linux.run import SYSTEM_PATH
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.published import PublishedJob, read_published


def open_job(job_id: int) -> tuple[JobLayout, PublishedJob]:
    """Return the names of a job's files, and what root has published about the job on this node.

    Raises:
        NodeNotPreparedError: root did not prepare this node for the job, or the job is another
            user's.
    """
    layout = JobLayout(job_id)
    published = read_published(layout.published, job_id, os.uname().nodename)
    user = pwd.getpwuid(os.getuid()).pw_name
    if published.user != user:
        raise NodeNotPreparedError(f"job {job_id} belongs to {published.user}, not to {user}")
    return layout, published


def environ_here(layout: JobLayout) -> dict[str, str]:
    """Return the environment variables of programs that act on this node for a job.

    LXC's library reads them from the environment of its own process. The programs of this room
    therefore set them for themselves when they start; they change no other process's environment.
    """
    return {
        # LXC keeps its locks here. Its default is in the user's home, which outlives the job.
        "XDG_RUNTIME_DIR": str(layout.private),
        "PATH": SYSTEM_PATH,  # the system's programs, not the user's own
    }
