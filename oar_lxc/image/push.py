"""Push an image to many nodes: TakTuk broadcasts it from node to node, and each node checks it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from oar_lxc.errors import CommandError, ImageError
from oar_lxc.image.importing import as_image_error
from oar_lxc.image.program_errors import need, reason_of, reason_of_push_error
from oar_lxc.image.receive import CHUNK, PRESENT, Header, header_of
from oar_lxc.image.sources import TAR
from oar_lxc.image.store import ARCHIVE, ROOTFS, Store
from oar_lxc.linux.run import run, running
from oar_lxc.model.image_name import ImageName

TIMEOUT = 3600.0  # seconds for all nodes together
# One line each, with the node's name as the caller gave it.
_FORMATS = {
    "output": "out $host $line\\n",
    "error": "err $host $line\\n",
    "status": "status $host $line\\n",
    "connector": "err $peer $line\\n",
    "state": "",
}


@dataclass(frozen=True)
class Route:
    """How to run something on the nodes.

    Attributes:
        nodes: their names.
        connector: the command that runs another on a node, such as ssh.
        command: the words that run ``oar-lxc image receive`` there.
        before: the command that runs TakTuk itself; empty if none is needed.
        environ: variables that the connector needs.
    """

    nodes: Sequence[str]
    connector: Sequence[str]
    command: Sequence[str]
    before: Sequence[str] = ()
    environ: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Pushed:
    """The result of a push.

    Attributes:
        present: nodes that had the image before.
        done: nodes that got it.
        failed: for each other node, the reason why it does not have it.
    """

    present: tuple[str, ...]
    done: tuple[str, ...]
    failed: Mapping[str, str]


def push(
    store: Store,
    name: ImageName,
    route: Route,
    scratch: Path,
    say: Callable[[str], None] = lambda text: None,
) -> Pushed:
    """Push an image to nodes.

    Args:
        store: the store with the image.
        name: the image.
        route: the nodes and the way to them.
        scratch: a directory that the user who runs TakTuk may read.
        say: called with sentences about the progress.

    Raises:
        ImageError: the image cannot be read, or TakTuk is missing or failed as a whole.
    """
    need("taktuk", "taktuk")
    record = store.identified(name)
    archive = _packed(store, name, scratch)
    header = header_of(archive, str(name), record.digest, record.source)
    offered, failed = _broadcast(route, scratch, header, None, ["--offer"])
    have = {node: lines[-1] for node, lines in offered.items() if lines}
    present = tuple(node for node, answer in have.items() if answer == PRESENT)
    wanted = {n: int(answer) for n, answer in have.items() if answer.isdigit()}
    for node in route.nodes:
        if node not in have:
            failed.setdefault(node, "it did not answer")
    done: tuple[str, ...] = ()
    if wanted:
        first = min(min(wanted.values()), len(header.chunks))
        left = header.size - first * CHUNK
        say(f"pushing {left / 1e6:.0f} MB of image {name} to {len(wanted)} nodes")
        header = replace(header, first=first)
        answers, wrong = _broadcast(
            replace(route, nodes=tuple(wanted)), scratch, header, archive, []
        )
        failed.update(wrong)
        done = tuple(node for node in wanted if node in answers)
    return Pushed(present, done, failed)


def _packed(store: Store, name: ImageName, scratch: Path) -> Path:
    """Return an archive of an image; it is the same each time, so that a push can resume."""
    directory = store.directory(name)
    archive = scratch / ARCHIVE
    if not (directory / ROOTFS).is_dir():
        shutil.copyfile(directory / ARCHIVE, archive)
        return archive
    tar = [*TAR, "--format=pax", "--pax-option=delete=atime,delete=ctime"]
    with as_image_error(f"image {name}", store), archive.open("xb") as file:
        source = [*tar, "-C", str(directory / ROOTFS), "-cf", "-", "."]
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            with running(source, stdin=nothing) as packer:
                pack = [need("zstd", "zstd"), "-q", "-c", "-T0"]
                with running(pack, stdin=packer.stdout, stdout=file.fileno()) as zstd:
                    zstd.finish()
                packer.finish()
        finally:
            os.close(nothing)
    return archive


def _broadcast(
    route: Route, scratch: Path, header: Header, archive: Path | None, options: Sequence[str]
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Run the receiver on all nodes, and send it a header, and the chunks of an archive if given.

    Returns:
        The lines that each node wrote where it succeeded; the reason for each other node.
    """
    payload = scratch / "payload"
    with payload.open("wb") as file:
        file.write(header.to_line())
        if archive:
            with archive.open("rb") as source:
                source.seek(header.first * CHUNK)
                shutil.copyfileobj(source, file, CHUNK)
    payload.chmod(0o644)
    # Names with characters that are special to a shell were refused before.
    command = " ".join([*route.command, *options])
    formats = [word for k, v in _FORMATS.items() for word in ("-o", f'{k}="{v}"' if v else k)]
    argv = [
        *route.before,
        "taktuk",
        "-s",
        "-c",
        " ".join(route.connector),
        *formats,
        *(word for node in route.nodes for word in ("-m", node)),
        *("broadcast", "exec", "[", command, "]", ";"),
        *("broadcast", "input", "file", "[", str(payload), "]", ";"),
        *("broadcast", "input", "close"),
    ]
    environ = {**os.environ, **(route.environ or {})}
    told = run(argv, env=environ, timeout=TIMEOUT, check=False)
    payload.unlink()
    if told.status != 0 and not told.stdout:
        error = CommandError(["taktuk"], told.status, told.stderr)
        raise ImageError(f"no node was reached: {reason_of(error)}") from error
    return _sorted(told.stdout + told.stderr, route.nodes)


def _sorted(text: str, nodes: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    output: dict[str, list[str]] = {}
    errors: dict[str, list[str]] = {}
    ended: dict[str, str] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        node, _, said = rest.partition(" ")
        if node not in nodes:
            continue
        if kind == "out":
            output.setdefault(node, []).append(said)
        elif kind == "err" and said.strip():
            errors.setdefault(node, []).append(said.strip())
        elif kind == "status":
            ended[node] = said
    good = {node: output.get(node, []) for node, status in ended.items() if status == "0"}
    bad = {
        node: reason_of_push_error(errors.get(node, []), reached=node in ended)
        for node in nodes
        if node not in good
    }
    return good, bad


def to_json(pushed: Pushed) -> str:
    """Return the result of a push as JSON."""
    return json.dumps(
        {"present": pushed.present, "done": pushed.done, "failed": dict(pushed.failed)}, indent=1
    )
