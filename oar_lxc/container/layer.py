"""The files that we add to new containers, above those of their image.

Files that are the same in all containers of a group are in the group's layer, which is a lower
directory of each container's overlay. A container's own files are in its upper directory. One tar
archive has them all; :mod:`oar_lxc.container.create` unpacks it with the ids of the containers.
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

from oar_lxc.linux import rootpath
from oar_lxc.linux.ed25519 import KeyPair
from oar_lxc.model.idmap import NOBODY
from oar_lxc.model.layout import UPPER, WORK
from oar_lxc.model.names import MARK, Known, Peer, hosts_text, known_peers
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

# "put FILE SCRIPT" replaces our lines of FILE: the sed script drops the old ones, and the new ones
# come from standard input. If the container's root has removed FILE, or mounted something over it,
# it stays so.
_RENAMING = """\
umask 022
put() {
    [ -f "$1" ] || { cat >/dev/null; return; }
    { sed "$2" "$1" && cat; } >"$1.oar-lxc" && mv -f "$1.oar-lxc" "$1" || rm -f "$1.oar-lxc"
}
"""

# LXC sets the addresses of interfaces before init starts. A network program that asks for an
# address by DHCP waits in vain, and delays the boot. For each program: the file that makes the
# program leave the interfaces alone, its text, and the text for each of them.
_NETWORK = (
    (
        "/sbin/ifup",
        "etc/network/interfaces",
        "auto lo\niface lo inet loopback\n{}",
        "\nauto {0}\niface {0} inet manual\n",
    ),
    (
        "/lib/systemd/systemd-networkd",
        "etc/systemd/network/00-oar-lxc.network",
        "[Match]\nName={}\n\n[Link]\nUnmanaged=yes\n",
        "{} ",
    ),
    (
        "/usr/sbin/NetworkManager",
        "etc/NetworkManager/conf.d/00-oar-lxc.conf",
        "[keyfile]\nunmanaged-devices={}\n",
        "interface-name:{};",
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
class AccountInside:
    """The account of the job's user inside containers.

    Attributes:
        name: the user's name.
        uid: the user's id, the same inside and outside.
        gid: the id of the user's group.
        group: the group's name.
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
class LayerFiles:
    """The data for the files of a launch's containers.

    Attributes:
        names: how others know each container of the job, by its name.
        keys: ``authorized`` (the job's public key) and ``client`` (its private key).
        host_keys: the ssh host key of each container of this node, by the container's name.
        account: the job's user; None if the user has no account in the containers.
        resolver: text of resolv.conf.
        variables: environment variables of logins and commands in all containers.
        nodefile: text of the file that ``OAR_LXC_NODEFILE`` names inside.
        timezone: name of the node's time zone, such as ``Europe/Paris``; empty if not known.
    """

    names: Mapping[str, Peer]
    keys: Mapping[str, str]
    host_keys: Mapping[str, KeyPair]
    account: AccountInside | None
    resolver: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    nodefile: str = ""
    timezone: str = ""

    def environment(self, planned: PlannedContainer) -> dict[str, str]:
        """Return the environment variables of logins and commands in a container."""
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
            layers: the layers' directory in the archive; each layer has the name of its group.
            containers: the containers to make.
            images: the root directory of each image, by its name.
            filled: groups that have their layer already.
        """
        groups = {planned.group: planned for planned in containers if planned.group not in filled}
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for group, planned in groups.items():
                rootfs = images[planned.image]
                self._fill(Upper(tar, f"{layers}/{group}", rootfs), planned)
            for planned in containers:
                Upper(tar, f"{planned.name}/{WORK}").directory("", 0o755)
                upper = Upper(tar, f"{planned.name}/{UPPER}", images[planned.image])
                upper.directory("", 0o755)
                upper.file("etc/hostname", planned.name + "\n")
                self._identify(upper, self.host_keys[planned.name])
        return stream.getvalue()

    def _identify(self, upper: Upper, key: KeyPair) -> None:
        """Add the container's own ssh host key, for OpenSSH and, if there is one, dropbear."""
        upper.file(HOST_KEY, key.private(), 0o600)
        upper.file(f"{HOST_KEY}.pub", f"{key.public}\n")
        if rootpath.is_program(upper.rootfs, f"/{DROPBEAR}"):
            upper.file(DROPBEAR_KEY, key.dropbear(), 0o600)

    def _fill(self, upper: Upper, planned: PlannedContainer) -> None:
        upper.directory("", 0o755)
        networks = tuple(interface.network for interface in planned.all_interfaces)
        upper.file("etc/hosts", "127.0.0.1 localhost\n" + hosts_text(self.names, networks))
        upper.file("etc/resolv.conf", self.resolver)
        authorized = "".join(
            key.rstrip("\n") + "\n" for key in (self.keys["authorized"], *planned.ssh_keys)
        )
        upper.file(SSHD, _SSHD_TEXT)
        self._describe(upper, planned)
        upper.directory("root", 0o700)
        upper.directory("root/.ssh", 0o700)
        upper.file("root/.ssh/authorized_keys", authorized, 0o600)
        upper.file(KNOWN_HOSTS, _known_hosts(self.names, networks))
        upper.file(CLIENT_CONFIG, _client_config(self.names, networks))
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
        """Add the files that describe the job, the network, the time zone and the work."""
        environment = self.environment(planned)
        # pam_env(8) cuts a value at "#", even in quotes: no value is better than a wrong one.
        lines = [f"{k}={_quote(v)}\n" for k, v in environment.items() if "#" not in v]
        upper.file("etc/environment", "".join(lines))
        upper.file("etc/default/locale", f"LANG={_quote(environment['LANG'])}\n")
        upper.file(NODEFILE, self.nodefile)
        if planned.provision:
            upper.file(PROVISION, planned.provision, 0o755)
        devices = [interface.device for interface in planned.all_interfaces]
        for program, path, text, of_one in _NETWORK:
            if rootpath.is_program(upper.rootfs, program):
                upper.file(path, text.format("".join(map(of_one.format, devices)).rstrip(" ;")))
        if self.timezone and (upper.rootfs / ZONES / self.timezone).is_file():
            upper.link("etc/localtime", f"/{ZONES}/{self.timezone}")
            upper.file("etc/timezone", self.timezone + "\n")

    def _passwd(self, rootfs: Path) -> str:
        account = self.account
        if account is None:
            return ""
        lines = rootpath.read_text(rootfs, "etc/passwd").splitlines()
        shell = account.shell if rootpath.is_program(rootfs, account.shell) else "/bin/sh"
        # The user has no password. "*" says so here; else /etc/shadow would need a line, and only
        # the image's root can read that file.
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


def _known_hosts(names: Mapping[str, Peer], networks: Sequence[str]) -> str:
    return "".join(
        f"{','.join(_words(known))} {known.key} {MARK}\n" for known in known_peers(names, networks)
    )


def _client_config(names: Mapping[str, Peer], networks: Sequence[str]) -> str:
    # Only for the job's containers: with an IdentityFile for all hosts, ssh would no longer try
    # the user's own keys elsewhere.
    words = " ".join(word for known in known_peers(names, networks) for word in _words(known))
    return f"Host {words}\n    IdentityFile /{CLIENT_KEYS}/%u\n"


def _words(known: Known) -> tuple[str, ...]:
    """Return the names and addresses of a container."""
    return (*known.names, *(ip for ip, _ in known.lines))


def hosts_script(names: Mapping[str, Peer], networks: Sequence[str]) -> str:
    """Return the shell script that writes all names of the job into a running container.

    It keeps the lines of others in ``/etc/hosts`` and in ssh's list of known hosts.

    Args:
        names: as :attr:`LayerFiles.names`.
        networks: the container's networks, in the order of its interfaces.
    """
    script = _RENAMING
    for path, drop, text in (
        ("etc/hosts", f"/ {MARK}$/d", hosts_text(names, networks)),
        (KNOWN_HOSTS, f"/ {MARK}$/d", _known_hosts(names, networks)),
        (CLIENT_CONFIG, "d", _client_config(names, networks)),
    ):
        script += f"put /{path} '{drop}' <<'END'\n{text}END\n"
    return script


def extend(lines: Sequence[str], mine: str) -> list[str]:
    """Insert a line of passwd: replace the line of its name, and precede those of its id."""
    name, _, uid = mine.split(":")[:3]
    kept = [line for line in lines if line.split(":")[0] != name]
    same = (number for number, line in enumerate(kept) if line.split(":")[2:3] == [uid])
    at = next(same, len(kept))
    return [*kept[:at], mine, *kept[at:]]


def _quote(value: str) -> str:
    """Quote a value of /etc/environment for pam_env(8), if it has blanks or special characters."""
    return value if re.fullmatch(r"[A-Za-z0-9_./:@,+=-]*", value) else f'"{value}"'


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


class Upper:
    """A directory of the archive that lies above an image in an overlay.

    Parent directories of a file are added with the image's mode and owner: an overlay shows those
    of the upper directory.

    Args:
        tar: the archive.
        prefix: the directory's path in the archive.
        rootfs: the root directory of the image.
    """

    def __init__(
        self,
        tar: tarfile.TarFile,
        prefix: str,
        rootfs: Path = Path("/nonexistent"),
    ) -> None:
        self.rootfs = rootfs
        self._tar = tar
        self._prefix = prefix
        self._made: set[str] = set()
        self._now = int(time.time())

    def file(
        self, path: str, content: str | bytes, mode: int = 0o644, owner: tuple[int, int] = (0, 0)
    ) -> None:
        """Add a file; if the image has a link of that name, the file replaces it."""
        where = PurePosixPath(path)
        parent = rootpath.resolve(self.rootfs, str(where.parent))
        self._make(parent)
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        info = self._info(f"{parent.rstrip('/')}/{where.name}", mode, owner)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link, which replaces the image's file of that name."""
        where = PurePosixPath(path)
        parent = rootpath.resolve(self.rootfs, str(where.parent))
        self._make(parent)
        info = self._info(f"{parent.rstrip('/')}/{where.name}", 0o777, (0, 0))
        info.type = tarfile.SYMTYPE
        info.linkname = target
        self._tar.addfile(info)

    def directory(self, path: str, mode: int, owner: tuple[int, int] = (0, 0)) -> None:
        """Add a directory; follow the image's links on the way."""
        real = rootpath.resolve(self.rootfs, path)
        if real != "/":
            self._make(str(PurePosixPath(real).parent))
        self._add(real, mode, owner)

    def _make(self, path: str) -> None:
        """Add a directory and its parents, with the modes and owners that the image has."""
        if path in self._made:
            return
        if path != "/":
            self._make(str(PurePosixPath(path).parent))
        try:
            status = (self.rootfs / path.lstrip("/")).lstat()
        except OSError:
            self._add(path, 0o755, (0, 0))
            return
        # This process is in the job's user namespace, and sees the ids that containers see.
        uid, gid = (0 if own == NOBODY else own for own in (status.st_uid, status.st_gid))
        self._add(path, stat.S_IMODE(status.st_mode), (uid, gid))

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
