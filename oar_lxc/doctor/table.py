"""All checks: the name, the machines that have it, and the function that looks."""

from __future__ import annotations

from collections.abc import Collection

from oar_lxc.doctor import kernel, network, nodes, oar, reaper, storage, versions
from oar_lxc.doctor.findings import Check, Outcome, Role
from oar_lxc.doctor.setup_steps import Steps, always, mend_cgroups, mend_database
from oar_lxc.errors import UsageError
from oar_lxc.model.hints import hint

SERVER, FRONTEND, NODE = Role.SERVER, Role.FRONTEND, Role.NODE

ALL = (SERVER, FRONTEND, NODE)

# What set-up establishes: each step of a role's set-up is in one of these, by its title.
SET_UP = (
    Check(
        "system",
        ALL,
        Steps(
            "Debian with systemd",
            "Set-up installs packages with apt, and OAR's services need systemd.",
            always("apt-get install systemd-sysv && reboot"),
        ),
    ),
    Check(
        "role",
        {FRONTEND, NODE},
        Steps(
            "not the OAR server",
            "Nodes and frontends are machines of their own.",
            always("apt-get remove oar-server"),
        ),
    ),
    Check(
        "cgroups",
        {NODE},
        Steps(
            "OAR's cpuset can be on|cgroups are those that containers can have",
            "OAR cannot confine a job here: each job fails, and the node becomes Suspected.",
            mend_cgroups,
            needs_conf=True,
        ),
    ),
    Check(
        "systemd",
        {NODE},
        Steps(
            "systemd makes the cgroups of jobs",
            "No job can be prepared here: OAR and root ask systemd for its cgroups.",
            always("apt-get install dbus && systemctl start dbus"),
        ),
    ),
    Check(
        "hwloc",
        {NODE},
        Steps(
            "OAR can tell systemd a job's CPUs",
            "OAR cannot confine a job here: each job fails, and the node becomes Suspected.",
            always("apt-get install hwloc"),
            needs_conf=True,
        ),
    ),
    Check(
        "cpuset-link",
        {NODE},
        Steps(
            "OAR can make .*",
            "OAR cannot make its cpusets where it looks for them.",
            needs_conf=True,
        ),
    ),
    Check(
        "storage",
        {NODE},
        Steps(
            ".* is on a local file system",
            "Containers' own overlays cannot write there: no container starts.",
            always("mount DEVICE /var/lib/oar-lxc"),
        ),
    ),
    Check(
        "packages",
        ALL,
        Steps(
            "packages are installed",
            "A program is missing that OAR or containers need.",
        ),
    ),
    Check(
        "oar-conf",
        ALL,
        Steps(
            "oar.conf says .*",
            "OAR here does not agree with the cluster's server, or does not call the hooks.",
        ),
    ),
    Check(
        "keys",
        ALL,
        Steps(
            "user oar( has|'s key|'s ssh| knows).*|OAR's sshd has .*|the nodes have one .*",
            "OAR's machines do not let each other in: jobs fail and nodes become Suspected.",
        ),
    ),
    Check(
        "lock",
        {NODE},
        Steps(
            "nobody but OAR holds its lock",
            "A user could hold up the start and end of all jobs of this node.",
        ),
    ),
    Check(
        "processes",
        {NODE},
        Steps(
            "jobs may have as many processes.*",
            "All jobs of the node share the few processes that systemd allows a daemon.",
        ),
    ),
    Check(
        "oar-node",
        {NODE},
        Steps(
            "service oar-node runs",
            "OAR's server does not reach this node: it becomes Suspected.",
        ),
    ),
    Check(
        "prepare",
        {NODE},
        Steps(
            "nodes are prepared by .*",
            "Jobs of type lxc are not prepared as the cluster's server expects.",
        ),
    ),
    Check(
        "directories",
        {NODE},
        Steps(
            ".* is there",
            "The root side cannot keep records and directories of jobs.",
        ),
    ),
    Check(
        "former-lines",
        {NODE},
        Steps(
            "no line for a job is left.*",
            "Ids of jobs' containers could be used by the users who are named there.",
        ),
    ),
    Check(
        "journal",
        {NODE},
        Steps(
            "the journal keeps no file.*|service systemd-journald runs",
            "A user could fill the node's disk through the journal.",
        ),
    ),
    Check(
        "empty-cgroups",
        {NODE},
        Steps(
            "systemd leaves empty cgroups alone",
            "Containers that are not yet started, or stopped, may lose their cgroups.",
        ),
    ),
    Check(
        "pool",
        {NODE},
        Steps(
            "the network of jobs is used for nothing else",
            "Containers cannot reach what has those addresses, such as a name server.",
            always("editor /etc/oar-lxc/oar-lxc.toml"),
        ),
    ),
    Check(
        "ports",
        {NODE},
        Steps(
            "containers' connections have ports.*",
            "Connections of the node's programs and of containers can get in each other's way.",
            always("sysctl -w net.ipv4.ip_local_port_range='32768 60999'"),
        ),
    ),
    Check(
        "packet-filter",
        {NODE},
        Steps(
            "packets are forwarded|a unit loads the packet filter.*|service oar-lxc-network.*",
            "Containers do not reach the world, or are not kept apart from other jobs.",
        ),
    ),
    Check(
        "former-rules",
        {NODE},
        Steps(
            "rules of version 0.1.0.*",
            "Two packet filters act on containers.",
        ),
    ),
    Check(
        "lxcfs",
        {NODE},
        Steps(
            "lxcfs tells .*|service lxcfs runs",
            "Containers see all cores and all memory of the node instead of their share.",
        ),
    ),
    Check(
        "node-check",
        {NODE},
        Steps(
            "OAR's node check .*",
            "A node that cannot be cleaned still gets jobs.",
        ),
    ),
    Check(
        "reaper-units",
        {SERVER, NODE},
        Steps(
            "(service )?oar-lxc-(reap|sweep).*",
            "What killed jobs leave is not removed until a later job meets it.",
        ),
    ),
    Check(
        "stanza",
        {SERVER},
        Steps(
            "the job resource manager has the stanza",
            "The server gives nodes an old or a wrong stanza: jobs of type lxc may fail.",
        ),
    ),
    Check(
        "postgresql",
        {SERVER},
        Steps(
            "service postgresql runs",
            "OAR has no database: it takes no jobs.",
        ),
    ),
    Check(
        "database",
        {SERVER},
        Steps(
            "OAR's database exists.*",
            "OAR takes and starts no jobs.",
            mend_database,
        ),
    ),
    Check(
        "properties",
        {SERVER},
        Steps(
            "resources have the properties.*",
            "oarsub refuses requests for cores.",
        ),
    ),
    Check(
        "admission",
        {SERVER, FRONTEND},
        Steps(
            "jobs (may be of type lxc|of type lxc with .*)",
            "oarsub refuses jobs of type lxc, or takes those that cannot work.",
        ),
    ),
    Check(
        "bundle",
        {SERVER},
        Steps(
            ".* has what the other machines need",
            "A machine that is set up with this bundle would not join this cluster.",
            outcome=Outcome.WARNING,
        ),
    ),
    Check(
        "oar-server",
        {SERVER},
        Steps(
            "service oar-server runs",
            "OAR takes and starts no jobs.",
        ),
    ),
)
CHECKS = (
    *SET_UP,
    Check("configuration", {SERVER, NODE}, oar.configuration),
    Check("programs", {SERVER, NODE}, oar.programs),
    Check("disk", ALL, storage.look),
    Check("names", ALL, network.names),
    Check("hooks", {SERVER}, oar.hooks),
    Check("nodes", {SERVER}, oar.nodes),
    Check("jobs", {SERVER}, oar.jobs),
    Check("ssh", {SERVER}, nodes.reachable),
    Check("server", {FRONTEND}, oar.server),
    Check("reaper", {SERVER, NODE}, reaper.runs),
    Check("stuck", {NODE}, reaper.stuck),
    Check("node-checks", {NODE}, reaper.node_checks),
    Check("lxc", {NODE}, versions.lxc),
    Check("images", {NODE}, versions.images),
    Check("devices", {NODE}, kernel.devices),
    Check("overlay", {NODE}, kernel.overlay),
    Check("fuse", {NODE}, kernel.fuse),
    Check("namespaces", {NODE}, kernel.namespaces),
    Check("idmaps", {NODE}, kernel.idmaps),
    Check("forwarding", {NODE}, network.forwarding),
    Check("firewall", {NODE}, network.firewall),
    Check("name-servers", {NODE}, network.name_servers),
    Check("neighbours", {NODE}, network.neighbours),
    Check("container-ids", {NODE}, network.container_ids),
    Check("vxlan-port", {NODE}, network.vxlan_port),
    # From the server alone, which tells each node the names of the others.
    Check("packets", {NODE}, network.packets, needs_peers=True),
)
# Of a comparison of the nodes, by the server; see oar_lxc.doctor.compare.
COMPARED = ("agreement", "node-names", "clock")
NAMES = (*(check.name for check in CHECKS), *COMPARED)


def chosen(names: Collection[str]) -> tuple[Check, ...]:
    """Return the checks of these names; all for none.

    Raises:
        UsageError: there is no check of a name.
    """
    for name in names:
        if name not in NAMES:
            raise UsageError(f"there is no check {name}; {hint(name, NAMES)}")
    return tuple(check for check in CHECKS if not names or check.name in names)
