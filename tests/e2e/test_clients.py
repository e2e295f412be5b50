"""Containers reached from the frontend, with the clients that people use and with oar-lxc."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator

import pytest

from oar_lxc.linux.login_shell import pack
from oar_lxc.linux.run import Result
from oar_lxc.setup.packages import APT_INSTALL
from tests.e2e.cluster import Cluster, SubmittedJob, typed, wait_until
from tests.e2e.conftest import MPI_IMAGE

SCRIPT = "./jobscripts/lxc_job.py"
CLIENTS = ("rsync", "clustershell", "ansible-core")
# What the tests make in the home, where nothing of ours may be for other tests.
LEFTOVERS = [".ssh/config", ".ssh/oar-lxc", ".ansible", "job.yml", "followed"]
LEFTOVERS += ["in", "out", "tree", "sent", "back"]


@pytest.fixture(scope="module", autouse=True)
def _clients(cluster: Cluster) -> None:
    """Let the frontend have what the tests drive from there."""
    install = ["env", "DEBIAN_FRONTEND=noninteractive", *APT_INSTALL, *CLIENTS]
    cluster.sandbox.machine("frontend").run(install, timeout=600)


@pytest.fixture(scope="module")
def job(cluster: Cluster, mpi_image: str) -> Iterator[SubmittedJob]:
    """Return a job with a container on each of two nodes, which plain ssh reaches.

    Its image has what the other end of some clients needs: Python, rsync, mpirun.
    """
    job = cluster.submit(f"{SCRIPT} --image {mpi_image}")
    try:
        job.wait_output("connect from the frontend:")
        assert len(oar(job, "ssh-config", str(job.id), "--install").stdout.split()) == 2
        yield job
    finally:
        cluster.frontend("rm", "-rf", *LEFTOVERS)
        job.delete()
        job.wait_end()


def oar(job: SubmittedJob, *argv: str, user: str = "alice", check: bool = True) -> Result:
    """Run ``oar-lxc`` on the frontend."""
    return job.cluster.frontend("oar-lxc", *argv, user=user, check=check)


def shell(job: SubmittedJob, line: str, check: bool = True) -> Result:
    """Run a shell line on the frontend as alice, with JOB set."""
    return job.cluster.frontend("bash", "-c", f"JOB={job.id}; {line}", check=check, timeout=120)


def test_the_frontend_has_what_the_tutorial_types(cluster: Cluster) -> None:
    found = cluster.frontend("sh", "-c", "man -w oar-lxc oarsub && command -v wget")
    assert len(found.stdout.split()) == 3


def test_ssh_runs_commands_and_passes_their_status(job: SubmittedJob) -> None:
    """No prompt, no warning, no host key unchecked."""
    done = shell(job, "ssh -o BatchMode=yes vm1.$JOB 'hostname; id -u; exit 5'", check=False)
    assert (done.status, done.stdout, done.stderr) == (5, "vm1\n0\n", "")


def test_scp_and_rsync_copy_in_both_directions(job: SubmittedJob) -> None:
    """Bytes stay what they are."""
    done = shell(
        job,
        "rm -rf in out; mkdir in; head -c 3000000 /dev/urandom > in/data;"
        "scp -q in/data vm2.$JOB:scp && scp -q vm2.$JOB:scp in/back && cmp in/data in/back &&"
        "rsync -a in/ vm1.$JOB:tree/ && rsync -a vm1.$JOB:tree/ out/ &&"
        "diff -r in out && echo same",
    )
    assert done.stdout == "same\n"


def test_a_port_is_forwarded(job: SubmittedJob) -> None:
    """An http server in a container, seen at a port of the frontend."""
    done = shell(
        job,
        "ssh vm1.$JOB 'mkdir -p www; echo page > www/x; cd www;"
        " setsid python3 -m http.server 8000 </dev/null >/dev/null 2>&1 &';"
        "ssh -f -N -o ExitOnForwardFailure=yes -L 18080:localhost:8000 vm1.$JOB;"
        "python3 -c 'import urllib.request as u;"
        'print(u.urlopen("http://localhost:18080/x").read())\';'
        "pkill -f 'ssh -f -N -o ExitOnForwardFailure=yes -L 18080'",
    )
    assert done.stdout == "b'page\\n'\n"


def test_clush_runs_a_command_on_all(job: SubmittedJob) -> None:
    done = shell(job, "clush -w vm[1-2].$JOB hostname | sort")
    assert done.stdout == f"vm1.{job.id}: vm1\nvm2.{job.id}: vm2\n"


def test_ansible_pings_all_by_the_inventory(job: SubmittedJob) -> None:
    done = shell(job, "oar-lxc inventory $JOB > job.yml; ansible -o -i job.yml vm -m ping")
    pinged = re.findall(r"^(\S+) \| SUCCESS => .*pong", done.stdout, re.MULTILINE)
    assert sorted(pinged) == [f"vm1.{job.id}", f"vm2.{job.id}"]


def test_mpirun_runs_over_containers_on_two_nodes(job: SubmittedJob) -> None:
    """Started in one of them, as anybody who has a list of hosts does.

    Without ``--map-by``, both would run in one that sees two CPUs, as with OAR's cpuset off.
    """
    hosts = "--hostfile $OAR_LXC_NODEFILE --map-by node"
    mpirun = f"mpirun --allow-run-as-root {hosts} -np 2 hostname"
    done = shell(job, f"ssh vm1.$JOB {shlex.quote(mpirun)} | sort")
    assert done.stdout == "vm1\nvm2\n"


@pytest.mark.parametrize("way", ["ssh -t vm2.{id}", "oar-lxc exec {id}/vm2 --"])
def test_a_terminal_has_the_size_of_ours_also_when_it_changes(job: SubmittedJob, way: str) -> None:
    """As an editor in it needs; line ends are those of any terminal."""
    command = way.format(id=job.id).split()
    # The new size may come a moment after what is typed.
    wait = 'for i in $(seq 50); do [ "$(stty size)" = "44 77" ] && break; sleep 0.1; done'
    script = f"stty size; read x; {wait}; stty size; tty; exit 3"
    inside = shlex.quote(script) if command[0] == "ssh" else script
    done = typed(job.cluster, "33 101", "go\\n", *command, "sh", "-c", inside)
    assert done.status == 3
    assert "33 101\r\n" in done.stdout
    assert "\n44 77\r\n/dev/pts/" in done.stdout


def test_a_terminal_shows_what_the_command_writes_and_no_more(job: SubmittedJob) -> None:
    """But for ssh's own word when a terminal is closed, and the end of input that script types."""
    done = shell(job, 'script -qec "oar-lxc exec $JOB/vm1 -- hostname" /dev/null </dev/null')
    lines = [line for line in done.stdout.splitlines() if not line.startswith("Connection to")]
    assert "".join(lines).replace("^@", "").split() == ["vm1"]


def test_ctrl_c_reaches_the_command(job: SubmittedJob) -> None:
    script = 'trap "echo interrupted; exit 4" INT; echo up; sleep 30 & wait'
    done = typed(
        job.cluster, "up", "\\x03", "oar-lxc", "exec", f"{job.id}/vm1", "--", "sh", "-c", script
    )
    assert done.status == 4
    assert "interrupted" in done.stdout


def test_a_shell_is_one(job: SubmittedJob) -> None:
    done = typed(
        job.cluster, "# ", "echo $((6 * 7)); pwd; exit 7\\n", "oar-lxc", "shell", f"{job.id}/vm1"
    )
    assert done.status == 7
    assert "\r42\r\n/root\r\n" in done.stdout
    piped = shell(job, "echo 'hostname; exit 6' | oar-lxc shell $JOB/vm2", check=False)
    assert (piped.status, piped.stdout) == (6, "vm2\n")


def test_the_console_has_root_logged_in_and_is_left(job: SubmittedJob) -> None:
    """Again and again: whoever was logged in is still there."""
    target = f"{job.id}/vm1"
    for keys in ("n=$((40 + 2))\\n", "", "", "echo n=$n > /root/n; stty size >> /root/n\\n"):
        done = typed(
            job.cluster, "exit the console", f"{keys}\\x01q", "oar-lxc", "console", target
        )
        assert done.status == 0
        assert "console of vm1; leave it with Ctrl-a q" in done.stdout
    wait = "for i in 1 2 3 4 5; do test -s /root/n && break; sleep 1; done; sleep 1; cat /root/n"
    assert oar(job, "exec", target, "--", "sh", "-c", wait).stdout == "n=42\n44 77\n"


def test_bytes_pass_through_exec(job: SubmittedJob) -> None:
    line = (
        "head -c 2000000 /dev/urandom > sent; "
        "oar-lxc exec $JOB/vm2 -- cat < sent > back; cmp sent back && echo same"
    )
    assert shell(job, line).stdout == "same\n"


@pytest.mark.parametrize("number", ["TERM", "KILL", "INT", "HUP"])
def test_a_command_ends_when_whoever_ran_it_is_killed(job: SubmittedJob, number: str) -> None:
    """Though oarsh, between the two, belongs to OAR's user."""
    seconds = 7000 + ["TERM", "KILL", "INT", "HUP"].index(number)
    shell(
        job,
        f"python3 - <<'END'\n"
        f"import os, signal, subprocess, time\n"
        # Who started the tests in the background may ignore it.
        f"signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"argv = ['oar-lxc', 'exec', '{job.id}/vm2', '--', 'sleep', '{seconds}']\n"
        f"running = subprocess.Popen(argv)\n"
        f"look = ['oar-lxc', 'exec', '{job.id}/vm2', '--', 'pgrep', '-f', 'sleep {seconds}']\n"
        f"while subprocess.run(look).returncode: time.sleep(0.1)\n"
        f"running.send_signal(signal.SIG{number})\n"
        f"running.wait(10)\n"
        f"END",
    )

    def gone() -> bool:
        look = ("exec", f"{job.id}/vm2", "--", "pgrep", "-f", f"sleep {seconds}")
        return oar(job, *look, check=False).status == 1

    wait_until("the command has ended", gone)


def test_a_tree_is_copied_in_out_and_between(job: SubmittedJob) -> None:
    line = (
        "rm -rf tree out; mkdir -p tree/sub; head -c 100000 /dev/urandom > tree/sub/x;"
        "ln -s x tree/sub/l; chmod 750 tree/sub; touch 'tree/a b';"
        "oar-lxc cp tree $JOB/vm1:/srv && oar-lxc cp $JOB/vm1:/srv/tree $JOB/vm2:/srv/tree &&"
        "oar-lxc cp $JOB/vm2:/srv/tree out && diff -r tree out && stat -c %a out/sub &&"
        "oar-lxc exec $JOB/vm2 -- stat -c '%U %a' /srv/tree/sub/x"
    )
    assert shell(job, line).stdout == "750\nroot 644\n"


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["{id}/vm1:/no/such", "."], 1, "{id}/vm1:/no/such: No such file or directory"),
        (["no-such", "{id}/vm1:"], 1, "no-such: No such file or directory"),
        (["/etc/hostname", "{id}/vm1:/no/such/x"], 1, "{id}/vm1:/no/such: No such directory"),
        (
            ["{id}/vm9:/x", "."],
            1,
            "container vm9: job {id} has no such container; it has: vm1, vm2",
        ),
        (["a", "b"], 2, "neither a nor b is in a container: write JOB/CONTAINER:PATH"),
        (["{id}/vm1:/etc/hostname", "/root/x"], 1, "/root/x: Permission denied"),
    ],
)
def test_a_copy_that_cannot_be_is_one_sentence(
    job: SubmittedJob, arguments: list[str], status: int, sentence: str
) -> None:
    done = oar(job, "cp", *(a.format(id=job.id) for a in arguments), check=False)
    assert done.status == status
    said = re.sub(r"(?m)^copying: .*\n", "", done.stderr)  # on a machine with other work
    assert said.startswith(f"oar-lxc: {sentence.format(id=job.id)}")
    assert said.count("\n") == 1


def test_a_hostile_container_writes_nowhere_else(job: SubmittedJob) -> None:
    """Its tar sends what it likes."""
    line = (
        "touch /x;"
        "mv /usr/bin/tar /usr/bin/tar.real;"
        "printf '#!/bin/sh\\nexec tar.real -cPf - --transform s,^,./x/../../, /etc/hostname\\n'"
        " > /usr/bin/tar; chmod 755 /usr/bin/tar"
    )
    target = f"{job.id}/vm1"
    oar(job, "exec", target, "--", "sh", "-c", line)
    try:
        shell(job, "rm -rf in; mkdir in")
        done = oar(job, "cp", f"{target}:/x", "in", check=False)
    finally:
        oar(job, "exec", target, "--", "mv", "/usr/bin/tar.real", "/usr/bin/tar")
    assert done.status == 1
    assert "leads out of what was asked for" in done.stderr
    assert shell(job, "find in etc escaped 2>/dev/null", check=False).stdout == "in\n"


def test_what_a_container_is_and_uses_is_shown(job: SubmittedJob) -> None:
    shown = json.loads(oar(job, "show", f"{job.id}/vm2", "--json").stdout)
    assert (shown["name"], shown["state"], shown["image"]) == ("vm2", "RUNNING", MPI_IMAGE)
    assert (shown["group"], shown["node"]) == ("vm", job.cluster.nodes[1])
    assert 22 in shown["listens"]
    assert shown["processes"] > 1
    assert shown["memory"] > 1 << 20
    assert shown["oom_kills"] == 0
    text = oar(job, "show", f"{job.id}/vm2").stdout
    assert "listens at:    22" in text


def test_the_journal_is_printed_and_followed(job: SubmittedJob) -> None:
    target = f"{job.id}/vm1"
    oar(job, "exec", target, "--", "logger", "-t", "test", "first line")
    assert "first line" in oar(job, "logs", "-n", "20", target).stdout
    line = (
        'wait_for() { for i in $(seq 150); do grep -q "$1" followed && return; sleep 0.2; done;'
        " return 1; }; : > followed;"
        f"oar-lxc logs -f -n 1 {target} > followed & wait_for . &&"
        f"oar-lxc exec {target} -- logger -t test second line && wait_for 'second line'; found=$?;"
        "kill $!; wait; exit $found"
    )
    shell(job, line)
    assert oar(job, "logs", "--lxc", target, check=False).status == 0


def test_a_container_is_stopped_started_and_keeps_what_it_had(job: SubmittedJob) -> None:
    target = f"{job.id}/vm2"
    oar(job, "exec", target, "--", "touch", "/srv/kept")
    assert oar(job, "stop", target).stdout.startswith("vm2 on ")
    for command in (["exec", target, "--", "true"], ["logs", target], ["cp", f"{target}:/x", "."]):
        done = oar(job, *command, check=False)
        assert done.status == 1
        assert "it is STOPPED, not RUNNING: start it with `oar-lxc start`" in done.stderr
    refused = shell(job, "ssh -o BatchMode=yes vm2.$JOB true", check=False)
    assert refused.status == 255
    assert "it is STOPPED" in refused.stderr
    oar(job, "start", target)
    assert oar(job, "exec", target, "--", "ls", "/srv/kept").stdout == "/srv/kept\n"
    wait_until("ssh works again", lambda: not shell(job, "ssh vm2.$JOB true", check=False).status)
    oar(job, "restart", target)
    wait_until("ssh works again", lambda: not shell(job, "ssh vm2.$JOB true", check=False).status)


def test_a_frozen_container_runs_on_when_it_is_thawed(job: SubmittedJob) -> None:
    target = f"{job.id}/vm1"
    oar(job, "freeze", target)
    done = oar(job, "exec", target, "--", "true", check=False)
    assert "it is FROZEN, not RUNNING: thaw it with `oar-lxc unfreeze`" in done.stderr
    oar(job, "unfreeze", target)
    assert oar(job, "exec", target, "--", "hostname").stdout == "vm1\n"


COMMANDS = (
    "list {id}",
    "show {id}/vm1",
    "exec {id}/vm1 -- id",
    "shell {id}/vm1",
    "ssh {id}/vm1 id",
    "cp {id}/vm1:/etc/hostname stolen",
    "cp /etc/hostname {id}/vm1:/etc/hostname",
    "logs {id}/vm1",
    "logs --lxc {id}/vm1",
    "start {id}/vm1",
    "stop {id}/",
    "restart {id}/vm1",
    "freeze {id}/vm1",
    "unfreeze {id}/vm1",
    "ssh-config {id}",
    "inventory {id}",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_bob_gets_nowhere(job: SubmittedJob, command: str) -> None:
    """Not with any command; and nothing is written for him."""
    done = oar(job, *command.format(id=job.id).split(), user="bob", check=False)
    assert done.status != 0
    assert done.stdout == ""
    assert f"job {job.id} belongs to alice, not to bob" in done.stderr
    assert done.stderr.count("\n") == 1
    left = job.cluster.frontend("find", ".ssh/oar-lxc", "stolen", user="bob", check=False)
    assert left.stdout == ""


def test_bob_cannot_read_alices_key_or_reach_her_containers(job: SubmittedJob) -> None:
    """Neither from the frontend, nor from a node, by file, attach program or network."""
    cluster = job.cluster
    for path in (".ssh/oar-lxc", f".ssh/oar-lxc/{job.id}/id_ed25519"):
        done = cluster.frontend("cat", f"/home/alice/{path}", user="bob", check=False)
        assert "Permission denied" in done.stderr
    key = cluster.frontend("cat", f".ssh/oar-lxc/{job.id}/id_ed25519").stdout
    assert key.startswith("-----BEGIN")
    found = json.loads(oar(job, "list", str(job.id), "--json").stdout)[0]
    attach = f"python3 -m oar_lxc.agent.attach {job.id} - {pack(('connect', 'vm1'))}"
    node = cluster.sandbox.machine(str(found["node"]))
    refused = node.run(["sh", "-c", attach], user="bob", check=False)
    assert f"job {job.id} belongs to alice, not to bob" in refused.stderr
    greet = f"exec 3<>/dev/tcp/{found['address']}/22; head -1 <&3"
    away = cluster.frontend("timeout", "5", "bash", "-c", greet, user="bob", check=False)
    assert "SSH" not in away.stdout


def test_the_files_for_ssh_go_with_the_job(job: SubmittedJob) -> None:
    """With the end of its session, and after oardel with the next ssh-config."""
    cluster = job.cluster

    def there() -> set[int]:
        return set(map(int, cluster.frontend("ls", ".ssh/oar-lxc").stdout.split()))

    told, killed = (cluster.submit(SCRIPT, "nodes=1/core=1,walltime=0:5:0") for _ in range(2))
    for other in (told, killed):
        other.wait_output("ready")
        oar(job, "ssh-config", str(other.id))
    assert there() == {job.id, told.id, killed.id}
    cluster.frontend("oardel", "-c", str(told.id))
    killed.delete()
    told.wait_end()
    killed.wait_end()
    assert there() == {job.id, killed.id}
    oar(job, "ssh-config", str(job.id))
    assert there() == {job.id}
    ended = oar(job, "ssh-config", str(killed.id), check=False)
    assert f"job {killed.id} has ended" in ended.stderr


def test_a_frozen_container_does_not_outlive_its_job(cluster: Cluster) -> None:
    job = cluster.submit(SCRIPT)
    job.wait_output("connect from the frontend:")
    ids = cluster.first_ids(job)
    cluster.frontend("oar-lxc", "freeze", f"{job.id}/")
    job.delete()
    job.wait_end()
    cluster.assert_nothing_left(job, ids)
