"""What this node has for a job of the calling user."""

from __future__ import annotations

import os
import pwd

from oar_lxc.errors import NodeNotPreparedError
from oar_lxc.layout import JobLayout
from oar_lxc.published import PublishedJob, read_published

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def open_job(job_id: int) -> tuple[JobLayout, PublishedJob]:
    """Return what this node has for a job of the calling user; set LXC's environment for it.

    Raises:
        NodeNotPreparedError: the root side did not prepare this node for this user's job.
    """
    layout = JobLayout(job_id)
    published = read_published(layout.published, job_id, os.uname().nodename)
    user = pwd.getpwuid(os.getuid()).pw_name
    if published.user != user:
        raise NodeNotPreparedError(f"job {job_id} belongs to {published.user}, not to {user}")
    # Where LXC keeps its locks: by default in the home, which outlives the job.
    os.environ["XDG_RUNTIME_DIR"] = str(layout.private)
    os.environ["PATH"] = PATH  # what is run here are the system's programs, not the user's
    return layout, published
