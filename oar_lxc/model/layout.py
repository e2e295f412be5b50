"""All paths, file names and device names of a job on a node.

Both the root side and the user side compute names here, only from the job id and the user's name.
Neither side ever takes a name from the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from oar_lxc.errors import UsageError

STATE = Path("/var/lib/oar-lxc")
CONFIG = Path("/etc/oar-lxc/oar-lxc.toml")
# Below the state directory of a node: records of jobs, directories of jobs, and directories of
# ended jobs that await removal.
RECORDS, JOB_DIRECTORIES, TRASH = "records", "jobs", "trash"
STORE = "store"  # only root may enter: images hold programs that are set-user-id root
IMAGES = f"{STORE}/images"  # the node's images, below its state directory

# What is in the directory of a container, which has the container's name.
CONFIG_FILE = "config"  # LXC's configuration
DESCRIPTION_FILE = "container.json"  # the container's part of the plan, and its session
LOG_FILE = "lxc.log"
ONLINE_FILE = "cpus"  # what the container has as ONLINE of oar_lxc.container.lxc_config
UPPER = "upper"  # the overlay's upper directory: all that the container writes
WORK = "work"  # the overlay's work directory; LXC expects it beside the upper directory
# Devices in the job's network namespace: the other end of the uplink, and the bridge that joins it
# and the job's containers.
UPLINK_INSIDE, BRIDGE_INSIDE = "up0", "br0"

# OAR accepts all names of the system's user database, which may come from a directory service. So
# this allows more than Debian's rule, but only names that are one word and one part of a path.
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,255}")
_NODE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
MAX_JOB_ID = 2**31 - 1  # OAR's column is a signed 32-bit integer


def check_job_id(text: str | int) -> int:
    """Return a job id as a number.

    Raises:
        UsageError: it is not a number from 1 to :data:`MAX_JOB_ID`.
    """
    digits = str(text)
    if re.fullmatch(r"[0-9]{1,10}", digits) and 1 <= int(digits) <= MAX_JOB_ID:
        return int(digits)
    raise UsageError(f"job id {text!r} is not a number from 1 to {MAX_JOB_ID}")


def check_user(text: str) -> str:
    """Return a user's name.

    Raises:
        UsageError: it is not a name that the system's user database could hold.
    """
    if _USER.fullmatch(text):
        return text
    raise UsageError(f"user {text!r} is not a user name")


def check_node(text: str) -> str:
    """Return a node's name.

    Raises:
        UsageError: it is not a host name.
    """
    if _NODE.fullmatch(text) and ".." not in text:
        return text
    raise UsageError(f"node {text!r} is not a host name")


@dataclass(frozen=True)
class JobLayout:
    """The names that belong to one job on one node.

    Args:
        job_id: OAR's job id.
        state: the state directory of the node.
    """

    job_id: int
    state: Path = STATE

    @property
    def record(self) -> Path:
        """The root-owned record of what may exist of the job on the node."""
        return self.state / RECORDS / f"{self.job_id}.json"

    @property
    def directory(self) -> Path:
        """The job's directory; root owns it, and all users may pass through it."""
        return self.state / JOB_DIRECTORIES / str(self.job_id)

    @property
    def trash(self) -> Path:
        """The directory where directories of ended jobs await removal; only root may enter."""
        return self.state / TRASH

    @property
    def published(self) -> Path:
        """The file with what root publishes to the job's user about this node."""
        return self.directory / "job.json"

    @property
    def images(self) -> Path:
        """The mount of the node's images, read-only, with the job's ids."""
        return self.directory / "images"

    @property
    def trees(self) -> Path:
        """The directory of the trees' mounts, by number; each maps only the user's ids."""
        return self.directory / "trees"

    @property
    def containers(self) -> Path:
        """LXC's path for the job: one directory per container; the user owns it."""
        return self.directory / "containers"

    @property
    def unpacked_images(self) -> Path:
        """The directory of the user's own images, unpacked: one directory per digest."""
        return self.containers / ".images"

    def layers(self, session: str) -> Path:
        """Return the directory with the layers of a session's groups."""
        return self.containers / f".layers.{session}"

    def half_made(self, name: str, session: str) -> Path:
        """Return the directory of a container that is not complete yet."""
        return self.containers / f".{name}.{session}"

    @property
    def namespaces(self) -> Path:
        """The directory of the files that keep the job's namespaces."""
        return self.directory / "namespaces"

    @property
    def user_namespace(self) -> Path:
        """The file that keeps the job's user namespace."""
        return self.namespaces / "user"

    @property
    def network_namespace(self) -> Path:
        """The file that keeps the job's network namespace."""
        return self.namespaces / "net"

    @property
    def private(self) -> Path:
        """The user's own directory for keys and notes; no other user may enter."""
        return self.directory / "private"

    @property
    def lock(self) -> Path:
        """The file that the user's programs lock, to run one after the other."""
        return self.private / "lock"

    @property
    def job_key(self) -> Path:
        """The user's copy of OAR's key of the job, which oarsh needs where the cpuset is off."""
        return self.private / "oar.jobkey"

    @property
    def ssh_key(self) -> Path:
        """The private key for the job's containers; the public key has the ending ``.pub``."""
        return self.private / "id_ed25519"

    @property
    def ledger(self) -> Path:
        """The ledger of the job's sessions; only the head node has it."""
        return self.private / "ledger.json"

    @property
    def host_names(self) -> Path:
        """The names of all containers of the job, as this node knows them."""
        return self.private / "names.json"

    @property
    def networks(self) -> Path:
        """The networks and links of the job's sessions, as this node knows them."""
        return self.private / "networks.json"

    @property
    def times(self) -> Path:
        """When containers of this node were launched and ready, a line per fact."""
        return self.private / "times.jsonl"

    @property
    def timeline(self) -> Path:
        """How long each phase took on this node, a line per phase."""
        return self.private / "timeline.jsonl"

    @property
    def pushed_images(self) -> Path:
        """The store of the images that were pushed to this node for the job."""
        return self.private / "images"

    def port_forward(self, session: str) -> Path:
        """Return the file about the process that forwards ports to a session's containers."""
        return self.private / f"ports-{session}.json"

    @property
    def bridge(self) -> str:
        """Name of the job's bridge (at most 15 bytes, the kernel's limit)."""
        return f"olb{self.job_id}"

    @property
    def uplink(self) -> str:
        """Name of the device that joins the job's bridge and its network namespace."""
        return f"olu{self.job_id}"

    @property
    def vxlan(self) -> str:
        """Name of the device that joins the bridges of the job's nodes."""
        return f"olv{self.job_id}"


def outer_device(address: str, interface: int) -> str:
    """Return the name of the node's end of a container's interface, of 11 bytes.

    Args:
        address: the container's address in the job's main network. Each container of the job has
            one of its own, even if it has no interface there.
        interface: the number of the interface: 0 for ``eth0``.
    """
    return f"v{interface}-{int(IPv4Address(address)):08x}"


def cable_device(address: str, interface: int) -> str:
    """Return the name of the device through which all goes that an interface sends.

    Only an interface with a link for all that it sends has one. See :func:`outer_device`.
    """
    return f"u{outer_device(address, interface)[1:]}"


def bridge_of(number: int) -> str:
    """Return the name of the bridge of a network, by its number in the job; 0 is the main one."""
    return f"n{number}" if number else BRIDGE_INSIDE


def links_file(interface: int) -> str:
    """Return the name of the file in a container's directory that sets an interface's links."""
    return f"links.{interface}"


def segment_vxlan(number: int) -> str:
    """Return the name of the device that joins the bridges of a network on the job's nodes."""
    return f"x{number}"


def by_number(name: str) -> tuple[str | int, ...]:
    """Return a sort key that orders names by their numbers: ``vm2`` before ``vm10``."""
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part) if at % 2 else part for at, part in enumerate(parts))
