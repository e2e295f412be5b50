"""Images of OCI and Docker: every form that people have, and what their layers make."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.errors import ImageError
from oar_lxc.image.importing import Listener, import_image, verify
from oar_lxc.image.store import ARCHIVE, Store
from oar_lxc.linux.run import run
from oar_lxc.model.image_name import ImageName
from tests.unit.archives import (
    Pack,
    archive,
    config,
    member,
    of_crane,
    of_oci,
    plain,
    sha,
    system,
    tar_of,
    write,
    zstd,
)

DIR, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
NAME = ImageName("made")
BASE = system(member("etc/", DIR), member("etc/hostname", content=b"base"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store of archives, as users have."""
    return Store(tmp_path / "store", archives=True)


def digest_of(data: bytes, tmp_path: Path) -> str:
    """Return the digest of a tree that is given as an archive."""
    path = tmp_path / "tree.tar"
    path.write_bytes(data)
    return import_image(Store(tmp_path / "other", archives=True), NAME, str(path)).digest


def files_of(store: Store) -> dict[str, str]:
    """Return the kinds of all that an image in a store has, by path."""
    unpack = ["zstd", "-dcq", str(store.directory(NAME) / ARCHIVE)]
    listed = run(["tar", "-tvf", "-"], input=run(unpack).stdout).stdout.splitlines()
    return {line.split(maxsplit=5)[5].removeprefix("./").rstrip("/"): line[0] for line in listed}


def linked(files: Mapping[str, bytes]) -> bytes:
    """Return an archive in which layers are links, as older versions of Docker write them."""
    made = []
    for name, data in files.items():
        if name.endswith(".tar.gz"):
            made += [
                member(f"{sha(data)}/layer.tar", content=data),
                member(name, LINK, linkname=f"{sha(data)}/layer.tar"),
            ]
        else:
            made.append(member(name, content=data))
    return archive(made)


def of_docker_25(layers: Sequence[bytes]) -> dict[str, bytes]:
    """Return the files of an image as Docker writes them since 25: in both forms at once."""
    files = of_oci({"1": layers}, plain)
    told = config(layers)
    paths = [f"blobs/sha256/{sha(layer)}" for layer in layers]
    listed = [{"Config": f"blobs/sha256/{sha(told)}", "RepoTags": ["demo:1"], "Layers": paths}]
    return {**files, "manifest.json": json.dumps(listed).encode(), "repositories": b"{}"}


ONE = {"demo:1": [BASE]}
FORMS = {
    "crane": lambda: tar_of(of_crane(ONE)),
    "crane, zstd": lambda: tar_of(of_crane(ONE, zstd)),
    "crane, packed": lambda: gzip.compress(tar_of(of_crane(ONE))),
    "skopeo": lambda: tar_of(of_crane(ONE, plain)),
    "tar -C": lambda: tar_of(of_crane(ONE), "./"),
    "links": lambda: linked(of_crane(ONE)),
    "docker 25": lambda: tar_of(of_docker_25([BASE])),
    "docker 25, packed": lambda: zstd(tar_of(of_docker_25([BASE]))),
    "podman": lambda: tar_of(of_oci(ONE)),
    "buildah, zstd": lambda: tar_of(of_oci(ONE, zstd), "./"),
    "a directory on top": lambda: tar_of(of_oci(ONE), "layout/"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_known_by_what_is_inside(store: Store, tmp_path: Path, form: str) -> None:
    """Not by what comes first, nor by a name: crane's begins with `sha256:…`."""
    path = tmp_path / "saved"
    path.write_bytes(FORMS[form]())
    record = import_image(store, NAME, str(path))
    assert record.digest == digest_of(BASE, tmp_path)
    assert verify(store, NAME) == record


@pytest.mark.parametrize("pack", [plain, gzip.compress, zstd])
@pytest.mark.parametrize("form", [of_crane, of_oci])
def test_directories_have_the_same_forms(
    store: Store, tmp_path: Path, pack: Pack, form: Callable[..., dict[str, bytes]]
) -> None:
    layout = write(form(ONE, pack), tmp_path / "layout")
    assert import_image(store, NAME, str(layout)).digest == digest_of(BASE, tmp_path)


def test_a_layer_without_a_mark_at_its_end_is_whole(store: Store, tmp_path: Path) -> None:
    """Some builders leave it away; the layer's digest tells whether it is whole."""
    layer = archive([member("etc/passwd", content=b"root")])[:1024]
    (tmp_path / "a").write_bytes(tar_of(of_crane({"x:1": [layer]})))
    import_image(store, NAME, str(tmp_path / "a"))
    assert "etc/passwd" in files_of(store)


# Which of several.

TWO = {"demo:1": [BASE], "demo:2": [BASE, archive([member("etc/two")])]}


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with images of two in all forms; it is the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b.tar").write_bytes(tar_of(of_crane(TWO)))
    (tmp_path / "oci.tar").write_bytes(tar_of(of_oci(TWO)))
    write(of_oci({"one": [BASE], "two": TWO["demo:2"]}), tmp_path / "layout")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "known", "example"),
    [
        ("a:b.tar", "demo:1, demo:2", "docker-archive:a:b.tar:demo:1"),
        ("docker-archive:a:b.tar", "demo:1, demo:2", "docker-archive:a:b.tar:demo:1"),
        ("oci.tar", "demo:1, demo:2", "oci-archive:oci.tar:demo:1"),
        ("layout", "one, two", "oci:layout:one"),
        ("oci:layout", "one, two", "oci:layout:one"),
    ],
)
def test_of_several_images_none_is_taken_unasked(
    store: Store, two: Path, source: str, known: str, example: str
) -> None:
    sentence = f"{source}: it has several images ({known}): choose one, as in {example}"
    with pytest.raises(ImageError) as caught:
        import_image(store, NAME, source)
    assert str(caught.value) == sentence
    import_image(store, NAME, example)  # what it says works


@pytest.mark.parametrize(
    "source",
    [
        "docker-archive:a:b.tar:demo:2",
        "docker-archive:a:b.tar:docker.io/library/demo:2",
        "docker-archive:a:b.tar:2",
        "docker-archive:a:b.tar:@1",
        "oci-archive:oci.tar:demo:2",
        "oci:layout:two",
        "oci:layout:@1",
    ],
)
def test_one_of_several_is_chosen_as_skopeo_names_it(store: Store, two: Path, source: str) -> None:
    import_image(store, NAME, source)
    assert "etc/two" in files_of(store)


def test_an_image_that_is_not_there_is_told_with_those_that_are(store: Store, two: Path) -> None:
    sentence = (
        "^docker-archive:a:b.tar:demo:3: it has no image demo:3, but demo:1, demo:2: choose one, "
        "as in docker-archive:a:b.tar:demo:1$"
    )
    with pytest.raises(ImageError, match=sentence):
        import_image(store, NAME, "docker-archive:a:b.tar:demo:3")
    with pytest.raises(ImageError, match=r"^oci:nosuch:1: No such file or directory$"):
        import_image(store, NAME, "oci:nosuch:1")


def test_an_image_without_a_name_is_the_only_one_or_has_a_number(
    store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(of_crane({"": [BASE]})))
    assert import_image(store, NAME, str(path)).digest == digest_of(BASE, tmp_path)


def index_of(machines: Sequence[str], tmp_path: Path) -> Path:
    """Return a layout with an image for each machine, and what buildx says of them."""
    files = of_oci(
        {f"x{n}": [BASE, archive([member(f"etc/{m}")])] for n, m in enumerate(machines)}
    )
    listed = json.loads(files["index.json"])["manifests"]
    for one, machine in zip(listed, machines, strict=True):
        one["annotations"] = {}
        one["platform"] = {"os": "linux", "architecture": machine}
    said = {"vnd.docker.reference.type": "attestation-manifest"}
    nowhere = {"os": "unknown", "architecture": "unknown"}
    listed.append({**listed[0], "annotations": said, "platform": nowhere})
    told = json.dumps({"schemaVersion": 2, "manifests": listed}).encode()
    files[f"blobs/sha256/{sha(told)}"] = told
    kind = "application/vnd.oci.image.index.v1+json"
    outer = [{"mediaType": kind, "digest": f"sha256:{sha(told)}", "size": len(told)}]
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": outer}).encode()
    return write(files, tmp_path / "layout")


def test_of_an_image_for_several_machines_that_of_this_one_is_taken(
    store: Store, tmp_path: Path
) -> None:
    here = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    import_image(store, NAME, str(index_of(["s390x", here, "riscv64"], tmp_path)))
    assert f"etc/{here}" in files_of(store)


def test_an_image_that_no_machine_here_can_run_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="it has images for linux/s390x, linux/m68k, and none"):
        import_image(store, NAME, str(index_of(["s390x", "m68k"], tmp_path)))
    assert store.names() == []


def test_for_which_machine_an_image_is_made_is_told(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(tar_of(of_crane(ONE, architecture="s390x")))
    said: list[str] = []
    import_image(store, NAME, str(tmp_path / "a"), Listener(said.append))
    assert any("it is made for s390x" in line for line in said)
    (tmp_path / "b").write_bytes(tar_of(of_crane(ONE, os="windows")))
    with pytest.raises(ImageError, match="it is an image of windows"):
        import_image(store, ImageName("w"), str(tmp_path / "b"))


# What layers mean.


def put_together(*layers: bytes, tmp_path: Path) -> dict[str, str]:
    """Return what an image of layers has, without what every image has."""
    top = archive([member("etc/", DIR)])
    (tmp_path / "l.tar").write_bytes(tar_of(of_crane({"x:1": [top, *layers]}, plain)))
    store = Store(tmp_path / "merged", archives=True)
    import_image(store, NAME, str(tmp_path / "l.tar"))
    found = files_of(store)
    return {p: k for p, k in found.items() if p not in ("", ".", "etc", "dev", "proc", "sys")}


def lower(*more: tuple[tarfile.TarInfo, bytes]) -> bytes:
    return archive([member("a/", DIR), member("a/x"), member("a/y"), member("b"), *more])


CASES = {
    "whiteout": ([lower(), archive([member("a/.wh.x")])], {"a": "d", "a/y": "-", "b": "-"}),
    "whiteout of a directory": ([lower(), archive([member(".wh.a")])], {"b": "-"}),
    "whiteout and again": (
        [lower(), archive([member("a/x"), member("a/.wh.x")])],
        {"a": "d", "a/x": "-", "a/y": "-", "b": "-"},
    ),
    "opaque": (
        [lower(), archive([member("a/", DIR), member("a/z"), member("a/.wh..wh..opq")])],
        {"a": "d", "a/z": "-", "b": "-"},
    ),
    "names of AUFS": (
        [lower(), archive([member(".wh..wh.plnk", DIR), member(".wh..wh.aufs")])],
        {"a": "d", "a/x": "-", "a/y": "-", "b": "-"},
    ),
    "a file hides a directory": ([lower(), archive([member("a")])], {"a": "-", "b": "-"}),
    "a directory hides a file": (
        [lower(), archive([member("b/", DIR), member("b/x")])],
        {"a": "d", "a/x": "-", "a/y": "-", "b": "d", "b/x": "-"},
    ),
    "a directory that is not told hides a link": (
        [archive([member("lib", LINK, linkname="usr/lib")]), archive([member("lib/x")])],
        {"lib": "d", "lib/x": "-"},
    ),
    "absolute names": ([archive([member("/a/b")])], {"a": "d", "a/b": "-"}),
    "a device below /dev": (
        [archive([member("dev/null", tarfile.CHRTYPE), member("x")])],
        {"x": "-"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_layers_are_put_together_as_overlay_file_systems_do(tmp_path: Path, case: str) -> None:
    layers, expected = CASES[case]
    assert put_together(*layers, tmp_path=tmp_path) == expected


def test_a_hard_link_may_be_to_a_file_of_a_layer_below(store: Store, tmp_path: Path) -> None:
    """And the file may go by its first name, or be replaced, in a layer above."""
    layers = [
        archive([member("bin/a", content=b"one", mode=0o4755)]),
        archive(
            [member("bin/b", HARD, linkname="bin/a"), member("bin/c", HARD, linkname="bin/b")]
        ),
        archive([member("bin/.wh.a")]),
    ]
    (tmp_path / "l").write_bytes(tar_of(of_crane({"x:1": layers})))
    wanted = archive(
        [
            member("bin/b", content=b"one", mode=0o4755),
            member("bin/c", HARD, linkname="bin/b"),
        ]
    )
    assert import_image(store, NAME, str(tmp_path / "l")).digest == digest_of(wanted, tmp_path)


REFUSED = {
    "leads out": (archive([member("../x")]), "layer 2 of 2: member ../x leads out of the root"),
    "link to nothing": (
        archive([member("h", HARD, linkname="x"), member("x")]),
        "layer 2 of 2: hard link h leads to x, which is no file before it",
    ),
    "behind a link": (
        archive([member("a", LINK, linkname="/"), member("a/x")]),
        "layer 2 of 2: member a/x lies behind a, which is a link",
    ),
    "device": (archive([member("x", tarfile.CHRTYPE)]), "is a device, which no image may have"),
    "no archive": (b"hello " * 500, "layer 2 of 2: it is no tar archive"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_of_layers_that_are_refused_nothing_is_left(
    store: Store, tmp_path: Path, case: str
) -> None:
    layer, sentence = REFUSED[case]
    (tmp_path / "l").write_bytes(tar_of(of_crane({"x:1": [BASE, layer]})))
    with pytest.raises(ImageError) as caught:
        import_image(store, NAME, str(tmp_path / "l"))
    assert str(caught.value).startswith(f"{tmp_path}/l: ")
    assert sentence in str(caught.value)
    assert os.listdir(store.root) == [".lock"]


def spoilt(files: dict[str, bytes], what: str) -> dict[str, bytes]:
    """Return an image's files, of which something is wrong."""
    layer = next(name for name in files if name.endswith(".tar.gz"))
    if what == "another layer":
        files[layer] = gzip.compress(system())
    elif what == "cut layer":
        files[layer] = files[layer][:-20]
    elif what == "no layer":
        del files[layer]
    elif what == "no configuration":
        del files[next(name for name in files if name.startswith("sha256:"))]
    elif what == "no JSON":
        files["manifest.json"] = b"{"
    elif what == "another kind":
        files["manifest.json"] = b'[{"Layers": 5, "Config": "x"}]'
    elif what == "other tags":
        files["manifest.json"] = b'[{"Layers": [], "Config": "x", "RepoTags": 5}]'
    elif what == "out of it":
        files["manifest.json"] = b'[{"Layers": ["/etc/passwd"], "Config": "../x"}]'
    return files


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("another layer", "layer 1 of 1: its digest is sha256:"),
        ("cut layer", "layer 1 of 1: it ends in the middle"),
        ("no layer", "is not in it"),
        ("no configuration", "is not in it"),
        ("no JSON", "manifest.json is no JSON"),
        ("another kind", "manifest.json in it is not Docker's"),
        ("other tags", "what it says of itself is not as it should be"),
        ("out of it", "../x is not in it"),
    ],
)
def test_an_image_that_is_not_whole_is_damaged(
    store: Store, tmp_path: Path, what: str, why: str
) -> None:
    files = spoilt(of_crane(ONE), what)
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    for source in (tmp_path / "a.tar", write(files, tmp_path / "directory")):
        with pytest.raises(ImageError) as caught:
            import_image(store, NAME, str(source))
        assert str(caught.value).startswith(f"{source} is damaged or cut short (")
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_is_in_a_layout_and_no_system_is_told(store: Store, tmp_path: Path) -> None:
    path = write(of_oci({"chart": [BASE]}, told=b"{}"), tmp_path / "chart")
    with pytest.raises(ImageError, match=r"it has no root file system, but application/vnd"):
        import_image(store, NAME, str(path))


names = st.sampled_from(
    ["a", "b", "a/b", "a/c", "b/c", "a/.wh.b", ".wh.a", "b/.wh..wh..opq", "a/b/c"]
)
kinds = st.sampled_from([DIR, LINK, HARD, tarfile.REGTYPE])
members = st.tuples(names, kinds, st.sampled_from(["a", "b", "a/b"]))
layers = st.lists(st.lists(members, max_size=5), max_size=3)


def named(name: str, kind: bytes, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member("short", kind, linkname="t", pax_headers={"path": name, "linkpath": target})


@given(layers)
def test_whatever_layers_say_the_tree_is_that_of_its_archive_or_refused(
    tmp_path_factory: pytest.TempPathFactory, layers: list[list[tuple[str, bytes, str]]]
) -> None:
    made = [archive(named(*one) for one in layer) for layer in layers]
    where = tmp_path_factory.mktemp("layers")
    (where / "l").write_bytes(tar_of(of_crane({"x:1": [BASE, *made]}, plain)))
    store = Store(where / "store", archives=True)
    try:
        record = import_image(store, NAME, str(where / "l"))
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert verify(store, NAME) == record
    assert not any(".wh." in path for path in files_of(store))
