"""Pushed images: taken chunk by chunk, gone on with where it was, published whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given

from oar_lxc.errors import ImageError
from oar_lxc.image import push as push_module
from oar_lxc.image import receive as receive_module
from oar_lxc.image.importing import import_image, verify
from oar_lxc.image.push import Route, push
from oar_lxc.image.receive import PRESENT, Header, header_of, offer, read_header, receive
from oar_lxc.image.store import Store
from oar_lxc.model.image_name import ImageName
from tests.unit.archives import member, system
from tests.unit.fakes.programs import add_program
from tests.unit.strategies import hostile

NAME = ImageName("mine")
CHUNK = 1000


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return a store with an image of several chunks."""
    for module in (receive_module, push_module):
        monkeypatch.setattr(module, "CHUNK", CHUNK)
    source = tmp_path / "small.tar"
    source.write_bytes(system(member("noise", content=os.urandom(5500))))
    store = Store(tmp_path / "here", archives=True)
    import_image(store, NAME, str(source))
    return store


@pytest.fixture
def there(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store(tmp_path / "there", archives=True)


@pytest.fixture
def header(here: Store) -> Header:
    record = here.record(NAME)
    archive = here.directory(NAME) / "rootfs.tar.zst"
    return header_of(archive, str(NAME), record.digest, "a far file")


def data_of(here: Store) -> bytes:
    return (here.directory(NAME) / "rootfs.tar.zst").read_bytes()


def test_an_image_arrives_as_it_was(here: Store, there: Store, header: Header) -> None:
    assert offer(there, header) == "0"
    receive(there, header, io.BytesIO(data_of(here)))
    record = verify(there, NAME)
    assert (record.digest, record.source) == (header.digest, "a far file")
    assert sorted(os.listdir(there.root)) == [".lock", "mine"]
    assert offer(there, header) == PRESENT
    receive(there, header, io.BytesIO(data_of(here)))  # nothing to do


def test_a_push_goes_on_where_it_was(here: Store, there: Store, header: Header) -> None:
    data = data_of(here)
    with pytest.raises(ImageError, match=f"chunk 3 of {len(header.chunks)} did not come"):
        receive(there, header, io.BytesIO(data[: 3 * CHUNK + 500]))
    assert there.names() == []
    assert offer(there, header) == "3"
    with pytest.raises(ImageError, match="chunk 3 did not come, 4 was the first"):
        receive(there, replace(header, first=4), io.BytesIO(data[4 * CHUNK :]))
    # Others needed more: what is there already is skipped.
    receive(there, replace(header, first=2), io.BytesIO(data[2 * CHUNK :]))
    verify(there, NAME)


def test_a_damaged_chunk_is_refused_and_what_came_before_stays(
    here: Store, there: Store, header: Header
) -> None:
    data = bytearray(data_of(here))
    data[2 * CHUNK + 7] ^= 1
    with pytest.raises(ImageError, match="chunk 2 is damaged: push again"):
        receive(there, header, io.BytesIO(bytes(data)))
    assert offer(there, header) == "2"


def test_what_was_damaged_on_disk_meanwhile_is_found(
    here: Store, there: Store, header: Header
) -> None:
    data = data_of(here)
    with pytest.raises(ImageError):
        receive(there, header, io.BytesIO(data[: 3 * CHUNK]))
    part = there.root / header.part
    part.write_bytes(b"x" * 3 * CHUNK)
    with pytest.raises(ImageError, match="chunk 0 was damaged on this disk"):
        receive(there, replace(header, first=3), io.BytesIO(data[3 * CHUNK :]))
    assert offer(there, header) == "0"


def test_another_digest_than_promised_is_not_published(
    here: Store, there: Store, header: Header
) -> None:
    wrong = replace(header, digest="sha256:" + "0" * 64)
    with pytest.raises(ImageError, match="it should be sha256:0000"):
        receive(there, wrong, io.BytesIO(data_of(here)))
    assert there.names() == []


def test_an_image_of_that_name_is_not_replaced(here: Store, header: Header) -> None:
    with pytest.raises(ImageError, match=r"exists already in .* with another digest"):
        offer(here, replace(header, digest="sha256:" + "0" * 64))


def test_what_nobody_completed_is_removed_after_a_week(
    here: Store, there: Store, header: Header
) -> None:
    there.root.mkdir(parents=True)
    old, new = there.root / ".push-old", there.root / ".push-new"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    receive(there, header, io.BytesIO(data_of(here)))
    assert not old.exists()
    assert new.exists()


@given(hostile)
def test_any_line_is_a_header_or_refused(text: str) -> None:
    try:
        found = read_header(io.BytesIO(text.encode("utf-8", "surrogateescape")))
    except ImageError:
        return
    assert "/" not in found.part


@pytest.mark.parametrize(
    "change",
    [
        {"image": "../x"},
        {"digest": "x"},
        {"chunks": []},
        {"chunks": ["x"]},
        {"first": 99},
        {"y": 1},
    ],
)
def test_a_header_that_is_none_is_refused(header: Header, change: dict[str, object]) -> None:
    data = {**json.loads(header.to_line()), **change}
    with pytest.raises(ImageError):
        Header.from_line(json.dumps(data).encode())


# Stands for TakTuk: runs the command once for each node, with what is broadcast as its input.
TAKTUK = """
import os, subprocess, sys
words = sys.argv[1:]
nodes = [words[i + 1] for i, word in enumerate(words) if word == "-m"]
command = words[words.index("exec") + 2]
payload = words[words.index("file") + 2]
for node in nodes:
    if node == "down":
        print(f"err {node} ssh: no way to {node}")
        continue
    line = command.replace("NODE", node)
    done = subprocess.run(
        line, shell=True, stdin=open(payload), capture_output=True, text=True
    )
    for kind, text in (("out", done.stdout), ("err", done.stderr)):
        for line in text.splitlines():
            print(f"{kind} {node} {line}")
    print(f"status {node} {done.returncode << 8}")
"""


@pytest.fixture
def route(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Route]:
    """Return a function that makes the way to pretended nodes, each with a store of its own."""
    (tmp_path / "taktuk.py").write_text(TAKTUK)
    add_program(tmp_path / "bin", "taktuk", f'exec python3 {tmp_path}/taktuk.py "$@"')
    receiver = tmp_path / "receiver.py"
    receiver.write_text(
        "import sys\nfrom pathlib import Path\nfrom oar_lxc.image import receive as r\n"
        f"r.CHUNK = {CHUNK}\nstore = r.Store(Path(sys.argv[1]), archives=True)\n"
        "header = r.read_header(sys.stdin.buffer)\n"
        "try:\n    print(r.offer(store, header)) if '--offer' in sys.argv else "
        "r.receive(store, header, sys.stdin.buffer)\n"
        "except r.ImageError as e:\n    sys.exit(f'oar-lxc: {e}')\n"
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))

    def make(*nodes: str) -> Route:
        command = ["python3", str(receiver), f"{tmp_path}/nodes/NODE"]
        return Route(nodes, ["ssh"], command)

    return make


def test_a_push_reaches_all_nodes_and_tells_of_those_it_does_not(
    here: Store, header: Header, route: Callable[..., Route], tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # One of them has a part already, as of a push that was interrupted.
    second = Store(tmp_path / "nodes/b", archives=True)
    with pytest.raises(ImageError):
        receive(second, header, io.BytesIO(data_of(here)[: 2 * CHUNK]))
    said: list[str] = []
    pushed = push(here, NAME, route("a", "b", "down"), scratch, said.append)
    assert (pushed.present, pushed.done) == ((), ("a", "b"))
    assert pushed.failed == {
        "down": "it could not be reached; its last words: ssh: no way to down"
    }
    for node in ("a", "b"):
        verify(Store(tmp_path / "nodes" / node, archives=True), NAME)
    assert len(said) == 1
    (scratch / "rootfs.tar.zst").unlink()
    assert push(here, NAME, route("a", "b"), scratch).present == ("a", "b")


def test_only_what_the_neediest_node_lacks_is_sent(
    here: Store, header: Header, route: Callable[..., Route], tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for node in ("a", "b"):
        store = Store(tmp_path / "nodes" / node, archives=True)
        with pytest.raises(ImageError, match="chunk 3"):
            receive(store, header, io.BytesIO(data_of(here)[: 3 * CHUNK]))
    said: list[str] = []
    push(here, NAME, route("a", "b"), scratch, said.append)
    left = header.size - 3 * CHUNK
    assert said == [f"pushing {left / 1e6:.0f} MB of image mine to 2 nodes"]
    verify(Store(tmp_path / "nodes/a", archives=True), NAME)


def test_a_broadcast_that_fails_as_a_whole_says_why(
    here: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_program(tmp_path / "bin", "taktuk", "echo broken >&2; exit 9")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(ImageError, match=r"no node was reached: .* its last words: broken"):
        push(here, NAME, Route(["a"], ["ssh"], ["x"]), tmp_path)


def test_the_chunks_are_those_of_the_archive(here: Store, header: Header) -> None:
    data = data_of(here)
    assert header.chunks[1] == hashlib.sha256(data[CHUNK : 2 * CHUNK]).hexdigest()
    assert len(header.chunks) == -(-len(data) // CHUNK) > 5
