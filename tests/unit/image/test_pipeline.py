"""What comes into a store: nothing that leads out of its root, and all that it should keep."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.errors import ImageError
from oar_lxc.image.importing import import_image
from oar_lxc.image.manifest import Manifest, read_tree
from oar_lxc.image.pipeline import ingest
from oar_lxc.image.record import BUSYBOX_HALT, INIT, OTHER_HALT, SYSTEMD_HALT, halt_signal_of
from oar_lxc.image.store import Store
from oar_lxc.image.tarstream import Reader
from oar_lxc.linux.run import run
from oar_lxc.model.image_name import ImageName
from tests.unit.archives import archive, file_of, member, system

DIR, LINK, HARD, REG = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.REGTYPE


def take(data: bytes, complete: bool = False) -> tuple[Manifest, bytes]:
    """Check an archive; return what it holds and what was handed on."""
    source, output = file_of(data), os.memfd_create("output")
    try:
        manifest = ingest(Reader(source), output, complete=complete)
        return manifest, os.pread(output, 1 << 24, 0)
    finally:
        os.close(source)
        os.close(output)


def long(name: str, kind: bytes = REG, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return a member that has its name in an extended header, where it may have any bytes."""
    return member("short", kind, pax_headers={"path": name}, **fields)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member("/etc/passwd")], "member /etc/passwd has an absolute name"),
        ([member("../x")], "member ../x leads out of the root by '..'"),
        ([member("./a/../../x")], "leads out of the root"),
        ([member("a/..", DIR)], "leads out of the root"),
        ([member("..", DIR)], "leads out of the root"),
        ([member("null", tarfile.CHRTYPE)], "member null is a device"),
        ([member("a/sda", tarfile.BLKTYPE)], "member a/sda is a device"),
        ([member("x"), member("a", HARD, linkname="dev/null")], "leads to dev/null, which is no"),
        ([member("a", LINK, linkname="../x")], "link a leads out of the root, to ../x"),
        ([member("a/b", LINK, linkname="c/../../../x")], "link a/b leads out of the root"),
        ([member("a", LINK)], "link a leads nowhere"),
        ([member("a", LINK, linkname="/"), member("a/x")], "below member a, which is a link"),
        ([member("a", LINK, linkname="b"), member("a/b/c")], "below member a, which is a link"),
        ([member("a"), member("a/x")], "below member a, which is no directory"),
        ([member("a", LINK, linkname="/etc"), member("a", DIR)], "is there twice"),
        ([member("a"), member("./a", DIR)], "member ./a/ is there twice"),
        ([member("a", DIR), member("a")], "member a is there twice"),
        ([member("a", DIR), member("a", LINK, linkname="/")], "member a is there twice"),
        ([member("h", HARD, linkname="/etc/shadow")], "absolute name"),
        ([member("h", HARD, linkname="../x")], "leads out of the root"),
        ([member("h", HARD, linkname="x"), member("x")], "hard link h leads to x, which is no"),
        ([member("h", HARD, linkname="h")], "hard link h leads to h"),
        ([member("d", DIR), member("h", HARD, linkname="d")], "hard link h leads to d"),
        ([member(".", LINK, linkname="x")], "is the root and no directory"),
        ([long("x\0b", LINK, linkname="/etc")], r"member 'x\x00b' has a byte 0 in a name"),
        ([member("a", LINK, pax_headers={"linkpath": "b\0/.."})], "has a byte 0 in a name"),
        ([member("h", HARD, pax_headers={"linkpath": "a\0"})], "has a byte 0 in a name"),
        ([member("a", pax_headers={"SCHILY.xattr.user.a\0": "v"})], "has a byte 0 in a name"),
        ([member("a", uid=65536)], "member a belongs to 65536:0"),
        ([member("a", gid=4_000_000)], "member a belongs to 0:4000000"),
        ([], "nothing in it"),
        ([member("./", DIR)], "nothing in it"),
    ],
)
def test_what_leads_out_of_the_root_is_refused(
    members: list[tuple[tarfile.TarInfo, bytes]], message: str
) -> None:
    with pytest.raises(ImageError) as caught:
        take(archive(members))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_refused_is_not_handed_on() -> None:
    source, output = file_of(archive([member("../x", content=b"evil")])), os.memfd_create("o")
    with pytest.raises(ImageError):
        ingest(Reader(source), output)
    assert os.pread(output, 1 << 16, 0) == b""
    os.close(source)
    os.close(output)


def test_a_name_that_ends_early_for_tar_lets_nothing_out(tmp_path: Path) -> None:
    """Tar takes `x\\0b` for `x`: there would be a link where a directory was checked."""
    made = [member("x", DIR), long("x\0b", LINK, linkname=str(tmp_path)), member("x/evil")]
    for entry, _ in made:
        entry.uid, entry.gid = os.getuid(), os.getgid()
    path = tmp_path / "evil.tar"
    path.write_bytes(archive(made))
    with pytest.raises(ImageError, match="byte 0"):
        import_image(Store(tmp_path / "store"), ImageName("evil"), str(path))
    assert sorted(os.listdir(tmp_path)) == ["evil.tar", "store"]


names = st.sampled_from(
    ["a", "b", "a/b", "a/b/c", "./a", "..", "/x", "a//b", ".", "a/./b", "b/../a", "a\0b"]
)
kinds = st.sampled_from([DIR, LINK, HARD, REG])
targets = st.sampled_from(
    ["/", "..", "a", "b", "../b", "a/b", "/etc", "../../x", "./a", "a\0b", "b\0/../.."]
)
hostile_members = st.lists(st.tuples(names, kinds, targets), max_size=8)


@given(hostile_members)
def test_whatever_goes_through_unpacks_below_its_directory_to_what_was_hashed(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, bytes, str]]
) -> None:
    owner = {"uid": os.getuid(), "gid": os.getgid()}
    # Where names have any bytes.
    made = [
        member("short", k, linkname="t", pax_headers={"path": n, "linkpath": t}, **owner)
        for n, k, t in members
    ]
    try:
        manifest, data = take(archive(made))
    except ImageError:
        return
    outer = tmp_path_factory.mktemp("outer")
    (outer / "root").mkdir()
    run(["tar", "-xpPf", "-", "--no-same-owner", "-C", str(outer / "root")], input=data)
    assert os.listdir(outer) == ["root"]
    found = read_tree(outer / "root")
    assert found.entries.keys() == manifest.entries.keys()
    for entry in (*found.entries.values(), *manifest.entries.values()):
        entry.uid = entry.gid = 0  # missing directories are root's, which a user cannot set
    assert found.digest() == manifest.digest()


def test_of_a_member_that_comes_again_the_last_counts() -> None:
    """As with tar(1), whose --append and --update make such archives; other names stay."""
    data = archive(
        [
            member("a", content=b"first"),
            member("b", HARD, linkname="a"),
            member("c", HARD, linkname="b"),
            member("c", HARD, linkname="a"),
            member("a", HARD, linkname="c"),
            member("./a", content=b"second", mode=0o600),
            member("d", HARD, linkname="c"),
            member("soft", LINK, linkname="a"),
            member("soft", content=b"no link"),
            member("a/", REG, content=b"last"),
        ]
    )
    manifest, handed = take(data)
    wanted = archive(
        [
            member("a", content=b"last"),
            member("b", content=b"first"),
            member("c", HARD, linkname="b"),
            member("d", HARD, linkname="b"),
            member("soft", content=b"no link"),
        ]
    )
    assert manifest.digest() == take(wanted)[0].digest()
    assert take(handed)[0].digest() == manifest.digest()


def test_devices_that_containers_have_anyhow_are_left_out() -> None:
    data = archive(
        [
            member("dev/null", tarfile.CHRTYPE),
            member("dev/block/sda", tarfile.BLKTYPE),
            member("dev/zero", HARD, linkname="dev/null"),
            member("dev/fd", LINK, linkname="/proc/self/fd"),
        ]
    )
    manifest, handed = take(data)
    assert set(manifest.entries) == {b".", b"dev", b"dev/fd"}
    assert manifest.left_out == 3
    assert take(handed)[0].digest() == manifest.digest()


def test_directories_that_are_missing_are_made_and_counted() -> None:
    manifest, data = take(archive([member("usr/lib/x")]), complete=True)
    assert set(manifest.entries) == {
        b".",
        b"usr",
        b"usr/lib",
        b"usr/lib/x",
        b"dev",
        b"proc",
        b"sys",
    }
    again, same = take(data)
    assert again.digest() == manifest.digest()
    assert same == data


def test_the_digest_tells_everything_but_times() -> None:
    def digest(**fields: Any) -> str:
        return take(archive([member("f", **{"content": b"x", **fields})]))[0].digest()

    plain = digest()
    assert digest(mtime=77) == plain
    changed = [
        digest(content=b"y"),
        digest(mode=0o4644),
        digest(uid=1),
        digest(gid=1),
        digest(pax_headers={"SCHILY.xattr.user.a": "b"}),
    ]
    assert len({plain, *changed}) == 6


def test_the_digest_does_not_depend_on_the_order_or_on_which_name_of_a_file_comes_first() -> None:
    one = archive([member("a", content=b"x"), member("b", HARD, linkname="a"), member("c")])
    two = archive([member("c"), member("b", content=b"x"), member("a", HARD, linkname="./b")])
    three = archive([member("a", content=b"x"), member("b", content=b"x"), member("c")])
    digests = [take(data)[0].digest() for data in (one, two, three)]
    assert digests[0] == digests[1] != digests[2]


modes = st.integers(0, 0o7777)
plain: st.SearchStrategy[dict[str, dict[str, Any]]] = st.dictionaries(
    st.text("abc", min_size=1, max_size=2),
    st.one_of(
        st.builds(dict, kind=st.just(REG), content=st.binary(max_size=9), mode=modes),
        st.builds(dict, kind=st.just(LINK), linkname=st.sampled_from(["a", "b/c"])),
        st.builds(dict, kind=st.just(DIR), uid=st.integers(0, 9), mode=modes),
    ),
    min_size=1,
    max_size=8,
)


@given(st.data(), plain)
def test_the_digest_does_not_depend_on_the_order(
    data: st.DataObject, told: dict[str, dict[str, Any]]
) -> None:
    members = [member(name, **fields) for name, fields in told.items()]
    # A directory comes before what is in it, and a file before its other names.
    later = [member(f"{n}/x") for n, fields in told.items() if fields["kind"] == DIR]
    later += [member(f"{n}.", HARD, linkname=n) for n, f in told.items() if f["kind"] == REG]
    one, other = (
        archive([*data.draw(st.permutations(members)), *data.draw(st.permutations(later))])
        for _ in range(2)
    )
    assert take(one)[0].digest() == take(other)[0].digest()


def test_attributes_of_overlay_file_systems_and_security_modules_are_left_out() -> None:
    pax = {
        f"SCHILY.xattr.{name}": "v"
        for name in ("user.overlay.opaque", "trusted.x", "security.selinux", "user.mine")
    }
    manifest, _ = take(archive([member("a", pax_headers=pax)]))
    assert manifest.entries[b"a"].xattrs == {b"user.mine": b"v"}


def test_an_owner_that_was_only_written_down_is_taken() -> None:
    pax = {"SCHILY.xattr.user.rootlesscontainers": "\x08\x0a\x10\x0b"}
    manifest, _ = take(archive([member("a", pax_headers=pax)]))
    entry = manifest.entries[b"a"]
    assert (entry.uid, entry.gid, entry.xattrs) == (10, 11, {})


@pytest.mark.parametrize(
    ("target", "signal"),
    [
        ("/lib/systemd/systemd", SYSTEMD_HALT),
        ("/bin/busybox", BUSYBOX_HALT),
        ("/bin/other", OTHER_HALT),
    ],
)
def test_the_signal_that_halts_is_that_of_the_init(target: str, signal: str) -> None:
    manifest, _ = take(archive([member("sbin/init", LINK, linkname=target)]))
    assert halt_signal_of(manifest) == signal


def merged(*links: tuple[str, str]) -> Manifest:
    """Return a tree with these links, and an init of systemd in usr/lib/systemd."""
    made = [member(name, LINK, linkname=target) for name, target in links]
    return take(archive([member("usr/lib/systemd/systemd"), *made]))[0]


@pytest.mark.parametrize(
    "links",
    [
        [("sbin/init", "/lib/systemd/systemd"), ("lib", "usr/lib")],
        [("usr/sbin/init", "../lib/systemd/systemd"), ("sbin", "usr/sbin")],
        [("usr/bin/init", "../lib/systemd/systemd"), ("sbin", "usr/bin")],
        [("usr/bin/init", "../lib/systemd/systemd"), ("sbin", "usr/sbin"), ("usr/sbin", "bin")],
        [("sbin/init", "/etc/init"), ("etc/init", "/usr/lib/systemd/systemd")],
        [("sbin/init", "/../usr/./lib/systemd/systemd")],
    ],
)
def test_an_init_is_found_through_links(links: list[tuple[str, str]]) -> None:
    """Distributions merge sbin in several ways; a container follows all of them."""
    manifest = merged(*links)
    assert manifest.leads(INIT)
    assert halt_signal_of(manifest) == SYSTEMD_HALT


@pytest.mark.parametrize(
    "links",
    [
        [],
        [("sbin/init", "/lib/systemd/systemd")],
        [("sbin/init", "init")],
        [("sbin/init", "/usr/sbin/init"), ("usr/sbin", "/sbin")],
    ],
)
def test_an_init_that_leads_nowhere_is_none(links: list[tuple[str, str]]) -> None:
    assert not merged(*links).leads(INIT)


def test_what_was_read_is_what_is_on_disk(tmp_path: Path) -> None:
    """A tree's digest is the same as an archive and as a directory."""
    ours: dict[str, Any] = {"uid": os.getuid(), "gid": os.getgid()}
    made = [
        member(".", DIR, mode=0o755, **ours),
        member("d", DIR, mode=0o1777, **ours),
        member("d/big", content=b"z" * 200_000, mode=0o755, **ours),
        member("d/hard", HARD, linkname="d/big"),
        member("d/soft", LINK, linkname="/nowhere", **ours),
        member("d/fifo", tarfile.FIFOTYPE, **ours),
        member("d/empty", pax_headers={"SCHILY.xattr.user.k": "v"}, **ours),
    ]
    manifest, data = take(archive(made))
    argv = ["tar", "-xpPf", "-", "--xattrs", "--xattrs-include=*", "-C", str(tmp_path)]
    run(argv, input=data)
    assert read_tree(tmp_path).digest() == manifest.digest()
    (tmp_path / "d/big").write_bytes(b"z" * 199_999 + b"y")
    assert read_tree(tmp_path).digest() != manifest.digest()


def test_a_small_system_goes_through() -> None:
    assert take(system())[0].size == len(b"#!/bin/sh\n")
