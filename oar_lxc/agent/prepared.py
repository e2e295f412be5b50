"""What this node has for a job of the calling user."""

from __future__ import annotations

import os
import pwd

from oar_lxc.errors import NodeNotPreparedError
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.published import PublishedJob, read_published

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def open_job(job_id: int) -> tuple[JobLayout, PublishedJob]:
    """Return what this node has for a job of the calling user.

    Raises:
        NodeNotPreparedError: the root side did not prepare this node for this user's job.
    """
    layout = JobLayout(job_id)
    published = read_published(layout.published, job_id, os.uname().nodename)
    user = pwd.getpwuid(os.getuid()).pw_name
    if published.user != user:
        raise NodeNotPreparedError(f"job {job_id} belongs to {published.user}, not to {user}")
    return layout, published


def environ_here(layout: JobLayout) -> dict[str, str]:
    """Return the variables of programs that act on this node for a job.

    LXC's library reads them of its own process: the agent and the doorway take them for
    themselves, when they start. Nobody else's environment is ours to change.
    """
    return {
        # Where LXC keeps its locks: by default in the home, which outlives the job.
        "XDG_RUNTIME_DIR": str(layout.private),
        "PATH": PATH,  # what is run here are the system's programs, not the user's
    }
