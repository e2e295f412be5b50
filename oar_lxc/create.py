"""Make a node's share of a plan on disk: configurations, and files that containers' root owns.

What must belong to the containers' root is unpacked from one tar stream inside the job's user
namespace, for all containers in one go.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Interface
from pathlib import Path

from oar_lxc.container import CONFIG_FILE, LOG_FILE
from oar_lxc.errors import CommandError
from oar_lxc.layout import JobLayout
from oar_lxc.network import MTU
from oar_lxc.plan import PlannedContainer
from oar_lxc.published import PublishedJob
from oar_lxc.run import run

SESSION_FILE = "session"
UPPER = "upper"
WORK = "work"  # where LXC looks for it: beside the upper directory
HOST_KEY = "etc/ssh/ssh_host_ed25519_key"

# "volatile": what is thrown away with the job need not be synced to disk when it is unmounted. The
# kernel leaves a mark then; after a reboot inside it refuses the mount unless the mark is removed.
# "userxattr": all that overlay may use in a user namespace to mark what was removed.
_CONFIG = """\
lxc.uts.name = {name}
lxc.rootfs.path = overlay:{rootfs}:{directory}/{upper}
lxc.rootfs.options = volatile,userxattr
lxc.hook.version = 1
lxc.hook.pre-mount = /bin/rm -rf {directory}/{work}/work/incompat
lxc.idmap = u 0 {first_id} {id_count}
lxc.idmap = g 0 {first_id} {id_count}
lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed
lxc.autodev = 1
lxc.tty.max = 0
lxc.pty.max = 1024
lxc.apparmor.profile = unconfined
lxc.net.0.type = veth
lxc.net.0.link = {bridge}
lxc.net.0.flags = up
lxc.net.0.mtu = {mtu}
lxc.net.0.ipv4.address = {address} {broadcast}
lxc.net.0.ipv4.gateway = {gateway}
lxc.init.cmd = /sbin/init
lxc.signal.halt = SIGRTMIN+3
lxc.log.file = {directory}/{log}
lxc.log.level = WARN
"""


def create_containers(
    layout: JobLayout,
    published: PublishedJob,
    containers: Sequence[PlannedContainer],
    *,
    hosts: Mapping[str, str],
    keys: Mapping[str, str],
    session: str,
) -> None:
    """Make the directories of containers, ready to be started.

    Args:
        layout: the job's names.
        published: what the root side says of this node.
        containers: those of this node.
        hosts: address by name, of all containers of the job.
        keys: ``authorized`` (the job's public key), ``host`` (the private key of all containers'
            sshd) and ``host_public``.
        session: whose they are; see :func:`containers_of`.

    Raises:
        OSError: a directory cannot be made; the disk or the user's quota is full.
        CommandError: the same, for what containers' root owns.
    """
    for planned in containers:
        config = _config(layout, published, planned)
        # Whole or not at all: what has the name of a container also says whose it is.
        half = layout.containers / f".{planned.name}.{session}"
        try:
            half.mkdir()
            os.chmod(half, 0o770)  # noqa: S103  # containers' root enters by the group
            (half / SESSION_FILE).write_text(session)
            (half / CONFIG_FILE).write_text(config)
            half.rename(layout.containers / planned.name)
        except BaseException:
            shutil.rmtree(half, ignore_errors=True)
            raise
    archive = _archive(containers, hosts, keys)
    in_user_namespace(published, ["tar", "-xp", "-C", str(layout.containers)], archive)


def _config(layout: JobLayout, published: PublishedJob, planned: PlannedContainer) -> str:
    return _CONFIG.format(
        name=planned.name,
        rootfs=layout.images / planned.image / "rootfs",
        directory=layout.containers / planned.name,
        upper=UPPER,
        work=WORK,
        first_id=published.first_id,
        id_count=published.id_count,
        bridge=published.bridge,
        mtu=MTU,
        address=planned.address,
        broadcast=IPv4Interface(planned.address).network.broadcast_address,
        gateway=published.gateway.partition("/")[0],
        log=LOG_FILE,
    )


def containers_of(layout: JobLayout, session: str | None) -> list[str]:
    """Return the names of the containers that a session made; of all where None.

    What else the user keeps in the directory is not ours.

    Raises:
        OSError: the directory of containers cannot be read.
    """
    found = {name: _session(layout.containers / name) for name in os.listdir(layout.containers)}
    if session is None:
        return sorted(name for name, whose in found.items() if whose)
    return sorted(name for name, whose in found.items() if whose == session)


def _session(directory: Path) -> str:
    """Return which session made a container's directory, empty where it is none."""
    try:
        return "" if directory.name.startswith(".") else (directory / SESSION_FILE).read_text()
    except (OSError, ValueError):
        return ""


def remove_containers(layout: JobLayout, published: PublishedJob, names: Sequence[str]) -> None:
    """Remove the directories of stopped containers, what their root owns included.

    Raises:
        CommandError: something is left of them.
    """
    paths = [str(layout.containers / name / part) for name in names for part in (UPPER, WORK)]
    if paths:
        with suppress(CommandError):  # what it leaves, the next one tells of
            in_user_namespace(published, ["rm", "-rf", "--", *paths])
        run(["rm", "-rf", "--", *(str(layout.containers / name) for name in names)])


def in_user_namespace(
    published: PublishedJob, argv: Sequence[str], input: bytes | None = None
) -> None:
    """Run a program as the containers' root, in a user namespace with the job's ids."""
    ids = f"0:{published.first_id}:{published.id_count}"
    run(["lxc-usernsexec", "-m", f"u:{ids}", "-m", f"g:{ids}", "--", *argv], input=input)


def _archive(
    containers: Sequence[PlannedContainer], hosts: Mapping[str, str], keys: Mapping[str, str]
) -> bytes:
    """Return a tar archive with the upper and work directories of containers."""
    table = "127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in hosts.items())
    resolver = _resolver()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for planned in containers:
            _add_directory(tar, f"{planned.name}/{WORK}", 0o755)
            upper = f"{planned.name}/{UPPER}"
            for path, mode in (("", 0o755), ("/etc", 0o755), ("/etc/ssh", 0o755)):
                _add_directory(tar, upper + path, mode)
            for path in ("/root", "/root/.ssh"):
                _add_directory(tar, upper + path, 0o700)
            _add_file(tar, f"{upper}/etc/hostname", planned.name + "\n")
            _add_file(tar, f"{upper}/etc/hosts", table)
            _add_file(tar, f"{upper}/etc/resolv.conf", resolver)
            _add_file(tar, f"{upper}/{HOST_KEY}", keys["host"], 0o600)
            _add_file(tar, f"{upper}/{HOST_KEY}.pub", keys["host_public"])
            _add_file(tar, f"{upper}/root/.ssh/authorized_keys", keys["authorized"], 0o600)
    return stream.getvalue()


def _resolver() -> str:
    """Return the node's resolver configuration, with servers that a container can reach."""
    for path in ("/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"):
        try:
            return Path(path).read_text()
        except OSError:
            continue
    return ""


def _add_directory(tar: tarfile.TarFile, path: str, mode: int) -> None:
    info = tarfile.TarInfo(path)
    info.type = tarfile.DIRTYPE
    info.mode = mode
    tar.addfile(info)


def _add_file(tar: tarfile.TarFile, path: str, text: str, mode: int = 0o644) -> None:
    data = text.encode()
    info = tarfile.TarInfo(path)
    info.mode = mode
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
