"""Inits other than systemd: they halt in order, as they are told to in their own way."""

from __future__ import annotations

import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.image.importing import import_image
from oar_lxc.image.store import PUBLIC_STORE, Store
from oar_lxc.linux.run import run
from oar_lxc.model.image_name import ImageName
from tests.pretend import PYTHON, PretendJob

SYSVINIT = ImageName("sysvinit", "test")
MARK = r"""
printf '#!/bin/sh\nsu -s /bin/sh %s -c "echo halted >%s/halted"\n' "$1" "$2" >/etc/mark
chmod 755 /etc/mark
sed -i '1i mk:0:wait:/etc/mark' /etc/inittab
until runlevel | grep -q 2; do sleep 0.1; done
"""
PROGRAM = """
import sys, time
from oar_lxc import Group, Session
mark, user, home = sys.argv[1:]
with Session(Group(image="sysvinit:test", total=1, home=True), wait="running") as session:
    said = session.containers[0].run(["sh", "-c", mark, "sh", user, home], timeout=20)
    print(said.status, said.stderr)
    begin = time.monotonic()
    session.stop(grace=30)
    print(round(time.monotonic() - begin))
"""


@pytest.fixture(scope="module")
def sysvinit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put an image of Debian 12 with sysvinit into the public store."""
    archive = tmp_path_factory.mktemp("sysvinit") / "rootfs.tar"
    options = ["--variant=minbase", "--include=sysvinit-core,sysv-rc", "--skip=output/dev"]
    run(["mmdebstrap", *options, "bookworm", str(archive)], timeout=300)
    store = Store(PUBLIC_STORE)
    import_image(store, SYSVINIT, str(archive))
    archive.unlink()
    yield
    store.remove(SYSVINIT)


@pytest.mark.usefixtures("sysvinit")
def test_sysvinit_runs_what_it_has_for_a_halt(job: PretendJob) -> None:
    home = pwd.getpwnam(job.user).pw_dir
    done = job.run([PYTHON, "-c", PROGRAM, MARK, job.user, home])
    assert (done.status, done.stderr) == (0, "")
    status, seconds = done.stdout.split()
    assert status == "0"
    assert Path(home, "halted").read_text() == "halted\n"
    assert int(seconds) < 25
