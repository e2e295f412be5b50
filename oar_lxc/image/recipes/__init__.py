"""Recipes to build images from Debian's or Ubuntu's packages: ready ones, and those of a file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from oar_lxc.errors import ImageError, ImageUsageError
from oar_lxc.model.hints import hint
from oar_lxc.model.toml import parse_toml

HERE = Path(__file__).parent
DEBIAN = "debian.sh"
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.:-]*")
_SUITE = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True)
class Recipe:
    """How an image is built.

    Attributes:
        suite: the release.
        packages: packages to install besides the minimal system.
        variant: mmdebstrap's word for the minimal system; ``extract`` has no minimal system, and
            only unpacks packages.
        configure: the script in this directory that prepares the system for containers.
        sources: lines of a sources.list; if empty, those of this machine's apt.
        keyring: the file with the keys that signed the packages, if this machine lacks them.
        script: shell lines to run inside at the end.
    """

    suite: str = "bookworm"
    packages: tuple[str, ...] = ()
    variant: str = "minbase"
    configure: str = DEBIAN
    sources: tuple[str, ...] = field(default=())
    keyring: str = ""
    script: str = ""

    def __post_init__(self) -> None:
        if not _SUITE.fullmatch(self.suite):
            raise ImageUsageError(f"suite is {self.suite!r}; it is a release such as bookworm")
        for package in self.packages:
            if not _PACKAGE.fullmatch(package):
                raise ImageUsageError(f"packages has {package!r}, which is no name of a package")

    def with_packages(self, names: tuple[str, ...]) -> Recipe:
        """Return the recipe with more packages."""
        return replace(self, packages=tuple(dict.fromkeys((*self.packages, *names))))

    @property
    def fingerprint(self) -> str:
        """A text that changes whenever the recipe would make another image."""
        return repr(self) + (HERE / self.configure).read_text()


DEFAULT = "debian-12"
RECIPES = {
    DEFAULT: Recipe(
        packages=(
            "systemd",
            "systemd-sysv",
            "dbus",
            "openssh-server",
            "iproute2",
            "iputils-ping",
            "ca-certificates",
            "procps",
            "rsync",
        ),
    ),
    "busybox": Recipe(
        packages=("busybox-static", "dropbear-bin"), variant="extract", configure="busybox.sh"
    ),
}
# Keys of a file; `base` names the ready recipe that the file changes.
KEYS = ("base", "suite", "packages", "sources", "keyring", "script")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        ImageUsageError: it is not TOML, has an unknown key, or a value of a wrong type.
        ImageError: it cannot be read.
    """
    try:
        data = parse_toml(path.read_bytes())
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ImageUsageError(f"{path}: {error}") from error
    for key, value in data.items():
        if key not in KEYS:
            raise ImageUsageError(f"{path}: unknown key {key}; {hint(key, KEYS)}")
        if key in ("packages", "sources"):
            if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
                raise ImageUsageError(f"{path}: {key} is {value!r}; it is a list of texts")
            data[key] = tuple(value)
        elif not isinstance(value, str):
            raise ImageUsageError(f"{path}: {key} is {value!r}; it is a text")
    base = data.pop("base", DEFAULT)
    if base not in RECIPES:
        raise ImageUsageError(f"{path}: base is {base!r}; ready recipes are {', '.join(RECIPES)}")
    more = data.pop("packages", ())
    try:
        return replace(RECIPES[base], **data).with_packages(more)
    except ImageUsageError as error:
        raise ImageUsageError(f"{path}: {error}") from error


def recipe_for(name: str, recipe: str | None = None) -> Recipe:
    """Return the recipe of an image: a ready recipe, or the recipe in a file.

    Args:
        name: the image's name, without its tag.
        recipe: name of a ready recipe or of a TOML file; by default the image's name.

    Raises:
        ImageError: there is none.
    """
    wanted = recipe or name
    if wanted in RECIPES:
        return RECIPES[wanted]
    if recipe and Path(recipe).exists():
        return read_recipe(Path(recipe))
    raise ImageError(
        f"no recipe {wanted}: give --recipe with a ready one ({', '.join(RECIPES)}) or a TOML file"
    )
