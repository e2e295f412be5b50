"""What is written down of an image beside its tree: ``image.json``."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oar_lxc.errors import ImageError
from oar_lxc.model.image_name import ImageName

if TYPE_CHECKING:  # which launches need not import
    from oar_lxc.image.manifest import Manifest

RECORD = "image.json"
SYSTEMD_HALT = "SIGRTMIN+3"  # systemd(1), SIGNALS
BUSYBOX_HALT = "SIGUSR2"  # busybox's init: power off
OTHER_HALT = "SIGPWR"  # what LXC sends by default, and sysvinit knows

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SIGNAL = re.compile(r"SIG[A-Z0-9]+(\+[0-9]+)?")


@dataclass(frozen=True)
class Record:
    """One image, as it was when it was published.

    Attributes:
        name: its name.
        tag: its tag.
        digest: of its tree, see :mod:`oar_lxc.image.manifest`; empty for an image of a version of
            oar_lxc that wrote none.
        created: when it was published, in UTC (ISO 8601).
        source: what it was made from.
        size: bytes of all files' contents.
        files: how many paths it has.
        halt_signal: what its init takes for the wish to shut down.
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
    def of(cls, name: ImageName, manifest: Manifest, source: str) -> Record:
        """Return the record of an image that is being made."""
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
    def read(cls, directory: Path, name: ImageName) -> Record:
        """Read the record in an image's directory; what is missing there is empty.

        The name is that of the directory, whatever the file says.

        Raises:
            ImageError: the file is no record.
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


INIT = b"sbin/init"  # what containers start


def halt_signal_of(manifest: Manifest) -> str:
    """Return the signal that an image's init takes for the wish to shut down."""
    way = manifest.resolve(INIT)
    for name, signal in ((b"systemd", SYSTEMD_HALT), (b"busybox", BUSYBOX_HALT)):
        if any(name in step for step in way):
            return signal
    return OTHER_HALT if way != [INIT] or manifest.leads(INIT) else SYSTEMD_HALT
