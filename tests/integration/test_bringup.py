"""From a spec file to machines that are ready: what succeeds, fails, or is too late."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

from oar_lxc.linux.run import run
from oar_lxc.model.layout import JobLayout
from tests import kernel
from tests.integration.conftest import left_of_containers, published
from tests.integration.jobs import start_program, write_spec
from tests.pretend import PretendJob


def script(job: PretendJob, spec: str, *command: str, **files: str) -> tuple[str, str, int]:
    """Run the job script with a spec file, beside which other files lie."""
    path = Path(write_spec(job, spec))
    for name, text in files.items():
        (path.parent / name.replace("_", ".")).write_text(text)
    done = job.script("--spec", str(path), *(["--", *command] if command else []))
    return done.stdout, done.stderr, done.status


def test_a_script_is_run_in_each_container_before_it_is_ready(job: PretendJob) -> None:
    spec = """
    wait = "test -e /root/made"
    [[group]]
    per_node = 2
    provision = "setup.sh"
    environment = { STAGE = "a b" }
    """
    text = '#!/bin/bash\nset -e\n[ "$(hostname)" = vm1 ] || sleep 1\necho "$STAGE" > /root/made\n'
    out, err, status = script(job, spec, "cat", "/root/made", setup_sh=text)
    assert (err, status) == ("", 0)
    assert sorted(out.splitlines()[-2:]) == ["vm1: a b", "vm2: a b"]
    lines = out.splitlines()
    for name in ("vm1", "vm2"):
        told = [line.split()[-1] for line in lines if line.startswith(f"{name} on ")]
        assert told == ["started", "provisioned", "ready"]


def test_a_script_that_fails_is_told_with_its_last_words_and_nothing_is_left(
    job: PretendJob,
) -> None:
    spec = '[[group]]\nper_node = 2\nprovision = "setup.sh"\n'
    text = "#!/bin/sh\necho about to fail >&2\n[ $(hostname) = vm1 ] || exit 7\n"
    out, err, status = script(job, spec, setup_sh=text)
    assert status == 1
    assert "container vm2 on node" in err
    assert "its provision script ended with 7" in err
    assert "    about to fail" in err
    assert "container vm1" not in err
    assert left_of_containers(job) == []
    assert "connect from" not in out


def test_a_script_that_never_ends_is_ended(job: PretendJob) -> None:
    spec = '[[group]]\nprovision = "setup.sh"\nprovision_timeout = 2\n'
    begin = time.monotonic()
    _, err, status = script(job, spec, setup_sh="#!/bin/sh\necho waiting\nsleep 1000\n")
    assert status == 1
    assert "its provision script did not end within 2 s" in err
    assert "    waiting" in err
    assert time.monotonic() - begin < 30
    assert left_of_containers(job) == []


def test_a_script_without_an_interpreter_is_told(job: PretendJob) -> None:
    spec = '[[group]]\nprovision = "setup.sh"\n'
    _, err, status = script(job, spec, setup_sh="#!/no/such/shell\n")
    assert status == 1
    assert "its provision script ended with 12" in err  # 126 or 127
    assert left_of_containers(job) == []


def test_a_condition_that_never_holds_is_told_with_the_journal(job: PretendJob) -> None:
    spec = 'wait = "systemctl start nosuch.service"\ntimeout = 3\n[[group]]\n'
    _, err, status = script(job, spec)
    assert status == 1
    assert "`systemctl start nosuch.service` did not succeed within 3 s" in err
    assert "systemd[1]" in err  # the end of its journal
    assert left_of_containers(job) == []


def test_a_boot_is_waited_for(job: PretendJob) -> None:
    out, err, status = script(job, 'wait = "boot"\n[[group]]\n', "systemctl", "is-system-running")
    assert (err, status, out.splitlines()[-1]) == ("", 0, "vm1: running")


def test_containers_know_their_job_and_each_other(job: PretendJob) -> None:
    spec = '[[group]]\nname = "a"\nper_node = 2\n[[group]]\nname = "b"\ncores = 1\n'
    out, _, _ = script(job, spec, "sh", "-c", "cat $OAR_LXC_NODEFILE; echo job $OAR_JOB_ID")
    for name in ("a1", "a2", "b1"):
        said = [line.removeprefix(f"{name}: ") for line in out.splitlines() if f"{name}: " in line]
        assert said == ["a1", "a2", "b1", f"job {job.id}"]


def test_a_port_of_the_node_leads_into_a_container(job: PretendJob) -> None:
    spec = 'wait = "ssh"\n[[group]]\nports = ["18022:22"]\n'
    process = job.start(
        [
            "/usr/bin/python3",
            "-c",
            "import sys, time\nfrom oar_lxc import Session, read_spec\nfrom pathlib import Path\n"
            "with Session(read_spec(Path(sys.argv[1]))):\n    print(1, flush=True)\n"
            "    time.sleep(60)",
            write_spec(job, spec),
        ]
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    with socket.create_connection(("127.0.0.1", 18022), timeout=10) as peer:
        assert peer.recv(4) == b"SSH-"
    process.terminate()
    process.communicate(timeout=30)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 18022)) != 0
    assert left_of_containers(job) == []


def test_a_port_that_is_taken_undoes_the_launch(job: PretendJob) -> None:
    with socket.create_server(("0.0.0.0", 18023)):
        _, err, status = script(job, '[[group]]\nports = ["18023:22"]\n')
    assert status == 1
    assert "port 18023 of this node: Address already in use" in err
    assert left_of_containers(job) == []


def test_more_memory_than_the_job_has_is_refused_before_anything_is_made(job: PretendJob) -> None:
    _, err, status = script(job, '[[group]]\nname = "big"\nmemory = "1T"\n')
    assert status == 1
    assert "group big: with container big1, 1048576M of memory are asked for" in err
    assert left_of_containers(job) == []


def test_more_cores_than_the_job_has_are_refused(job: PretendJob) -> None:
    _, err, status = script(job, '[[group]]\nname = "big"\ncores = 7\n')
    assert status == 1
    assert "container big1 would be given core number 7" in err


def test_a_key_of_the_users_opens_a_container(job: PretendJob, tmp_path: Path) -> None:
    key = tmp_path / "key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
    spec = (
        f'wait = "ssh"\n[[group]]\nssh_keys = ["{key.with_suffix(".pub").read_text().strip()}"]\n'
    )
    out, err, _ = script(job, spec, "cat", f"/etc/ssh/authorized_keys.d/{job.user}")
    assert key.with_suffix(".pub").read_text().split()[1] in out, err


UNIT = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/bash -c "hostname > /dev/tcp/{gateway}/{port}"
"""


def test_a_checkpoint_halts_containers_in_order(job: PretendJob) -> None:
    gateway = published(job).gateway.partition("/")[0]
    with socket.create_server((gateway, 0)) as server:
        unit = UNIT.format(gateway=gateway, port=server.getsockname()[1])
        start = "cat > /run/systemd/system/last.service; systemctl start last"
        process, pids = start_program(
            job,
            f"session.wait_ready('boot'); session.run(['sh', '-c', {start!r}], stdin={unit!r}); "
            "print(1, flush=True); session.wait()",
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGUSR2)
        said = set()
        server.settimeout(15)
        for _ in pids:
            peer, _ = server.accept()
            with peer:
                said.add(peer.recv(100))
    process.communicate(timeout=40)
    assert said == {b"vm1\n", b"vm2\n"}  # their services were stopped before they were
    assert process.returncode == 128 + signal.SIGUSR2
    assert all(kernel.is_dead(pid) for pid in pids)
    assert left_of_containers(job) == []


def test_what_befalls_a_container_is_told_while_the_job_waits(job: PretendJob) -> None:
    tell = "lambda node, event: print(event.kind, event.container, flush=True)"
    body = f"session._on_progress = {tell}\n    session.wait()"
    process, pids = start_program(job, body)
    time.sleep(2.5)
    kill = ["kill", "-KILL", str(pids[0])]
    run(kill)
    assert process.stdout is not None
    assert process.stdout.readline() == "stopped vm1\n"
    process.terminate()
    process.communicate(timeout=30)
    assert published(job).user == job.user
    assert JobLayout(job.id).private.exists()


def test_a_script_ends_when_it_ends_whatever_daemon_it_leaves(job: PretendJob) -> None:
    spec = '[[group]]\nprovision = "setup.sh"\nprovision_timeout = 30\n'
    text = "#!/bin/sh\necho begun\nsetsid sh -c 'sleep 2; echo alive; sleep 1000' &\n"
    begin = time.monotonic()
    command = "sleep 3; pgrep -x sleep >/dev/null && cat /var/log/oar-lxc-provision.log"
    out, err, status = script(job, spec, "sh", "-c", command, setup_sh=text)
    assert (err, status) == ("", 0)
    assert out.splitlines()[-2:] == ["vm1: begun", "vm1: alive"]
    assert time.monotonic() - begin < 25
