"""Read and write ``image.json``, the record of an image beside its files."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oar_lxc.errors import ImageError
from oar_lxc.model.image_name import ImageName

if TYPE_CHECKING:  # launches need not import it
    from oar_lxc.image.manifest import Manifest

RECORD = "image.json"
SYSTEMD_HALT = "SIGRTMIN+3"  # systemd(1), SIGNALS
BUSYBOX_HALT = "SIGUSR2"  # busybox's init: power off
OTHER_HALT = "SIGPWR"  # LXC's default, which sysvinit understands

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SIGNAL = re.compile(r"SIG[A-Z0-9]+(\+[0-9]+)?")


@dataclass(frozen=True)
class ImageRecord:
    """The facts of an image at its publication.

    Attributes:
        name: its name.
        tag: its tag.
        digest: the digest of its files, see :mod:`oar_lxc.image.manifest`; empty if an old version
            of oar_lxc made the image.
        created: when it was published, in UTC (ISO 8601).
        source: what it was made from.
        size: bytes of all files' contents.
        files: how many paths it has.
        halt_signal: the signal on which its init shuts down.
    """

    name: str
    tag: str
    digest: str = ""
    created: str = ""
    source: str = ""
    size: int = 0
    files: int = 0
    halt_signal: str = SYSTEMD_HALT

    @property
    def image(self) -> ImageName:
        """The image's name."""
        return ImageName(self.name, self.tag)

    @classmethod
    def of(cls, name: ImageName, manifest: Manifest, source: str) -> ImageRecord:
        """Make the record of a new image."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        return cls(
            name.name,
            name.tag,
            manifest.digest(),
            now,
            source,
            manifest.size,
            len(manifest.entries),
            halt_signal_of(manifest),
        )

    def to_json(self) -> str:
        """Return the file's text."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, directory: Path, name: ImageName) -> ImageRecord:
        """Read the record in an image's directory; missing keys get their defaults.

        The name comes from ``name``, not from the file.

        Raises:
            ImageError: the file is not a record.
        """
        path = directory / RECORD
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError:
            data = {}
        except (OSError, ValueError) as error:
            raise ImageError(f"{path}: {error}: import the image {name} anew") from error
        if not isinstance(data, dict):
            raise ImageError(f"{path} is no record of an image: import {name} anew")
        known = {
            "digest": DIGEST,
            "created": re.compile(r"[0-9T:+-]{0,40}"),
            "source": re.compile(r"[^\n]{0,4096}"),
            "halt_signal": _SIGNAL,
        }
        texts = {
            key: data[key]
            for key, form in known.items()
            if isinstance(data.get(key), str) and form.fullmatch(data[key])
        }
        numbers = {
            key: data[key]
            for key in ("size", "files")
            if type(data.get(key)) is int and data[key] >= 0
        }
        return cls(name.name, name.tag, **texts, **numbers)


INIT = b"sbin/init"  # the program that containers start


def halt_signal_of(manifest: Manifest) -> str:
    """Return the signal on which an image's init shuts down."""
    way = manifest.resolve(INIT)
    for name, signal in ((b"systemd", SYSTEMD_HALT), (b"busybox", BUSYBOX_HALT)):
        if any(name in step for step in way):
            return signal
    return OTHER_HALT if way != [INIT] or manifest.leads(INIT) else SYSTEMD_HALT
