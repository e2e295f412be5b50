"""The files that containers have from the start, above those of their image.

Those that all containers of a group have are a layer of the overlay that the group shares; a
container's own are in its upper directory. All are one tar archive, which is unpacked with the ids
of the containers: see :mod:`oar_lxc.container.create`.
"""

from __future__ import annotations

import io
import re
import stat
import tarfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from oar_lxc.container.lxc_config import UPPER, WORK
from oar_lxc.linux import rootpath
from oar_lxc.linux.ed25519 import KeyPair
from oar_lxc.model.idmap import IdMap
from oar_lxc.model.plan import PlannedContainer

HOST_KEY = "etc/ssh/ssh_host_ed25519_key"
DROPBEAR = "usr/sbin/dropbear"
DROPBEAR_KEY = "etc/dropbear/dropbear_ed25519_host_key"
SSHD = "etc/ssh/sshd_config.d/oar-lxc.conf"
AUTHORIZED = "etc/ssh/authorized_keys.d"
CLIENT_CONFIG = "etc/ssh/ssh_config.d/oar-lxc.conf"
CLIENT_KEYS = "etc/ssh/oar-lxc"
KNOWN_HOSTS = "etc/ssh/ssh_known_hosts"
NODEFILE = "etc/oar-lxc/nodefile"
PROVISION = "etc/oar-lxc/provision"
ZONES = "usr/share/zoneinfo"
MARK = "# oar-lxc"  # at the end of each line that is ours in a file that others write to as well

# Its arguments: a file, and what drops our lines from it. Who has removed the file, or mounted
# another there, has it so.
_RENAMING = """\
umask 022
put() {
    [ -f "$1" ] || { cat >/dev/null; return; }
    { sed "$2" "$1" && cat; } >"$1.oar-lxc" && mv -f "$1.oar-lxc" "$1" || rm -f "$1.oar-lxc"
}
"""

# LXC has given eth0 its address before init starts. What asks for another by DHCP waits in vain,
# and the boot with it: program, file and text by which each leaves the device alone.
_NETWORK = (
    (
        "/sbin/ifup",
        "etc/network/interfaces",
        "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet manual\n",
    ),
    (
        "/lib/systemd/systemd-networkd",
        "etc/systemd/network/00-oar-lxc.network",
        "[Match]\nName=eth0\n\n[Link]\nUnmanaged=yes\n",
    ),
    (
        "/usr/sbin/NetworkManager",
        "etc/NetworkManager/conf.d/00-oar-lxc.conf",
        "[keyfile]\nunmanaged-devices=interface-name:eth0\n",
    ),
)

_SSHD_TEXT = f"""\
HostKey /{HOST_KEY}
AuthorizedKeysFile .ssh/authorized_keys /{AUTHORIZED}/%u
PermitRootLogin prohibit-password
PasswordAuthentication no
UseDNS no
"""


@dataclass(frozen=True)
class Account:
    """The job's user, as containers know that user.

    Attributes:
        name: the user's name.
        uid: the user's id, inside and outside.
        gid: that of the user's group.
        group: its name.
        gecos: the user's full name.
        home: the user's home directory.
        shell: the user's shell.
    """

    name: str
    uid: int
    gid: int
    group: str
    gecos: str = ""
    home: str = "/"
    shell: str = "/bin/sh"


@dataclass(frozen=True)
class Skeleton:
    """What the containers of a job have in common.

    Attributes:
        names: address and public host key by name, of all containers of the job.
        keys: ``authorized`` (the job's public key) and ``client`` (its private one).
        host_keys: the key of the ssh server of each container of this node, by its name.
        account: the job's user; None where containers do not know that user.
        ids: who is who inside and outside.
        resolver: text of resolv.conf.
        variables: variables of sessions and commands in all containers.
        nodefile: text of the file that ``OAR_LXC_NODEFILE`` names inside.
        timezone: name of the node's time zone, such as ``Europe/Paris``; empty where not known.
    """

    names: Mapping[str, tuple[str, str]]
    keys: Mapping[str, str]
    host_keys: Mapping[str, KeyPair]
    account: Account | None
    ids: IdMap
    resolver: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    nodefile: str = ""
    timezone: str = ""

    def environment(self, planned: PlannedContainer) -> dict[str, str]:
        """Return the variables of sessions and commands in a container."""
        return {
            "LANG": "C.UTF-8",
            **self.variables,
            "OAR_LXC_NODEFILE": f"/{NODEFILE}",
            **planned.environment,
        }

    def archive(
        self,
        layers: str,
        containers: Sequence[PlannedContainer],
        images: Mapping[str, Path],
        filled: Collection[str] = (),
    ) -> bytes:
        """Return a tar archive of the layers of groups and the upper directories of containers.

        Args:
            layers: the directory of the layers in it; each has the name of its group.
            containers: those of this node.
            images: the root directory of each image, by its name.
            filled: groups that have their layer already.
        """
        groups = {planned.group: planned for planned in containers if planned.group not in filled}
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for group, planned in groups.items():
                rootfs = images[planned.image]
                self._fill(Upper(tar, f"{layers}/{group}", rootfs, self.ids), planned)
            for planned in containers:
                Upper(tar, f"{planned.name}/{WORK}").directory("", 0o755)
                upper = Upper(tar, f"{planned.name}/{UPPER}", images[planned.image], self.ids)
                upper.directory("", 0o755)
                upper.file("etc/hostname", planned.name + "\n")
                self._identify(upper, self.host_keys[planned.name])
        return stream.getvalue()

    def _identify(self, upper: Upper, key: KeyPair) -> None:
        """Give a container's ssh server its key, which no other container has."""
        upper.file(HOST_KEY, key.private(), 0o600)
        upper.file(f"{HOST_KEY}.pub", f"{key.public}\n")
        if rootpath.is_program(upper.rootfs, f"/{DROPBEAR}"):
            upper.file(DROPBEAR_KEY, key.dropbear(), 0o600)

    def _fill(self, upper: Upper, planned: PlannedContainer) -> None:
        upper.directory("", 0o755)
        upper.file("etc/hosts", "127.0.0.1 localhost\n" + _hosts(self.names))
        upper.file("etc/resolv.conf", self.resolver)
        authorized = "".join(
            key.rstrip("\n") + "\n" for key in (self.keys["authorized"], *planned.ssh_keys)
        )
        upper.file(SSHD, _SSHD_TEXT)
        self._describe(upper, planned)
        upper.directory("root", 0o700)
        upper.directory("root/.ssh", 0o700)
        upper.file("root/.ssh/authorized_keys", authorized, 0o600)
        upper.file(KNOWN_HOSTS, _known_hosts(self.names))
        upper.file(CLIENT_CONFIG, _client_config(self.names))
        upper.file(f"{CLIENT_KEYS}/root", self.keys["client"], 0o600)
        if self.account:
            owner = (self.account.uid, self.account.gid)
            upper.file(f"{AUTHORIZED}/{self.account.name}", authorized)
            upper.file(f"{CLIENT_KEYS}/{self.account.name}", self.keys["client"], 0o600, owner)
            upper.file("etc/passwd", self._passwd(upper.rootfs))
            upper.file("etc/group", self._group(upper.rootfs))
            home = PurePosixPath(self.account.home)
            if not planned.home and len(home.parts) > 1:
                upper.directory(str(home), 0o700, owner)

    def _describe(self, upper: Upper, planned: PlannedContainer) -> None:
        """Add what tells a container of its job, its place and its work."""
        environment = self.environment(planned)
        # pam_env(8) cuts a value at "#", also in quotes: better no name of a job than a wrong one.
        lines = [f"{k}={_quote(v)}\n" for k, v in environment.items() if "#" not in v]
        upper.file("etc/environment", "".join(lines))
        upper.file("etc/default/locale", f"LANG={_quote(environment['LANG'])}\n")
        upper.file(NODEFILE, self.nodefile)
        if planned.provision:
            upper.file(PROVISION, planned.provision, 0o755)
        for program, path, text in _NETWORK:
            if rootpath.is_program(upper.rootfs, program):
                upper.file(path, text)
        if self.timezone and (upper.rootfs / ZONES / self.timezone).is_file():
            upper.link("etc/localtime", f"/{ZONES}/{self.timezone}")
            upper.file("etc/timezone", self.timezone + "\n")

    def _passwd(self, rootfs: Path) -> str:
        account = self.account
        if account is None:
            return ""
        lines = rootpath.read_text(rootfs, "etc/passwd").splitlines()
        shell = account.shell if rootpath.is_program(rootfs, account.shell) else "/bin/sh"
        # No password, and no line in /etc/shadow, which only the image's root can read: "*" says
        # that there is none to look for.
        mine = ":".join(
            (
                account.name,
                "*",
                str(account.uid),
                str(account.gid),
                account.gecos,
                account.home,
                shell,
            )
        )
        return _text(extend(lines or ["root:x:0:0:root:/root:/bin/sh"], mine))

    def _group(self, rootfs: Path) -> str:
        account = self.account
        if account is None:
            return ""
        lines = rootpath.read_text(rootfs, "etc/group").splitlines() or ["root:x:0:"]
        fields = [line.split(":") for line in lines]
        if any(field[2:3] == [str(account.gid)] for field in fields):
            return _text(lines)
        names = {field[0] for field in fields}
        name = f"group{account.gid}" if account.group in names else account.group
        return _text([*lines, f"{name}:x:{account.gid}:"])


def _hosts(names: Mapping[str, tuple[str, str]]) -> str:
    return "".join(f"{ip} {name} {MARK}\n" for name, (ip, _) in names.items())


def _known_hosts(names: Mapping[str, tuple[str, str]]) -> str:
    return "".join(f"{name},{ip} {key} {MARK}\n" for name, (ip, key) in names.items())


def _client_config(names: Mapping[str, tuple[str, str]]) -> str:
    # Only for these: with a key of its own for all hosts, ssh would not try the user's.
    words = " ".join(word for name, (ip, _) in names.items() for word in (name, ip))
    return f"Host {words}\n    IdentityFile /{CLIENT_KEYS}/%u\n"


def renaming(names: Mapping[str, tuple[str, str]]) -> str:
    """Return the shell script by which a running container learns all names of the job.

    What others wrote into ``/etc/hosts`` and ssh's list of known hosts stays.

    Args:
        names: as :attr:`Skeleton.names`.
    """
    script = _RENAMING
    for path, drop, text in (
        ("etc/hosts", f"/ {MARK}$/d", _hosts(names)),
        (KNOWN_HOSTS, f"/ {MARK}$/d", _known_hosts(names)),
        (CLIENT_CONFIG, "d", _client_config(names)),
    ):
        script += f"put /{path} '{drop}' <<'END'\n{text}END\n"
    return script


def extend(lines: Sequence[str], mine: str) -> list[str]:
    """Return lines of passwd with one more, which is first of its id and the only of its name."""
    name, _, uid = mine.split(":")[:3]
    kept = [line for line in lines if line.split(":")[0] != name]
    same = (number for number, line in enumerate(kept) if line.split(":")[2:3] == [uid])
    at = next(same, len(kept))
    return [*kept[:at], mine, *kept[at:]]


def _quote(value: str) -> str:
    """Write a value of /etc/environment as pam_env(8) reads it: quotes keep blanks and marks."""
    return value if re.fullmatch(r"[A-Za-z0-9_./:@,+=-]*", value) else f'"{value}"'


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


class Upper:
    """A directory of the archive, the upper one of a container's overlay.

    Directories on the way to a file are made as the image has them: what is in the upper directory
    is what counts.

    Args:
        tar: the archive.
        prefix: the directory's path in it.
        rootfs: the root directory of the image.
        ids: who owns the image's files inside.
    """

    def __init__(
        self,
        tar: tarfile.TarFile,
        prefix: str,
        rootfs: Path = Path("/nonexistent"),
        ids: IdMap | None = None,
    ) -> None:
        self.rootfs = rootfs
        self._tar = tar
        self._prefix = prefix
        self._ids = ids
        self._made: set[str] = set()
        self._now = int(time.time())

    def file(
        self, path: str, content: str | bytes, mode: int = 0o644, owner: tuple[int, int] = (0, 0)
    ) -> None:
        """Add a file; a link of the image of that name is replaced, not followed."""
        where = PurePosixPath(path)
        parent = rootpath.resolve(self.rootfs, str(where.parent))
        self._make(parent)
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        info = self._info(f"{parent.rstrip('/')}/{where.name}", mode, owner)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link in the place of what the image has there."""
        where = PurePosixPath(path)
        parent = rootpath.resolve(self.rootfs, str(where.parent))
        self._make(parent)
        info = self._info(f"{parent.rstrip('/')}/{where.name}", 0o777, (0, 0))
        info.type = tarfile.SYMTYPE
        info.linkname = target
        self._tar.addfile(info)

    def directory(self, path: str, mode: int, owner: tuple[int, int] = (0, 0)) -> None:
        """Add a directory, where the image's links lead."""
        real = rootpath.resolve(self.rootfs, path)
        if real != "/":
            self._make(str(PurePosixPath(real).parent))
        self._add(real, mode, owner)

    def _make(self, path: str) -> None:
        """Add a directory and those on the way to it, as the image has them."""
        if path in self._made:
            return
        if path != "/":
            self._make(str(PurePosixPath(path).parent))
        try:
            status = (self.rootfs / path.lstrip("/")).lstat()
        except OSError:
            self._add(path, 0o755, (0, 0))
            return
        owner = self._ids.inside(status.st_uid, status.st_gid) if self._ids else (0, 0)
        self._add(path, stat.S_IMODE(status.st_mode), owner)

    def _add(self, path: str, mode: int, owner: tuple[int, int]) -> None:
        info = self._info(path, mode, owner)
        info.type = tarfile.DIRTYPE
        self._tar.addfile(info)
        self._made.add(path)

    def _info(self, path: str, mode: int, owner: tuple[int, int]) -> tarfile.TarInfo:
        info = tarfile.TarInfo(self._prefix if path == "/" else self._prefix + path)
        info.mode = mode
        info.uid, info.gid = owner
        info.mtime = self._now
        return info
