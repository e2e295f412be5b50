"""Build images from Debian's or Ubuntu's packages, with mmdebstrap."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

from oar_lxc.errors import CommandError
from oar_lxc.image.apt import host_sources, lists_script
from oar_lxc.image.importing import NOBODY, Listener, Say, as_image_error, publish_stream
from oar_lxc.image.program_errors import need, reason_of_build_error, replace_hooks
from oar_lxc.image.recipes import DEBIAN, HERE, Recipe, recipe_for
from oar_lxc.image.record import ImageRecord
from oar_lxc.image.sources import open_program
from oar_lxc.image.store import PUBLIC_STORE, ROOTFS, Store
from oar_lxc.linux.logger import get_logger
from oar_lxc.linux.run import run
from oar_lxc.linux.unshare import in_own_namespaces
from oar_lxc.linux.unsynced import unsynced
from oar_lxc.model.image_name import ImageName

_log = get_logger()

# The ssh server's package makes each missing host key, and the script that prepares a Debian
# system removes them all again. An RSA key takes seconds, so this puts an empty file in its place.
NO_SLOW_KEY = 'mkdir -p "$1/etc/ssh" && touch "$1/etc/ssh/ssh_host_rsa_key"'
SBIN = "/usr/sbin:/sbin"  # not in the PATH of users


@dataclass(frozen=True)
class BuildPlace:
    """The place where a user builds with a job's ids, as these ids cannot enter the user's home.

    Attributes:
        directory: a directory of the job that root of the job's ids may enter by its group.
        become_root: makes a process root of the job's ids, before it runs a program.
        environ: variables of the commands there.
    """

    directory: Path
    become_root: Callable[[], object]
    environ: Mapping[str, str] = field(default_factory=dict)


def build(name: str, directory: Path = PUBLIC_STORE, say: Say | None = None) -> Path:
    """Build and publish the image of a ready recipe, unless it exists.

    Args:
        name: one of :data:`~oar_lxc.image.recipes.RECIPES`.
        directory: the store's directory.
        say: called with each line about the progress.

    Returns:
        The root file system's directory.

    Raises:
        ImageError: there is no such recipe, a program is missing, or mmdebstrap failed; nothing
            is left of the attempt.
    """
    parsed = ImageName.parse(name)
    recipe = recipe_for(parsed.name)
    store = Store(directory)
    if not store.has(parsed):
        build_image(store, parsed, recipe, listener=Listener(say) if say else NOBODY)
    return store.directory(parsed) / ROOTFS


def build_image(
    store: Store,
    name: ImageName,
    recipe: Recipe,
    build_place: BuildPlace | None = None,
    listener: Listener = NOBODY,
) -> ImageRecord:
    """Build an image by a recipe, and publish it.

    Args:
        store: the store that gets it.
        name: the image's name.
        recipe: how to build it.
        build_place: the place of the build if the caller is not root.
        listener: what is called meanwhile; it is told of bytes only when mmdebstrap writes the
            system.

    Raises:
        ImageError: the build failed; nothing is left of the attempt.
    """
    say = listener.say
    store.refuse_existing(name)
    need("mmdebstrap", "mmdebstrap")
    say(f"building image {name} from packages of {recipe.suite}")
    start = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(_log.step("build image", image=str(name), suite=recipe.suite))
        stack.enter_context(as_image_error(f"image {name}", store, reason_of_build_error))
        half = stack.enter_context(store.half())
        scratch = half / "scratch"
        scratch.mkdir()
        sources = scratch / "sources.list"
        lines = recipe.sources or host_sources(recipe.suite)
        sources.write_text("\n".join(lines) + "\n")
        work, first = scratch, None
        command = mmdebstrap(recipe, sources)
        if build_place is None:
            # Without syncs: mmdebstrap's directory is needed only during the build.
            command = in_own_namespaces(unsynced(command))
        else:
            command = in_own_namespaces(command)
            first = build_place.become_root
            work = stack.enter_context(_inner_directory(build_place))
        path = f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
        env = {**os.environ, "PATH": path, "TMPDIR": str(work)}
        if build_place is not None:
            env |= build_place.environ
        with open_program(command, env=env, first=first) as stream:
            if program := stream.program:
                listener.follow(lambda: replace_hooks(program.said()))
            wanted = ImageRecord(name.name, name.tag, source=f"packages of {recipe.suite}")
            record = publish_stream(store, half, wanted, stream, listener)
    say(f"built image {name} in {time.monotonic() - start:.0f} s")
    return record


@contextmanager
def _inner_directory(place: BuildPlace) -> Iterator[Path]:
    """Make a directory in which root of the job's ids builds, and remove it.

    What an interrupted mmdebstrap leaves there is of the job's ids, so that their root removes it.
    """
    path = Path(mkdtemp(prefix=".build-", dir=place.directory))
    try:
        path.chmod(0o770)  # its group is root's group inside
        yield path
    finally:
        with suppress(CommandError, OSError):  # what stays is removed with the job
            argv = ["find", str(path), "-mindepth", "1", "-delete"]
            run(argv, env={**os.environ, **place.environ}, first=place.become_root)
            path.rmdir()


def mmdebstrap(recipe: Recipe, sources: Path) -> list[str]:
    """Return the command that builds a recipe's system and writes it as a tar archive."""
    script = f'chroot "$1" sh -eu -c {shlex.quote(recipe.script)}'
    # With the variant "extract", mmdebstrap runs no later hook.
    hook = "extract" if recipe.variant == "extract" else "customize"
    return [
        "mmdebstrap",
        f"--variant={recipe.variant}",
        "--mode=root",
        "--format=tar",
        # Containers get their devices when they start.
        "--skip=output/dev",
        *([] if recipe.sources else [f"--setup-hook={lists_script()}"]),
        *([f"--setup-hook={NO_SLOW_KEY}"] if recipe.configure == DEBIAN else []),
        *([f"--include={','.join(recipe.packages)}"] if recipe.packages else []),
        *([f"--keyring={recipe.keyring}"] if recipe.keyring else []),
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        f'--{hook}-hook=sh {shlex.quote(str(HERE / recipe.configure))} "$1"',
        *([f"--{hook}-hook={script}"] if recipe.script else []),
        recipe.suite,
        "-",
        str(sources),
    ]
