"""``oar-lxc doctor``: what is broken on a real cluster is told, and what it names mends it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from oar_lxc.sandbox.cluster import BUNDLE
from oar_lxc.sandbox.suites import cgroup_version
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.conftest import cpuset_can_be_on

Findings = list[dict[str, Any]]
TOML = "/etc/oar-lxc/oar-lxc.toml"
OAR_CONF = "/etc/oar/oar.conf"
SSH = "/var/lib/oar/.ssh"
IMAGES = "/var/lib/oar-lxc/store/images"
LXC = "/usr/lib/python3/dist-packages/lxc"
HWLOC = "/usr/bin/hwloc-calc"
PROLOGUE = "/usr/share/oar-lxc/hooks/prologue"
UNITS = "/etc/systemd/system"
FAILING = "/run/systemd/system/oar-lxc-reap.service.d"
PSQL = "runuser -u postgres -- psql -q -d oar -c"
HOLDER = "import socket, time; s = socket.socket(2, 2); s.bind(('', 289)); time.sleep(600)"
END_HOLDER = "ss -Hulnp sport = :289 | grep -o pid=[0-9]* | tr -d pid= | xargs -r kill"


@dataclass(frozen=True)
class Fault:
    """One thing that is broken.

    Attributes:
        check: the name of the check that has to find it.
        how: the shell line that breaks it.
        said: a pattern of what is said.
        back: the shell line that mends it, where what the doctor names is for a person to fill
            in, or too much for a test; without it, what the doctor names has to mend it.
        outcome: how bad it is.
        undo: the shell line that takes back what is left of it after a test.
        cpuset: whether it is one only where OAR's cpuset is on.
        cgroups: the version of cgroups where it is one; 0 for both.
    """

    check: str
    how: str
    said: str
    back: str = ""
    outcome: str = "problem"
    undo: str = "true"
    cpuset: bool = False
    cgroups: int = 0


def changed(check: str, path: str, command: str, said: str, outcome: str = "problem") -> Fault:
    """Change a file by sed, and put back what was there."""
    how = f'cp -a {path} {path}.kept; sed -i "{command}" {path}'
    return Fault(check, how, said, f"mv {path}.kept {path}", outcome)


def covered(check: str, path: str, said: str, outcome: str = "problem", then: str = "") -> Fault:
    """Mount a small file system over a directory, and take it away."""
    how = f"mount -t tmpfs -o size=8m none {path}"
    return Fault(check, f"{how} && {then}" if then else how, said, f"umount {path}", outcome)


# Each group is broken at once, and seen at once.
GROUPS: dict[str, tuple[str, Sequence[Fault]]] = {
    "set-up of a node": ("node2", (
        Fault("oar-node", "systemctl stop oar-node", "service oar-node: start it"),
        Fault("lxcfs", "systemctl stop lxcfs", "service lxcfs: start it"),
        Fault("journal", "rm /etc/systemd/journald.conf.d/60-oar-lxc.conf", "keeps no file"),
        Fault("empty-cgroups", f"rm {UNITS}/-.slice.d/60-oar-lxc.conf", "leaves empty cgroups"),
        Fault("reaper-units", "systemctl disable --now oar-lxc-reap.timer", "enable and start"),
        Fault("node-check", "rm /etc/oar/check.d/oar-lxc", "node check asks the reaper"),
        Fault("directories", "chmod 755 /var/lib/oar-lxc/records", "mode 0700"),
        Fault("lock", "chmod 644 /var/lib/oar/job_manager_lock_file", "mode 0600"),
        Fault("processes", f"rm {UNITS}/oar-node.service.d/10-oar-lxc.conf", "processes as the"),
        Fault("former-lines", "echo alice:1879048192:65536 >>/etc/subuid", "no line for a job"),
        Fault("former-rules", "touch /etc/oar-lxc/nftables.nft", "nftables.nft: remove it"),
        Fault("cpuset-link", "rm -f /dev/cpuset; mkdir /dev/cpuset", "remove the directory",
              cpuset=True, cgroups=1),
        Fault("keys", f"echo >{SSH}/authorized_keys", "user oar's key opens its account"),
        Fault("prepare", f"rm {TOML}", "nodes are prepared by the stanza"),
        Fault("packet-filter", "rm /etc/sysctl.d/60-oar-lxc.conf", "packets are forwarded"),
    )),
    "set-up of the server": ("server", (
        Fault("oar-conf", f"sed -i 's/^EPILOGUE_EXEC_FILE=/#&/' {OAR_CONF}", "what OAR needs"),
        Fault("hooks", f"sed -i 's/^PROLOGUE_EXEC_FILE=/#&/' {OAR_CONF}", "PROLOGUE.* not set"),
        Fault("stanza", "echo >>/etc/oar/job_resource_manager_oar_lxc.pl", "has the stanza"),
        Fault("bundle", "rm /etc/oar-lxc/bundle.tar", "bundle.tar", outcome="warning"),
        Fault("keys", f"sed -i /6667/d {SSH}/known_hosts", "host key of port 6667"),
        Fault("reaper-units", "systemctl stop oar-lxc-sweep.timer", "sweep.timer: start it"),
        Fault("admission", f"{PSQL} \"DELETE FROM admission_rules WHERE rule LIKE '# oar-lxc:%'\"",
              "deploy or cosystem are refused"),
        Fault("oar-server", "systemctl stop oar-server", "service oar-server: start it"),
    )),
    "set-up of a frontend": ("frontend", (
        Fault("keys", f"chmod 640 {SSH}/id_rsa", "mode 0600"),
        Fault("oar-conf", f"sed -i 's/^CPUSET_PATH=/#&/' {OAR_CONF}", "where the server is",
              cpuset=True),
    )),
    "packages": ("frontend", (
        changed("packages", "/var/lib/dpkg/status",
                "/^Package: xauth$/,/^Version/s/^Status:.*/Status: deinstall ok config-files/",
                "apt-get install xauth"),
    )),
    "kernel": ("node2", (
        Fault("forwarding", "nft delete table inet oar_lxc", "no table inet oar_lxc",
              undo="systemctl restart oar-lxc-network"),
        Fault("forwarding", "ip rule del priority 30001", r"rules of jobs \(30001\)"),
        Fault("forwarding", "sysctl -qw net.ipv4.ip_forward=0", "ip_forward is 0"),
        Fault("ports", "sysctl -qw net.ipv4.ip_local_port_range='32768 62000'", "up to 62000",
              undo="sysctl -qw net.ipv4.ip_local_port_range='32768 60999'"),
        Fault("firewall", "nft add table ip site && nft 'add chain ip site forward "
              "{ type filter hook forward priority 0; policy drop; }'",
              "chain forward of table ip site", outcome="warning",
              undo="nft delete table ip site"),
        Fault("vxlan-port", f'setsid python3 -c "{HOLDER}" >/dev/null 2>&1 </dev/null & '
              "until ss -Huln sport = :289 | grep -q .; do sleep 0.1; done",
              "holds UDP port 289", undo=END_HOLDER),
        Fault("pool", "ip address add 100.64.9.1/24 dev eth0", "address 100.64.9.1 of eth0",
              "ip address del 100.64.9.1/24 dev eth0"),
        Fault("fuse", "mount --bind /dev/null /dev/fuse", "another device", "umount /dev/fuse"),
    )),
    "cgroup that is not mounted": ("node2", (
        Fault("cgroups", "umount -l /sys/fs/cgroup/freezer", "freezer is not mounted",
              cpuset=True, cgroups=1),
    )),
    "cpuset that is read-only": ("node2", (
        Fault("cgroups", "mount -o remount,ro,bind /sys/fs/cgroup/cpuset",
              "cannot be written .Read-only file system",
              undo="mount -o remount,rw,bind /sys/fs/cgroup/cpuset", cpuset=True, cgroups=1),
    )),
    "files of a node": ("node2", (
        changed("name-servers", "/etc/resolv.conf", "s/^nameserver.*/nameserver 127.0.0.1/",
                "names no name server"),
        changed("container-ids", "/etc/subuid", r"\$a bob:603979776:100", "gives bob the ids",
                "warning"),
        replace(
            changed("cgroups", "/var/lib/dpkg/status",
                    "/^Package: oar-node/,/^Version/s/^Version:.*/Version: 2.6.9/",
                    "cgroups of version 2"),
            cpuset=True,
            cgroups=1,
        ),
        replace(
            changed("cgroups", "/var/lib/dpkg/status",
                    "/^Package: oar-node/,/^Version/s/^Version:.*/Version: 2.5.9/",
                    "has cgroup version 2. OAR 2.5 knows version 1 only"),
            cpuset=True,
            cgroups=2,
        ),
        Fault("hwloc", f"mv {HWLOC} {HWLOC}.away; ln -s /bin/true {HWLOC}",
              "does not name CPUs", f"mv {HWLOC}.away {HWLOC}", cpuset=True, cgroups=2),
        covered("disk", "/var/log", "/var/log has 0.0 GiB"),
        Fault("lxc", f"mv {LXC} {LXC}.away", "cannot be loaded", f"mv {LXC}.away {LXC}"),
        Fault("programs", f"chmod -x {PROLOGUE}", "prologue cannot", f"chmod +x {PROLOGUE}"),
        Fault("stuck", "echo 'job 42 of alice' >/var/lib/oar-lxc/stuck", "destroy job 42"),
        Fault("node-checks", "echo hot >/var/lib/oar/checklogs/fan", "check fan has failed",
              "rm /var/lib/oar/checklogs/fan"),
    )),
    "reaper that fails": ("node2", (
        Fault("reaper", f"mkdir -p {FAILING} && printf '[Service]\\nExecStart=\\n"
              f"ExecStart=/bin/false\\n' >{FAILING}/fail.conf && systemctl daemon-reload && "
              "! systemctl start oar-lxc-reap", "failed .exit-code",
              f"rm -r {FAILING}; systemctl daemon-reload; systemctl restart oar-lxc-reap"),
    )),
    "configuration": ("node2", (
        changed("configuration", TOML, r"\$a [hook]", "unknown key hook"),
    )),
    "no image": ("node2", (
        covered("images", IMAGES, "no image in", "warning"),
    )),
    "image with a systemd that is too new": ("node2", (
        covered("images", IMAGES, "image new has systemd 258", then="cd /var/lib/oar-lxc/store/"
                "images && mkdir -p new/rootfs/usr/lib/systemd && "
                "touch new/rootfs/usr/lib/systemd/libsystemd-shared-258.so"),
    )),
    "storage": ("node2", (
        covered("storage", "/var/lib/oar-lxc", "is on tmpfs"),
    )),
    "tree on a file system without ids": ("node2", (
        changed("idmaps", TOML, r"\$a [mounts]\ntrees = [\"/srv/tree\", \"/srv/none\"]",
                "/srv/none does not exist", "warning"),
        Fault("idmaps", "mkdir -p /srv/tree && mount -t proc none /srv/tree",
              "/srv/tree cannot be mounted with the ids", "umount /srv/tree", "warning"),
    )),
    "resources": ("server", (
        Fault("nodes", f"{PSQL} \"UPDATE resources SET state = 'Suspected' "
              "WHERE network_address = 'node1'\"", "node1 are Suspected",
              undo="oarnodesetting -h node1 -s Alive"),
        Fault("nodes", "oarnodesetting -h node2 -s Absent", "node2 are Absent", outcome="warning",
              undo="oarnodesetting -h node2 -s Alive"),
        Fault("properties", f"{PSQL} 'ALTER TABLE resources RENAME COLUMN core TO away'",
              "oarproperty -a core",
              f"{PSQL} 'ALTER TABLE resources RENAME COLUMN away TO core'"),
    )),
    "database that is half there": ("server", (
        Fault("database", f"{PSQL} 'ALTER TABLE queues RENAME TO away'", "half there",
              f"{PSQL} 'ALTER TABLE away RENAME TO queues'"),
    )),
    "database that does not run": ("server", (
        Fault("postgresql", "systemctl stop postgresql", "service postgresql: start it"),
    )),
}  # fmt: skip


def sh(cluster: Cluster, machine: str, line: str, check: bool = True) -> None:
    """Run a shell line on a machine as root."""
    cluster.sandbox.machine(machine).run(["sh", "-c", line], check=check, timeout=300)


def doctor(cluster: Cluster, machine: str, *options: str) -> tuple[int, dict[str, Findings]]:
    """Return the exit status, and the findings by machine."""
    argv = ["oar-lxc", "doctor", "--json", *options]
    result = cluster.sandbox.machine(machine).run(argv, check=False, timeout=300)
    assert result.stdout, result.stderr
    reports = json.loads(result.stdout)["machines"]
    return result.status, {report["machine"]: report["findings"] for report in reports}


def checks_of(faults: Sequence[Fault]) -> list[str]:
    """Return the options that let the doctor look for faults alone."""
    return [word for check in {fault.check for fault in faults} for word in ("--check", check)]


def matching(findings: Findings, check: str, said: str) -> Findings:
    """Return the findings of a check that say something, and that something is not well."""
    found = [one for one in findings if one["check"] == check and one["outcome"] != "well"]
    return [one for one in found if re.search(said, one["said"])]


def told(findings: Findings, fault: Fault) -> dict[str, Any]:
    """Return the finding of a fault."""
    found = matching(findings, fault.check, fault.said)
    assert found, (fault, [one for one in findings if one["check"] == fault.check])
    assert found[0]["outcome"] == fault.outcome
    assert found[0]["meaning"]
    assert found[0]["mend"]
    return found[0]


def command_of(finding: dict[str, Any]) -> str:
    """Return the command that a finding names, with the bundle where the sandbox has it."""
    return str(finding["mend"]).replace("bundle.tar", BUNDLE)


@contextmanager
def broken(cluster: Cluster, machine: str, faults: Sequence[Fault]) -> Iterator[None]:
    """Break things for the block; at its end, also where it fails, all is mended."""
    try:
        for fault in faults:
            sh(cluster, machine, fault.how)
        yield
    finally:
        for fault in reversed(faults):
            sh(cluster, machine, fault.back or fault.undo, check=False)


def faults_here(group: str) -> list[Fault]:
    """Return the faults of a group that are some here, by OAR's cpuset and the cgroups."""
    on, version = cpuset_can_be_on(), cgroup_version()
    return [
        fault
        for fault in GROUPS[group][1]
        if (on or not fault.cpuset) and fault.cgroups in (0, version)
    ]


@pytest.mark.parametrize("group", [group for group in GROUPS if faults_here(group)])
def test_what_is_broken_is_told_and_mended_by_what_is_told(cluster: Cluster, group: str) -> None:
    machine, faults = GROUPS[group][0], faults_here(group)
    with broken(cluster, machine, faults):
        status, found = doctor(cluster, machine, *checks_of(faults))
        findings = found[machine]
        commands = [command_of(told(findings, fault)) for fault in faults if not fault.back]
        expected = 1 if any(fault.outcome == "problem" for fault in faults) else 0
        assert status == expected
        for fault in faults:
            told(findings, fault)
        for command in dict.fromkeys(commands):
            sh(cluster, machine, command)
    _, found = doctor(cluster, machine, *checks_of(faults))
    for fault in faults:
        assert matching(found[machine], fault.check, fault.said) == []


def test_a_name_that_does_not_resolve_is_told_and_added(cluster: Cluster) -> None:
    (line,) = (
        line
        for line in cluster.on("server", "cat", "/etc/hosts").stdout.splitlines()
        if "node2" in line.split()
    )
    fault = changed("names", "/etc/hosts", "/node2/d", "node2 does not resolve")
    with broken(cluster, "server", [fault]):
        _, found = doctor(cluster, "server", "--check", "names", "--check", "ssh")
        finding = told(found["server"], fault)
        assert matching(found["server"], "ssh", "node2: its name is unknown here")
        sh(cluster, "server", finding["mend"].replace("ADDRESS", line.split()[0]))
        assert doctor(cluster, "server", "--check", "names", "--check", "ssh")[0] == 0


def test_a_password_that_was_changed_is_told_and_set_again(cluster: Cluster) -> None:
    conf = cluster.on("server", "cat", OAR_CONF).stdout
    password = re.search(r'^DB_BASE_PASSWD="(.*)"', conf, re.MULTILINE)
    assert password
    fault = Fault("database", f"{PSQL} \"ALTER ROLE oar PASSWORD 'x'\"", "does not let OAR in")
    with broken(cluster, "server", [fault]):
        _, found = doctor(cluster, "server", *checks_of([fault]))
        sh(cluster, "server", told(found["server"], fault)["mend"].replace("…", password[1]))
    assert doctor(cluster, "server", *checks_of([fault]))[0] == 0


def test_a_job_that_is_held_up_is_told(cluster: Cluster) -> None:
    job = cluster.submit("true", "core=1")
    job.wait_end()
    state = f"UPDATE jobs SET state = '{{}}' WHERE job_id = {job.id}"
    old = f"UPDATE job_state_logs SET date_start = date_start - 3600 WHERE job_id = {job.id}"
    fault = Fault(
        "jobs",
        f'{PSQL} "{state.format("Finishing")}; {old}"',
        f"job {job.id} is Finishing for 6. minutes",
        f'{PSQL} "{state.format("Terminated")}"',
    )
    with broken(cluster, "server", [fault]):
        _, found = doctor(cluster, "server", *checks_of([fault]))
    assert f"--job {job.id} --user alice" in told(found["server"], fault)["mend"]
    assert doctor(cluster, "server", *checks_of([fault]))[0] == 0


# By what ssh says: where, what is broken, what is said of node2.
UNREACHED = {
    "no sshd": (
        "node2",
        "systemctl stop oar-node; ss -Htlnp sport = :6667 | grep -o pid=[0-9]* | tr -d pid= | "
        "xargs -r kill; "
        "while ss -Htln sport = :6667 | grep -q .; do sleep 0.1; done",
        "nothing listens on port 6667",
    ),
    "no key": ("node2", f"echo >{SSH}/authorized_keys", "it does not accept user oar's key"),
    "another host key": (
        "node2",
        "cd /etc/oar; rm oar_ssh_host_rsa_key*; ssh-keygen -q -t rsa -N '' "
        "-f oar_ssh_host_rsa_key; systemctl restart oar-node",
        "its host key of port 6667 is not the cluster's",
    ),
    "unknown host key": (
        "server",
        f"sed -i /6667/d {SSH}/known_hosts",
        "its host key of port 6667 is unknown here",
    ),
}


@pytest.mark.parametrize("why", UNREACHED)
def test_a_node_that_is_not_reached_is_told_with_what_lets_oar_in(
    cluster: Cluster, why: str
) -> None:
    """The failures with which this project began, among them."""
    where, how, said = UNREACHED[why]
    join = f"oar-lxc setup node --bundle {BUNDLE}"
    undo = join
    if where == "server":
        undo = "oar-lxc setup server" if cluster.cpuset else "oar-lxc setup server --no-cpuset"
    fault = Fault("ssh", how, f"node2: {said}", undo=undo)
    with broken(cluster, where, [fault]):
        status, found = doctor(cluster, "server", "--check", "ssh")
        assert status == 1
        sh(cluster, where, command_of(told(found["server"], fault)))
        assert doctor(cluster, "server", "--check", "ssh")[0] == 0


def test_a_frontend_tells_that_server_or_database_do_not_answer(cluster: Cluster) -> None:
    try:
        sh(cluster, "server", "systemctl stop oar-server postgresql")
        status, found = doctor(cluster, "frontend", "--check", "server")
        said = " ".join(one["said"] for one in found["frontend"])
    finally:
        sh(cluster, "server", "systemctl restart postgresql && systemctl restart oar-server")
    assert status == 1
    assert "OAR's server server does not answer on port 6666" in said
    assert "OAR's database does not answer" in said
    # The server listens a moment after its service has started.
    wait_until("it is well", lambda: doctor(cluster, "frontend", "--check", "server")[0] == 0)


# Broken on node2, and seen where it is compared with the server and node1.
BETWEEN = {
    "prepare": Fault(
        "agreement",
        f"sed -i 's/^prepare.*/prepare = \"prologue\"/' {TOML}",
        "prepare is prologue, and stanza elsewhere",
        undo=f"sed -i 's/^prepare.*/prepare = \"stanza\"/' {TOML}",
    ),
    "cpuset": Fault(
        "agreement",
        f"sed -i 's/^CPUSET_PATH=/#&/' {OAR_CONF}",
        "cpuset is off, and on elsewhere",
        undo=f"sed -i 's/^#CPUSET_PATH=/CPUSET_PATH=/' {OAR_CONF}",
        cpuset=True,
    ),
    "version": changed(
        "agreement",
        "/usr/lib/python3/dist-packages/oar_lxc/__init__.py",
        "s/^__version__ = .*/__version__ = '0.0.9'/",
        "version is 0.0.9",
    ),
    "images": covered("agreement", IMAGES, "lacks image debian-12", "warning"),
    "names": Fault(
        "node-names",
        "cp /etc/hosts /etc/hosts.kept; sed -i 's/.*node1.*/192.0.2.7 node1/' /etc/hosts",
        "the name node1 resolves to 192.0.2.7 here, which node1 does not have",
        "mv /etc/hosts.kept /etc/hosts",
    ),
    "packets": Fault(
        "packets",
        "ip link set dev eth0 mtu 1400",
        "packets of 1500 bytes do not reach node1",
        "ip link set dev eth0 mtu 1500",
    ),
}


@pytest.mark.parametrize("what", BETWEEN)
def test_what_does_not_fit_between_nodes_is_told(cluster: Cluster, what: str) -> None:
    fault = BETWEEN[what]
    if fault.cpuset and not cluster.cpuset:
        fault = replace(
            fault,
            said="cpuset is on, and off elsewhere",
            undo=f"sed -i /^CPUSET_PATH=/d {OAR_CONF}",
            how=f"echo CPUSET_PATH=/oar >>{OAR_CONF}",
        )
    look = ("--everywhere", *checks_of([fault]))
    with broken(cluster, "node2", [fault]):
        _, found = doctor(cluster, "server", *look)
        finding = told(found["node2"], fault)
        if not fault.back:
            sh(cluster, "node2", command_of(finding))
            _, found = doctor(cluster, "server", *look)
            assert matching(found["node2"], fault.check, fault.said) == []
    if fault.back:
        _, found = doctor(cluster, "server", *look)
        assert matching(found["node2"], fault.check, fault.said) == []


def test_a_cluster_that_is_well_has_no_finding_and_is_not_changed(cluster: Cluster) -> None:
    """But what only the host of these nodes sees, and what its kernel lacks."""
    places = "/etc /var/lib/oar-lxc/records"
    look = ["sh", "-c", f"find $(ls -d {places}) -maxdepth 2 -newer /run/before"]
    for machine in ("server", *cluster.nodes):
        sh(cluster, machine, "touch /run/before")
    status, found = doctor(cluster, "server", "--everywhere")
    assert set(found) == {"server", *cluster.nodes}
    others = [
        one
        for findings in found.values()
        for one in findings
        if one["outcome"] != "well" and one["check"] not in ("devices", "neighbours")
    ]
    assert others == []
    assert status in (0, 3)  # by whether the nodes see their kernel's table of neighbours
    changes = {m: cluster.on(m, *look).stdout for m in ("server", *cluster.nodes)}
    assert set(changes.values()) == {""}


def test_a_user_sees_less_and_is_told_so(cluster: Cluster) -> None:
    """Nothing that only root can see is called well or broken."""
    argv = ["oar-lxc", "doctor", "--json"]
    for machine in ("frontend", "node1"):
        result = cluster.sandbox.machine(machine).run(argv, user="alice", check=False)
        (report,) = json.loads(result.stdout)["machines"]
        outcomes = {one["check"]: one["outcome"] for one in report["findings"]}
        assert result.status == 3
        assert "problem" not in outcomes.values()
        assert outcomes["oar-conf"] == outcomes["names"] == "unknown"
        assert outcomes["disk"] == outcomes["system"] == "well"
    assert {outcomes[name] for name in ("images", "idmaps", "firewall", "cgroups")} == {"unknown"}


def test_what_is_told_can_be_read(cluster: Cluster) -> None:
    """A line of what is so, one of what it means, one to type; and a wrong use is status 2."""
    fault = covered("disk", "/var/log", "x")
    with broken(cluster, "frontend", [fault]):
        lines = cluster.on("frontend", "oar-lxc", "doctor", "--check", "disk", check=False).stdout
    assert re.fullmatch(
        r" problem  frontend: disk: /var/log has 0.0 GiB and \d+% of its inodes free\n"
        r" {10}There is no room left for logs: jobs are refused or fail\.\n"
        r" {10}du -xh .*\n"
        r"frontend \(frontend\): 1 problem\n",
        lines,
    )
    wrong = cluster.on("frontend", "oar-lxc", "doctor", "--everywhere", check=False)
    assert wrong.status == 2
    assert "is for the OAR server" in wrong.stderr
