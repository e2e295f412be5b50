"""Images of users' own, and public ones that are archives: unpacked by the job, as its own."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.cli.shared.stores import refuse_in_use
from oar_lxc.errors import ImageError
from oar_lxc.image.building import build
from oar_lxc.image.importing import import_image
from oar_lxc.image.store import PRIVATE, Store
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.node_log import NodeLog
from oar_lxc.linux.run import Result, run
from oar_lxc.model.config import Config
from oar_lxc.model.image_name import ImageName
from oar_lxc.model.layout import STATE, JobLayout
from oar_lxc.model.spec import LEAST_PROCESSES
from oar_lxc.root.prepare import Preparation
from tests.integration.conftest import containers_of, first_id_of_record, published
from tests.integration.jobs import Running, close, start_script, write_spec
from tests.pretend import PYTHON, PretendJob, checkout
from tests.unit.archives import archive as layer_of
from tests.unit.archives import member as layer_member
from tests.unit.archives import of_crane, tar_of, zstd

OWN = ImageName("own", "1")


@pytest.fixture(scope="module")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the root file system of the recipe busybox."""
    directory = tmp_path_factory.mktemp("busybox")
    directory.chmod(0o755)
    return build("busybox", directory)


@pytest.fixture(scope="module")
def archive(busybox: Path, user: str) -> Path:
    """Return an archive in the user's home, with files of several owners."""
    account = pwd.getpwnam(user)
    path = Path(account.pw_dir) / "own.tar.zst"
    copy = busybox.parent / "copy"
    run(["cp", "-a", str(busybox), str(copy)])
    (copy / "bin/busybox-root").write_bytes((copy / "bin/busybox").read_bytes())
    (copy / "bin/busybox-root").chmod(0o4755)
    (copy / "home/of-1000").touch()
    os.chown(copy / "home/of-1000", 1000, 50)
    run(["tar", "--numeric-owner", "--zstd", "-C", str(copy), "-cf", str(path), "."])
    os.chown(path, account.pw_uid, account.pw_gid)
    return path


def cli(job: PretendJob, *arguments: str) -> Result:
    return job.run([PYTHON, "-m", "oar_lxc.cli.main", "image", *arguments])


@pytest.fixture
def imported(job: PretendJob, archive: Path) -> Iterator[str]:
    """Let the user have an image of their own; return its digest."""
    done = cli(job, "import", str(OWN), str(archive))
    assert done.status == 0, done.stderr
    yield done.stdout.split()[1]
    cli(job, "rm", str(OWN), "--force")


def test_layers_make_the_same_image_for_root_and_for_users(
    job: PretendJob, tmp_path: Path
) -> None:
    """With devices, owners and what a layer takes away; nobody but root can make the first two."""
    lower = layer_of(
        [
            layer_member("etc/shadow", content=b"x", uid=0, gid=42, mode=0o640),
            layer_member("dev/null", tarfile.CHRTYPE),
            layer_member("sbin/init", mode=0o4755, uid=7),
            layer_member("gone"),
        ]
    )
    upper = layer_of([layer_member(".wh.gone"), layer_member("etc/new", uid=1000, gid=1000)])
    path = home_of(job) / "layers.tar"
    path.write_bytes(tar_of(of_crane({"x:1": [lower, upper]}, zstd)))
    path.chmod(0o644)
    digest = import_image(Store(tmp_path / "root"), OWN, str(path)).digest
    rootfs = tmp_path / "root" / OWN.directory / "rootfs"
    assert (rootfs / "etc/shadow").stat().st_gid == 42
    assert (os.listdir(rootfs / "dev"), (rootfs / "gone").exists()) == ([], False)
    done = cli(job, "import", str(OWN), str(path))
    try:
        assert done.stdout == f"{OWN} {digest}\n", done.stderr
        assert "left out 1 device below /dev" in done.stderr
    finally:
        cli(job, "rm", str(OWN), "--force")


def unpacked(job: PretendJob) -> list[str]:
    return [n for n in os.listdir(containers_of(job) / ".images") if not n.startswith(".")]


def home_of(job: PretendJob) -> Path:
    return Path(pwd.getpwnam(job.user).pw_dir)


def test_a_user_makes_an_image_and_containers_of_it_run(job: PretendJob, imported: str) -> None:
    done = job.script("--image", str(OWN), "--per-node", "2", "--wait", "ssh", "--", "id", "-u")
    assert done.status == 0, done.stderr
    assert done.stdout.count(": 0\n") == 2
    assert unpacked(job) == [imported.removeprefix("sha256:")]


def test_a_container_without_an_init_is_one_sentence(job: PretendJob, archive: Path) -> None:
    without = archive.with_name("without-init.tar")
    run(["sh", "-c", f"zstd -dc {archive} >{without}"])
    run(["tar", "--delete", "-f", str(without), "./sbin/init"])
    without.chmod(0o644)
    try:
        assert "has no /sbin/init" in cli(job, "import", str(OWN), str(without)).stderr
        done = job.script("--image", str(OWN), "--", "true")
    finally:
        cli(job, "rm", str(OWN), "--force")
        without.unlink()
    assert done.status == 1
    assert "it has no /sbin/init that can be run: its image needs one" in done.stderr
    assert "ERROR" not in done.stderr


def test_nothing_outside_the_jobs_ids_is_owned_by_the_image(
    job: PretendJob, imported: str
) -> None:
    """What is set-user-id root inside is not so outside; it is of the job's ids."""
    running = start_script(job, "--image", str(OWN))
    try:
        first_id, uid = published(job).first_id, pwd.getpwnam(job.user).pw_uid
        rootfs = containers_of(job) / ".images" / imported.removeprefix("sha256:") / "rootfs"
        for path in (rootfs, *rootfs.rglob("*")):
            owner = path.lstat().st_uid
            assert first_id <= owner < first_id + 65536 or owner == uid, path
        assert (rootfs / "bin/busybox-root").stat().st_uid == first_id
        seen = running.inside("vm1", "stat -c '%u %g %a' /bin/busybox-root /home/of-1000")
        inside = 1000 if uid != 1000 else 0
        assert seen.splitlines() == ["0 0 4755", f"{inside or 1000} 50 644"]
    finally:
        close(running.process)


def test_several_sessions_at_once_unpack_once(job: PretendJob, imported: str) -> None:
    processes = []
    for name in ("a", "b", "c"):
        spec = home_of(job) / f"{name}.toml"
        spec.write_text(f'[[group]]\nname = "{name}"\nimage = "{OWN}"\n')
        spec.chmod(0o644)
        script = str(checkout() / "jobscripts/lxc_job.py")
        processes.append(job.start([PYTHON, script, "--spec", str(spec), "--", "hostname"]))
    told = [process.communicate(timeout=60) for process in processes]
    for name, (out, err) in zip("abc", told, strict=True):
        assert f"{name}1: {name}1\n" in out, err
    assert unpacked(job) == [imported.removeprefix("sha256:")]


@pytest.mark.parametrize("kind", ["digest", "cut", "swapped"])
def test_an_archive_that_was_changed_is_not_used(
    job: PretendJob, imported: str, archive: Path, kind: str
) -> None:
    directory = home_of(job) / PRIVATE / OWN.directory
    if kind == "digest":
        facts = json.loads((directory / "image.json").read_text())
        (directory / "image.json").write_text(
            json.dumps({**facts, "digest": "sha256:" + "1" * 64})
        )
        message = "was changed: its digest is sha256:"
    elif kind == "cut":
        os.truncate(directory / "rootfs.tar.zst", 100_000)
        message = "image own:1 is damaged or cut short (it ends in the middle)"
    else:
        run(
            ["tar", "--zstd", "-C", "/etc", "-cf", str(directory / "rootfs.tar.zst"), "./hostname"]
        )
        message = "was changed: its digest is sha256:"
    done = job.script("--image", str(OWN), "--", "true")
    assert done.status != 0
    assert message in done.stderr
    assert unpacked(job) == []
    assert not (containers_of(job) / ".images/.half").exists()


def test_an_image_in_use_stays(job: PretendJob, imported: str) -> None:
    running = start_script(job, "--image", str(OWN))
    try:
        refused = cli(job, "rm", str(OWN))
        assert refused.status != 0
        assert "image own:1 is in use on this machine, by container vm1" in refused.stderr
        # Root sees it by the mounts; the public image of that name is another one.
        with pytest.raises(ImageError, match=f"by job {job.id} of {job.user}: end it, or"):
            refuse_in_use(OWN, imported)
        assert cli(job, "rm", str(OWN), "--force").status == 0
        assert running.inside("vm1", "echo still there") == "still there"
    finally:
        close(running.process)


def test_a_public_image_in_use_stays(job: PretendJob) -> None:
    name = ImageName("debian-12")
    refuse_in_use(ImageName("other"), "")
    running = start_script(job)
    try:
        # The jobs of a sandbox on this machine have an image of this name, too.
        used = f"image debian-12 is in use on this machine, by .*job {job.id} of {job.user}"
        with pytest.raises(ImageError, match=used):
            refuse_in_use(name, "")
    finally:
        close(running.process)


def test_the_name_of_a_public_image_is_refused(job: PretendJob, archive: Path) -> None:
    done = cli(job, "import", "debian-12", str(archive))
    assert done.status != 0
    assert "is the name of a public image" in done.stderr
    listed = {one["image"]: one["whose"] for one in json.loads(cli(job, "list", "--json").stdout)}
    assert listed["debian-12"] == "public"


def test_an_ordinary_user_imports_an_image_of_oci_with_its_owners(
    job: PretendJob, busybox: Path, tmp_path: Path
) -> None:
    from tests.integration.images import layout_of_oci

    copy = tmp_path / "tree"
    run(["cp", "-a", str(busybox), str(copy)])
    os.chown(copy / "home", 1000, 1001)
    layout = layout_of_oci(copy, tmp_path)
    reference = import_image(Store(tmp_path / "store"), OWN, str(copy))
    theirs = home_of(job) / "oci"
    run(["cp", "-r", layout, str(theirs)])
    run(["chown", "-R", job.user, str(theirs)])
    try:
        done = cli(job, "import", str(OWN), str(theirs))
        assert done.status == 0, done.stderr
        assert done.stdout.split()[1] == reference.digest
    finally:
        cli(job, "rm", str(OWN))
        run(["rm", "-rf", str(theirs)])


@pytest.fixture
def on_shared(unprepared: PretendJob, tmp_path: Path, busybox: Path) -> Iterator[PretendJob]:
    """Return a job on a node whose images are on a file system that cannot shift ids."""
    shared = tmp_path / "shared"
    shared.mkdir()
    # As NFS, ramfs has no idmapped mounts.
    run(["mount", "-t", "ramfs", "-o", "mode=0755", "ramfs", str(shared)])
    try:
        import_image(Store(shared, archives=True), ImageName("packed"), str(busybox))
        import_image(Store(shared), ImageName("plain"), str(busybox))
        job = unprepared
        layout = JobLayout(job.id, STATE)
        Preparation(
            layout, job.user, job.node, [job.node], Config(trees=(), store=shared), job.cgroup
        ).run(NodeLog(bound={}), Deadline.after(20))
        yield job
        job.destroy()
    finally:
        run(["umount", str(shared)])


def test_a_store_that_cannot_shift_ids_serves_archives(on_shared: PretendJob) -> None:
    done = on_shared.script("--image", "packed", "--", "echo", "it runs")
    assert done.status == 0, done.stderr
    assert "vm1: it runs" in done.stdout
    assert first_id_of_record(on_shared) > 0
    refused = on_shared.script("--image", "plain", "--", "true")
    assert refused.status != 0
    assert "ask the administrator to import it with --archive" in refused.stderr


def test_a_small_container_sends_files_and_halts_at_its_signal(
    job: PretendJob, imported: str
) -> None:
    running = start_script(job, "--image", str(OWN))
    try:
        config = (containers_of(job) / "vm1/config").read_text()
        assert "\nlxc.signal.halt = SIGUSR2\n" in config
        assert_links_that_are_named_are_followed(running)
        pid = running.containers()["vm1"]["pid"]
        os.kill(pid, 12)  # SIGUSR2
        end = time.monotonic() + 30
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < end, shlex.quote(Path(f"/proc/{pid}/stat").read_text())
            time.sleep(0.05)
    finally:
        close(running.process)


def test_the_least_of_processes_holds_one_login(job: PretendJob, imported: str) -> None:
    """What has no room for a command says so, with and without a terminal."""
    group = f'name = "vm"\nimage = "{OWN}"\nprocesses = {LEAST_PROCESSES}'
    spec = write_spec(job, f'wait = "ssh"\n[[group]]\n{group}\n')
    running = start_script(job, "--spec", spec)
    try:
        assert running.cli("ssh", "vm1", "hostname").stdout == "vm1\n"
        assert running.inside("vm1", "echo in") == "in"
        line = "echo up; exec sleep 60"
        program = [PYTHON, "-m", "oar_lxc.cli.main"]
        held = job.start([*program, "exec", "vm1", "--", "sh", "-c", line])
        try:
            assert held.stdout is not None
            assert held.stdout.readline() == "up\n"
            full = "processes is 4, which leaves no room for a command: end some inside, or give"
            assert full in running.cli("exec", "vm1", "--", "id").stderr
            shell = " ".join([*program, "shell", "vm1"])
            assert full in job.run(["script", "-qec", shell, "/dev/null"]).stdout
        finally:
            held.terminate()
            held.communicate()
    finally:
        close(running.process)


def assert_links_that_are_named_are_followed(running: Running) -> None:
    """By busybox's tar as by GNU's, which the other tests have."""
    running.inside("vm1", "cd; mkdir d; echo x > d/f; ln -s f d/l; ln -s d to; ln -s d/f far")
    home = home_of(running.job)
    try:
        for name in ("to", "far"):
            copied = running.cli("cp", f"vm1:{name}", str(home))
            assert (copied.status, copied.stderr) == (0, "")
        assert sorted(os.listdir(home / "to")) == ["f", "l"]
        assert not (home / "to").is_symlink()
        assert os.readlink(home / "to/l") == "f"
        assert (home / "far").read_text() == "x\n"
        assert not (home / "far").is_symlink()
    finally:
        run(["rm", "-rf", str(home / "to"), str(home / "far")])
