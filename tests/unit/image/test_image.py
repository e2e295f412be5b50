"""Images in stores: found, made whole or not at all, verified, built and removed."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import re
import shlex
import stat
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from oar_lxc.cli import images as cli_images
from oar_lxc.cli.images import image
from oar_lxc.cli.shared import stores as cli_stores
from oar_lxc.errors import ImageError, UsageError
from oar_lxc.image import building as build_module
from oar_lxc.image import importing
from oar_lxc.image.importing import import_image, verify
from oar_lxc.image.recipes import HERE, RECIPES, Recipe, read_recipe, recipe_for
from oar_lxc.image.record import ImageRecord
from oar_lxc.image.store import Store
from oar_lxc.image.uses import Use, uses_of
from oar_lxc.model.image_name import ImageName
from tests.unit.archives import archive, member, system
from tests.unit.fakes.programs import add_program, invoke, recorded, recorder

NAME = ImageName("mine", "2")


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Return a small archive."""
    path = tmp_path / "small.tar"
    path.write_bytes(system())
    return str(path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store of archives, as users have: nothing in it needs root."""
    return Store(tmp_path / "store/images", archives=True)


@pytest.fixture
def mmdebstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program that writes a small archive in the place of mmdebstrap."""
    log = tmp_path / "calls"
    (tmp_path / "built.tar").write_bytes(system())
    add_program(tmp_path / "bin", "mmdebstrap", recorder(log, f"cat {tmp_path}/built.tar"))
    monkeypatch.setattr(build_module, "in_own_namespaces", list)
    # What the machine's apt is asked takes long.
    monkeypatch.setattr(build_module, "host_sources", lambda suite: [f"deb http://x {suite} main"])
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return log


def half_made(store: Store) -> list[str]:
    return [name for name in os.listdir(store.root) if name.startswith(".half")]


def test_images_are_directories_with_a_root_file_system(tmp_path: Path) -> None:
    for name in ("b", "a", "a@1", ".half.x", "Not-A-Name"):
        (tmp_path / name / "rootfs").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    assert list(map(str, Store(tmp_path).names())) == ["a:1", "a", "b"]
    assert Store(tmp_path / "missing").names() == []


def test_an_unknown_image_is_one_sentence_that_names_those_that_exist(tmp_path: Path) -> None:
    (tmp_path / "a/rootfs").mkdir(parents=True)
    with pytest.raises(ImageError) as caught:
        Store(tmp_path).require(ImageName("b"))
    assert str(caught.value) == f"image b does not exist in {tmp_path}; images there: a"
    with pytest.raises(ImageError, match="images there: none"):
        Store(tmp_path / "missing").require(ImageName("b"))


def test_an_image_is_published_with_its_record_and_found_again(store: Store, source: str) -> None:
    record = import_image(store, NAME, source)
    assert store.names() == [NAME]
    assert store.record(NAME) == record
    assert (record.name, record.tag, record.source) == ("mine", "2", source)
    assert record.digest.startswith("sha256:")
    assert record.files == 6  # with the mount points
    assert sorted(os.listdir(store.directory(NAME))) == ["image.json", "rootfs.tar.zst"]
    assert verify(store, NAME) == record


def test_a_store_that_is_made_is_closed_to_others(store: Store, source: str) -> None:
    import_image(store, NAME, source)
    assert stat.S_IMODE(store.root.parent.stat().st_mode) == 0o700


def test_an_image_never_changes(store: Store, source: str) -> None:
    import_image(store, NAME, source)
    with pytest.raises(ImageError, match=r"image mine:2 exists already .* give another tag"):
        import_image(store, NAME, source)
    import_image(store, ImageName("mine"), source)
    assert store.names() == [NAME, ImageName("mine")]


def damaged(at: int, data: bytes = b"") -> bytes:
    """Return an archive of which a byte is another."""
    whole = bytearray(data or system(member("x", content=b"y" * 5000)))
    whole[at] ^= 0xFF
    return bytes(whole)


CUT = " is damaged or cut short (it ends in the middle)"
REFUSED = {
    "cut": (system(member("x", content=b"y" * 5000))[:4000], CUT),
    "empty": (b"", ": it is empty: look at how it was made"),
    "damaged": (damaged(1024), " is damaged or cut short (the checksum of a header is wrong)"),
    "damaged gzip": (
        damaged(-5, gzip.compress(system())),
        " is damaged or cut short (gzip cannot unpack it)",
    ),
    "cut gzip": (
        gzip.compress(system(member("x", content=os.urandom(5000))))[:4000],
        CUT,
    ),
    "cut xz": (
        lzma.compress(system(member("x", content=os.urandom(5000))))[:4000],
        CUT,
    ),
    "hostile": (archive([member("../x")]), ": member ../x leads out of the root by '..'"),
    "other": (b"\0hello" * 1000, ": it is no tar archive"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_of_a_source_that_is_refused_nothing_is_left(
    store: Store, tmp_path: Path, kind: str
) -> None:
    """One sentence names the file and what it is, in no other program's words."""
    data, sentence = REFUSED[kind]
    path = tmp_path / "bad.tar"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        import_image(store, NAME, str(path))
    assert str(caught.value).startswith(f"{path}{sentence}")
    assert "\n" not in str(caught.value)
    assert store.names() == []
    assert half_made(store) == []


def test_a_source_that_is_not_there_is_one_sentence(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^/nosuch: No such file or directory$"):
        import_image(store, NAME, "/nosuch")
    with pytest.raises(ImageError, match="it is no root file system"):
        import_image(store, NAME, str(tmp_path))


def test_what_a_killed_import_left_is_removed_by_the_next(store: Store, source: str) -> None:
    left = store.root / ".half-killed"
    (left / "rootfs").mkdir(parents=True)
    (left / ".lock").touch()
    (store.root / ".half-early").mkdir()
    import_image(store, NAME, source)
    assert half_made(store) == []


def test_what_another_import_works_on_is_left_alone(store: Store, source: str) -> None:
    with store.half() as half:
        (half / "file").touch()
        import_image(store, NAME, source)
        assert (half / "file").exists()
    assert half_made(store) == []


def test_of_two_imports_of_one_name_the_second_to_end_is_refused(
    store: Store, source: str
) -> None:
    with store.half() as half:
        (half / "rootfs.tar.zst").touch()
        import_image(store, NAME, source)
        with pytest.raises(ImageError, match="exists already"):
            store.publish(half, ImageRecord("mine", "2"))
    verify(store, NAME)


def test_an_interrupt_leaves_nothing(
    store: Store, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importing, "ingest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        import_image(store, NAME, source)
    assert os.listdir(store.root) == [".lock"]


def test_an_image_that_was_changed_does_not_verify(store: Store, source: str) -> None:
    import_image(store, NAME, source)
    path = store.directory(NAME) / "image.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "digest": "sha256:" + "0" * 64}))
    with pytest.raises(ImageError, match=r"image mine:2 in .* was changed"):
        verify(store, NAME)
    path.unlink()
    with pytest.raises(ImageError, match="has no digest: import it anew"):
        verify(store, NAME)


def test_an_image_that_is_removed_is_gone(store: Store, source: str) -> None:
    import_image(store, NAME, source)
    store.remove(NAME)
    assert os.listdir(store.root) == [".lock"]
    with pytest.raises(ImageError, match=r"image mine:2 does not exist .*; images there: none"):
        store.remove(NAME)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"digest": "x", "size": -1, "files": true}', '{"halt_signal": "x = y"}'],
)
def test_a_record_is_read_as_far_as_it_is_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "image.json").write_text(text)
    try:
        record = ImageRecord.read(tmp_path, NAME)
    except ImageError as error:
        assert "import" in str(error)  # noqa: PT017
        return
    assert record == ImageRecord("mine", "2")


DIGEST = "sha256:" + "ab" * 32


def mounted(lower: str) -> str:
    """Return the mounts of a container whose root has this lower directory."""
    return (
        "30 1 0:33 / / rw - ext4 /dev/vda rw\n"
        f"31 1 0:34 / / rw,relatime - overlay overlay rw,lowerdir={lower},"
        "upperdir=/x/upper,workdir=/x/work,userxattr\n"
    )


def test_who_uses_an_image_is_read_from_the_mounts_of_processes(tmp_path: Path) -> None:
    """The job is that of the path; its user is told by what root wrote down of it."""
    proc, state = tmp_path / "proc", tmp_path / "state"
    lower = {
        "7": f"{state}/jobs/42/images/mine@2/rootfs",
        "8": f"{state}/jobs/43/images/mine/rootfs",
        "10": f"{state}/jobs/44/containers/.images/{DIGEST[7:]}/rootfs:/other",
        "11": "/home/bob/jobs/45/images/mine@2/rootfs",
        "12": f"{state}/jobs/46/containers/x/images/mine@2/rootfs",
        "13": f"{state}/jobs/42/images/mine@2/rootfs",
    }
    for pid, path in lower.items():
        (proc / pid / "ns").mkdir(parents=True)
        (proc / pid / "ns/mnt").touch()
        (proc / pid / "mountinfo").write_text(mounted(path))
    (proc / "9").mkdir()  # it ended
    (proc / "self").mkdir()
    job = state / "jobs/42/job.json"
    job.parent.mkdir(parents=True)
    job.write_text('{"user": "alice"}')
    owner = "alice" if os.geteuid() == 0 else ""  # what is not root's is not believed
    assert uses_of(NAME, "", state, proc) == [Use(42, owner)]
    assert uses_of(NAME, DIGEST, state, proc) == [Use(42, owner), Use(44, "")]
    assert uses_of(ImageName("mine"), "", state, proc) == [Use(43, "")]
    assert uses_of(ImageName("other"), "", state, proc) == []
    assert [str(use) for use in (Use(42, "alice"), Use(43, ""))] == ["job 42 of alice", "job 43"]


@pytest.mark.parametrize("text", ["", "[]", "{}", "3"])
def test_a_job_of_which_nothing_can_be_read_is_named_by_its_number(
    tmp_path: Path, text: str
) -> None:
    proc, state = tmp_path / "proc", tmp_path / "state"
    (proc / "7/ns").mkdir(parents=True)
    (proc / "7/ns/mnt").touch()
    (proc / "7/mountinfo").write_text(mounted(f"{state}/jobs/42/images/mine@2/rootfs"))
    (state / "jobs/42").mkdir(parents=True)
    (state / "jobs/42/job.json").write_text(text)
    assert uses_of(NAME, "", state, proc) == [Use(42, "")]


# Building.


def built(store: Store) -> ImageRecord:
    return build_module.build_image(store, ImageName("debian-12"), RECIPES["debian-12"])


def test_a_build_is_mmdebstraps_archive(store: Store, mmdebstrap: Path) -> None:
    record = built(store)
    assert record.source == "packages of bookworm"
    call = recorded(mmdebstrap)[0]
    assert call[-3:-1] == ["bookworm", "-"]
    assert any(word.startswith("--include=systemd,systemd-sysv") for word in call)
    verify(store, ImageName("debian-12"))


def test_a_build_starts_from_this_machines_lists_and_makes_no_slow_key(tmp_path: Path) -> None:
    def hooks(recipe: Recipe) -> list[str]:
        command = build_module.mmdebstrap(recipe, tmp_path / "list")
        return [word for word in command if word.startswith("--setup-hook=")]

    lists, key = hooks(RECIPES["debian-12"])
    assert "/var/lib/apt/lists" in lists
    (tmp_path / "etc").mkdir()
    for script in (["-euc", key.partition("=")[2], "sh"], [str(HERE / "debian.sh")]):
        subprocess.run(["sh", *script, str(tmp_path)], check=True)
    assert [path.name for path in (tmp_path / "etc/ssh").iterdir()] == ["sshd_config.d"]
    # The ssh server of busybox makes no keys; other sources have other lists.
    assert hooks(RECIPES["busybox"]) == [lists]
    assert hooks(replace(RECIPES["debian-12"], sources=("deb http://x y main",))) == [key]


def test_a_build_that_fails_leaves_nothing(store: Store, mmdebstrap: Path, tmp_path: Path) -> None:
    add_program(
        tmp_path / "bin", "mmdebstrap", "echo I: begin >&2; echo E: no mirror >&2; exit 25"
    )
    with pytest.raises(ImageError, match=r"^image debian-12: .* its last words: no mirror$"):
        built(store)
    assert os.listdir(store.root) == [".lock"]


def test_what_an_interrupted_build_leaves_is_removed_by_those_who_own_it(
    store: Store, mmdebstrap: Path, tmp_path: Path
) -> None:
    """Files of a job's ids are not the user's, whom Python would tell so by an error."""
    place = tmp_path / "containers"
    place.mkdir()
    calls = tmp_path / "calls"

    def become_root() -> None:  # it is called in each program's process
        with calls.open("a") as file:
            file.write("called\n")

    add_program(tmp_path / "bin", "mmdebstrap", 'mkdir -p "$TMPDIR/system/etc"; sleep 60')

    def follow(last: object) -> None:
        while not list(place.glob("*/system/etc")):
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_module.build_image(
            store,
            ImageName("debian-12"),
            RECIPES["debian-12"],
            build_module.BuildPlace(place, become_root),
            importing.Listener(follow=follow),
        )
    assert list(place.iterdir()) == []
    assert calls.read_text() == "called\n" * 2  # for mmdebstrap, and for the removal


def test_a_build_without_the_program_says_what_to_install(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="apt-get install mmdebstrap"):
        built(store)


def test_there_are_recipes_for_some_names_only(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no recipe debian-99: .* \(debian-12, busybox\)"):
        recipe_for("debian-99")
    assert recipe_for("anything", "busybox") == RECIPES["busybox"]


def test_a_recipe_file_adds_to_a_ready_one(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text('packages = ["gcc"]\nscript = "echo a; echo \'b\'"\n')
    recipe = recipe_for("lab", str(path))
    assert recipe.packages == (*RECIPES["debian-12"].packages, "gcc")
    command = build_module.mmdebstrap(recipe, tmp_path / "list")
    assert any("""chroot "$1" sh -eu -c 'echo a; echo '"'"'b'"'"''""" in word for word in command)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pakages = []", "unknown key pakages; did you mean packages"),
        ("zzz = 1", "unknown key zzz; known: base, suite"),
        ("packages = 'gcc'", "packages is 'gcc'; it is a list of texts"),
        ("packages = ['gcc;reboot']", "packages has 'gcc;reboot', which is no name of a package"),
        ("suite = '--help'", "suite is '--help'; it is a release"),
        ("script = 1", "script is 1; it is a text"),
        ("base = 'x'", "base is 'x'; ready recipes are debian-12, busybox"),
        ("= 1", "Invalid"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_sentence_that_names_file_and_key(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(text + "\n")
    with pytest.raises(ImageError, match=message) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.exit_status == 2


# The command.


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be an ordinary user with a home, outside a job, on a machine without public images."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(cli_stores, "public", lambda: Store(tmp_path / "public"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_a_user_imports_lists_verifies_and_removes_an_image_of_their_own(
    home: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(image, "import", "mine:2", source) == 0
    digest = capsys.readouterr().out.split()[1]
    assert (home / ".local/share/oar-lxc/images/mine@2/rootfs.tar.zst").is_file()
    assert invoke(image, "list", "--json") == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert (facts["image"], facts["whose"], facts["digest"]) == ("mine:2", "own", digest)
    assert invoke(image, "list") == 0
    assert re.search(r"^mine:2 +own +0.0 MB  ", capsys.readouterr().out, re.MULTILINE)
    assert invoke(image, "show", "mine:2", "--json") == 0
    assert json.loads(capsys.readouterr().out) == facts
    assert invoke(image, "verify") == 0
    assert capsys.readouterr().out == f"mine:2 {digest} ok\n"
    assert invoke(image, "rm", "mine:2") == 0
    assert invoke(image, "list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_user_cannot_take_the_name_of_a_public_image(
    home: Path, tmp_path: Path, source: str
) -> None:
    (tmp_path / "public/mine/rootfs").mkdir(parents=True)
    with pytest.raises(ImageError, match="mine is the name of a public image"):
        invoke(image, "import", "mine", source)
    assert invoke(image, "import", "mine:2", source) == 0


def test_that_there_is_nothing_to_verify_is_told_on_standard_error(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(image, "verify") == 0
    assert capsys.readouterr() == ("", "there are no images to verify\n")


@pytest.mark.parametrize("command", ["rm", "verify"])
def test_a_user_does_not_remove_or_verify_a_public_image(
    home: Path, tmp_path: Path, command: str
) -> None:
    (tmp_path / "public/mine/rootfs").mkdir(parents=True)
    with pytest.raises(ImageError, match="image mine is public: only ") as caught:
        invoke(image, command, "mine")
    assert caught.value.exit_status == 1  # what is written is right, and the image is there


@pytest.mark.parametrize("there", ["rootfs.tar", "root fs.tar"])
def test_who_names_the_file_first_is_told_the_order(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(there).write_bytes(system())
    with pytest.raises(UsageError) as caught:
        invoke(image, "import", there, "mine:2")
    assert str(caught.value) == (
        "mine:2: No such file or directory; the image's name comes first: `oar-lxc image import "
        f"mine:2 {shlex.quote(there)}`"
    )


def test_that_there_are_no_images_is_told_on_standard_error(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(image, "list") == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("no images here; public images are on nodes: ")
    assert "`oar-lxc image list --job 42`" in told.err


def test_root_is_told_how_to_make_the_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(cli_stores, "configured", lambda: Store(tmp_path))
    assert invoke(image, "list") == 0
    told = "no images here: `oar-lxc image build` or `import` makes one\n"
    assert capsys.readouterr() == ("", told)
    assert invoke(image, "list", "--store", str(tmp_path)) == 0
    assert capsys.readouterr() == ("", f"no images in {tmp_path}\n")


def test_the_store_of_a_user_goes_with_the_last_image(home: Path, source: str) -> None:
    for name in ("mine:1", "mine:2"):
        assert invoke(image, "import", name, source) == 0
    assert invoke(image, "rm", "mine:1") == 0
    assert (home / ".local/share/oar-lxc/images/mine@2").is_dir()
    (home / ".local/share/oar-lxc/images/.half-killed").mkdir()
    assert invoke(image, "rm", "mine:2") == 0
    assert os.listdir(home / ".local/share") == []


def test_an_import_that_fails_leaves_no_store(home: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"no archive")
    with pytest.raises(ImageError):
        invoke(image, "import", "mine", str(tmp_path / "bad.tar"))
    assert os.listdir(home / ".local/share") == []


def test_a_store_may_go_while_others_make_it(tmp_path: Path) -> None:
    """Whoever comes meanwhile has one all the same, and an image in it stays."""
    store = Store(tmp_path / "oar-lxc/images", archives=True, transient=True)
    failures: list[BaseException] = []

    def come_and_go() -> None:
        try:
            for _ in range(40):
                with store.half() as half:
                    assert half.is_dir()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert os.listdir(tmp_path) == []


def test_what_is_in_the_place_of_a_store_is_told(home: Path, source: str) -> None:
    place = home / ".local/share/oar-lxc/images"
    place.parent.mkdir(parents=True)
    place.touch()
    with pytest.raises(ImageError, match=f"cannot make the directory {place}: File exists"):
        invoke(image, "import", "mine", source)


def test_that_a_store_may_not_be_made_is_told(source: str) -> None:
    store = Store(Path("/sys/oar-lxc/images"))  # where not even root makes directories
    with pytest.raises(ImageError, match="images in /sys/oar-lxc/images are made by root: "):
        import_image(store, NAME, source)


def test_users_are_told_where_to_build(home: Path) -> None:
    """Only a job has the ids that it takes."""
    with pytest.raises(ImageError, match=r'oarsub -t lxc .*"oar-lxc image build lab:1'):
        invoke(image, "build", "lab:1", "--recipe", "busybox")


def test_the_command_builds(
    home: Path,
    mmdebstrap: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli_images, "_build_place", lambda name: None)
    arguments = ["build", "lab:1", "--recipe", "busybox", "--packages", "gcc,make"]
    assert invoke(image, *arguments, "--suite", "trixie") == 0
    assert capsys.readouterr().out.startswith("lab:1 sha256:")
    call = recorded(mmdebstrap)[0]
    assert "--include=busybox-static,dropbear-bin,gcc,make" in call
    assert call[-3:-1] == ["trixie", "-"]
