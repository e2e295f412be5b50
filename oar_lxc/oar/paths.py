"""Where OAR has its files, as Debian's packages install it."""

from __future__ import annotations

from pathlib import Path

OAR_HOME = Path("/var/lib/oar")  # the home of user oar, and OAR's files of jobs on a node
SSH_DIRECTORY = OAR_HOME / ".ssh"
CHECK_LOGS = OAR_HOME / "checklogs"  # what node checks have to say
JOB_MANAGER_LOCK = OAR_HOME / "job_manager_lock_file"  # for init and clean of all jobs of a node
CONF = Path("/etc/oar/oar.conf")
SSHD_CONFIG = Path("/etc/oar/sshd_config")  # of OAR's sshd on a node
HOST_KEY = Path("/etc/oar/oar_ssh_host_rsa_key")
SSHD_PORT = 6667  # where OAR's sshd listens on a node
NODE_CHECK = Path("/etc/oar/check.d/oar-lxc")  # our check of a node, which OAR runs
CPUSET = Path("/dev/cpuset")  # where OAR's job resource manager has the hierarchy of cpusets
# OAR 2.5 makes this first, and CPUSET with it: while this is there, it makes no CPUSET again.
CPUSET_LINK = Path("/dev/oar_cgroups_links/cpuset")


def job_key(job_id: int, user: str, home: Path = OAR_HOME) -> Path:
    """Return OAR's key of a job, which oarsh needs where the cpuset is off."""
    return home / f"{user}_{job_id}.jobkey"
