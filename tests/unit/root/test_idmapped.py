"""Reading mount tables, in which users choose some of the words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.linux.mounts import read_mounts
from oar_lxc.root.idmapped import mounts_under

JOB = Path("/var/lib/oar-lxc/jobs/42")
# All that a name may hold in the kernel's eyes: any byte but / and NUL.
names = st.binary(min_size=1, max_size=12).map(
    lambda b: b.replace(b"/", b"_").replace(b"\0", b"_")
)


def escape(point: bytes) -> bytes:
    """Do as the kernel's seq_path for mountinfo: these four bytes and no others."""
    for byte in (b"\\", b" ", b"\t", b"\n"):
        point = point.replace(byte, b"\\%03o" % byte[0])
    return point


def table(tmp_path: Path, *points: bytes) -> str:
    """Write a mount table; return it as mounts_under wants to be told of a process."""
    lines = [
        b"%d 22 0:%d / %s rw,relatime shared:1 - tmpfs none rw\n" % (number, number, escape(point))
        for number, point in enumerate(points, 100)
    ]
    (tmp_path / "mountinfo").write_bytes(b"".join(lines))
    return f"..{tmp_path}"


def test_mounts_at_and_below_a_directory_are_found_in_their_order(tmp_path: Path) -> None:
    inside = [b"%s" % bytes(JOB), b"%s/images" % bytes(JOB), b"%s/containers/a b\t" % bytes(JOB)]
    process = table(tmp_path, b"/", *inside, b"/var/lib/oar-lxc/jobs")
    assert mounts_under(JOB, process) == [JOB, JOB / "images", JOB / "containers/a b\t"]


@given(st.lists(st.tuples(names, st.sampled_from([b"tmpfs", b"cgroup", b"fuse.x"]))), names)
def test_a_choice_of_mounts_is_what_a_look_at_all_would_choose(
    tmp_path: Path, mounts: list[tuple[bytes, bytes]], below: bytes
) -> None:
    path = tmp_path / "mountinfo"
    lines = [
        b"%d 22 0:1 / /%s/%s rw - %s none rw\n" % (number, escape(below), escape(name), kind)
        for number, (name, kind) in enumerate(mounts)
    ]
    lines += [b"9 22 0:1 / /%sx rw - cgroup none rw\n" % escape(below)]
    path.write_bytes(b"".join(lines))
    everything = list(read_mounts(path))
    top = Path("/", os.fsdecode(below))
    assert list(read_mounts(path, below=top)) == [
        mount for mount in everything if mount.point.is_relative_to(top)
    ]
    assert list(read_mounts(path, kinds=[b"cgroup"])) == [
        mount for mount in everything if mount.kind == "cgroup"
    ]


@pytest.mark.parametrize("other", ["421", "4", "42x", "142", "42/../43", "42\n", "042"], ids=repr)
def test_mounts_of_other_jobs_are_not(tmp_path: Path, other: str) -> None:
    process = table(tmp_path, f"/var/lib/oar-lxc/jobs/{other}/x".encode())
    assert [m for m in mounts_under(JOB, process) if ".." not in m.parts] == []


def test_the_table_of_this_process_can_be_read() -> None:
    assert Path("/") in mounts_under(Path("/"))


@given(st.lists(names, max_size=5), st.lists(names, max_size=3))
def test_any_mount_point_is_read_as_it_is(
    tmp_path: Path, others: list[bytes], inside: list[bytes]
) -> None:
    points = [b"/home/mallory/" + name for name in others]
    points += [bytes(JOB) + b"/containers/" + name for name in inside]
    found = mounts_under(JOB, table(tmp_path, *points))
    assert [bytes(point) for point in found] == [
        bytes(Path(str(JOB) + "/containers") / Path(name.decode("utf-8", "surrogateescape")))
        for name in inside
    ]


@pytest.mark.parametrize(
    "name",
    [
        "a\rb\rc",
        "\r\r\r",
        "x\v1\v2\v3\v4",
        "\u2028a\u2028",
        f"x\r1\v2\v0:3\v/\v{JOB}/images",
        f"x\n1 2 0:3 / {JOB}/images rw - tmpfs none rw",
    ],
    ids=repr,
)
def test_a_name_cannot_pass_for_a_mount_of_a_job(tmp_path: Path, name: str) -> None:
    # Anybody can mount on such a name, in a user namespace of his own.
    process = table(tmp_path, b"/home/mallory/" + name.encode(), bytes(JOB) + b"/images")
    assert mounts_under(JOB, process) == [JOB / "images"]
