"""Make and remove the sandbox: a real OAR server, a frontend and nodes, all in containers."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from oar_lxc.linux.mounts import unmount_below
from oar_lxc.linux.resolver import resolver_text
from oar_lxc.linux.run import kill_children, run
from oar_lxc.model.layout import IMAGES
from oar_lxc.sandbox import controllers, homes, host, network
from oar_lxc.sandbox.images import Cache
from oar_lxc.sandbox.machine import Definition, HostMount, Machine, remove_shared_cgroups
from oar_lxc.sandbox.report import Report
from oar_lxc.sandbox.state import SandboxError, Settings, State, locked
from oar_lxc.sandbox.suites import cgroup_version, default
from oar_lxc.setup import bundle, deb, packages

IMAGE = "debian-12"
HOST_PACKAGES = ("lxc", "mmdebstrap", "nftables", "iproute2", "util-linux", "mount")

# Faster than OAR's defaults, as people wait for each job here.
SERVER_SETTINGS = {
    # By default, OAR waits 10 seconds between two calls of the scheduler.
    "SCHEDULER_MIN_TIME_BETWEEN_2_CALLS": "0",
    "FINAUD_FREQUENCY": "30",
    # TakTuk sometimes misses the end of its command; by default it checks again after 1 s.
    "TAKTUK_CMD": "/usr/bin/taktuk -t 30 -s -g 0.1",
}

# Where machines have the package, and what joins them to the server.
DEB = "/root/oar-lxc.deb"
BUNDLE = "/root/oar-lxc-bundle.tar"
_DEB_DIGEST = "/root/oar-lxc.deb.sha256"


class Sandbox:
    """A real OAR cluster on this machine.

    Args:
        state: the sandbox's state directory.
        say: called with each line about the progress.
    """

    def __init__(
        self, state: State | None = None, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.state = state or State()
        self.report = Report(say)
        self.cache = Cache(self.report)

    def machine(self, name: str) -> Machine:
        """Return a machine of the sandbox.

        Raises:
            SandboxError: there is no sandbox, or no machine of this name in it.
        """
        names = self.names()
        if not names:
            raise SandboxError("there is no sandbox: make one with `oar-lxc sandbox up`")
        if name not in names:
            raise SandboxError(f"there is no machine {name}; machines: {', '.join(names)}")
        return Machine(name, self.state)

    def names(self) -> list[str]:
        """Return the names of the sandbox's machines; empty if there is no sandbox."""
        settings = self.state.settings()
        return _names(settings) if settings else []

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes; empty if there is no sandbox."""
        settings = self.state.settings()
        return settings.node_names if settings else []

    def up(self, settings: Settings | None = None) -> None:
        """Build the sandbox, start it, or bring it up to date, whichever is needed.

        Raises:
            SandboxError: that failed, or the sandbox of another checkout runs on this machine.
            UsageError: this machine cannot hold it.
        """
        kept = None if self.state.is_anothers else self.state.settings()
        settings = settings or kept or Settings(suite=default(cgroup_version()))
        settings.check()
        _require_root()
        with locked(self.state.tag, wait=False):
            self._check_owner()
            if not self.state.is_anothers:
                self._refuse_resize(settings)
            self._require_host(settings)
            if self.state.is_anothers:
                self.report.line(f"the sandbox of {self.state.owner} does not run: removing it")
                self._remove()
            self.state.claim()
            self._up(settings)

    def add_image(self, name: str, packages: Sequence[str] = ()) -> None:
        """Give the nodes another image, unless they have an image of this name.

        Args:
            name: ``NAME`` or ``NAME:TAG``; NAME is a ready recipe.
            packages: packages to install besides those of the recipe.
        """
        made = self.cache.container_image(name, packages)
        _share_tree(made, self.state.images / made.name)

    def down(self, purge: bool = False) -> None:
        """Remove the sandbox from the host, and check that nothing of it is left.

        Args:
            purge: remove the caches, too.

        Raises:
            SandboxError: something is left; the message says what.
        """
        _require_root()
        with locked(self.state.tag, wait=False):
            self._check_owner()
            self._remove()
            if purge:
                with self.report.step("removing the caches"):
                    self.cache.purge()

    def _check_owner(self) -> None:
        """Refuse the sandbox of another checkout if one of its machines runs."""
        if any(machine.running for machine in self._existing()):
            self.state.check_owner()

    def _remove(self) -> None:
        machines = self._existing()
        if machines:
            with self.report.step(f"removing {len(machines)} machines"):
                _parallel(Machine.remove, machines)
        remove_shared_cgroups()
        controllers.release(self.state)
        network.down(self.state)
        if self.state.exists:
            unmount_below(self.state.root)
            shutil.rmtree(self.state.root)
        left = [
            *network.leftovers(self.state),
            *(str(cgroup) for machine in machines for cgroup in machine.cgroups()),
        ]
        if left:
            raise SandboxError(f"the sandbox is not gone, left are: {', '.join(left)}")

    def status(self) -> dict[str, object]:
        """Return the facts about the sandbox, for people and for JSON."""
        settings = self.state.settings()
        if settings is None:
            return {"state": "absent", "machines": []}
        where = network.addresses(self.state)
        machines = []
        for name in _names(settings):
            described = Machine(name, self.state).describe()
            machines.append(described | {"address": str(where.of(name))})
        up = all(m["state"] == "running" and m["ready"] for m in machines)
        return {
            "state": "up" if up else "incomplete",
            "owner": self.state.read("owner"),
            "network": str(where.network),
            "suite": settings.suite,
            "cpuset": settings.cpuset,
            "stanza": settings.stanza,
            "cores": settings.cores,
            "machines": machines,
        }

    def _up(self, settings: Settings) -> None:
        package = deb.build(self.state.root / "deb", self.state.checkout)
        names = _names(settings)
        where = network.addresses(self.state)
        machines = [Machine(name, self.state) for name in names]
        self.state.images.mkdir(mode=0o755, exist_ok=True)  # nodes mount this directory
        # Slow work runs in parallel; each part waits only for the parts that it needs.
        with _pool(len(machines) + 1) as pool:
            base = self.cache.base(settings.suite)
            image = pool.submit(self._share_image)  # beside the base, it would only delay it
            self.state.keep(settings)
            homes.make(self.state.homes, self.state.checkout / "jobscripts")
            network.up(self.state, where)
            controllers.keep(self.state)

            def bring(machine: Machine) -> None:
                layers = [self.cache.layer(_role(machine), base), base]
                # The state of a machine that was not completely set up is unknown: make it again.
                if not machine.ready:
                    machine.define(self._definition(machine, layers, where, names))
                machine.start()
                _install(machine, package)

            server, *others = [pool.submit(bring, machine) for machine in machines]
            server.result()
            secrets = self._set_up_server(machines[0], settings, where)
            for future in (*others, image):
                future.result()
        self._join(machines[1:], secrets)
        self._revive_nodes(*machines[:2])

    def _share_image(self) -> None:
        """Give the nodes the image of the containers."""
        _share_tree(self.cache.container_image(IMAGE), self.state.images / IMAGE)

    def _set_up_server(
        self, server: Machine, settings: Settings, where: network.Addresses
    ) -> bytes:
        """Set up the server; return its bundle for the other machines."""
        with self.report.step("setting up the server"):
            self._set_up(server, _server_arguments(settings, where))
        return server.run(["cat", str(bundle.BUNDLE)]).stdout.encode("utf-8", "surrogateescape")

    def _join(self, machines: list[Machine], secrets: bytes) -> None:
        """Set up the machines that are not the server."""

        def join(machine: Machine) -> None:
            machine.write(BUNDLE, secrets, 0o600)
            if machine.name == "frontend":
                self._set_up(machine, ["frontend", "--bundle", BUNDLE])
            else:
                self._set_up(machine, ["node", "--bundle", BUNDLE, "--image", IMAGE])

        with self.report.step(f"setting up {', '.join(machine.name for machine in machines)}"):
            _parallel(join, machines)

    def _revive_nodes(self, server: Machine, frontend: Machine) -> None:
        """Tell OAR that its nodes are alive, as it suspects nodes that stopped with the host."""
        for name in not_alive(frontend.run(["oarnodes", "-s"]).stdout):
            server.run(["oarnodesetting", "-h", name, "-s", "Alive"])
            self.report.line(f"{name}: was not alive to OAR, is now")

    def _set_up(self, machine: Machine, arguments: list[str]) -> None:
        if machine.name != "server":
            homes.add_users(machine)
        result = machine.run(["oar-lxc", "setup", *arguments], timeout=900, check=False)
        if result.status != 0:
            raise SandboxError(
                f"oar-lxc setup {' '.join(arguments)} failed on {machine.name}:\n"
                f"{result.stdout}{result.stderr}"
            )
        machine.mark_ready()
        role_and_outcome = result.stdout.strip().splitlines()[-1]
        self.report.line(f"{machine.name}: {role_and_outcome.partition(': ')[2]}")

    def _definition(
        self,
        machine: Machine,
        layers: Sequence[Path],
        where: network.Addresses,
        names: list[str],
    ) -> Definition:
        mounts = []
        files = {
            "etc/hostname": machine.name + "\n",
            "etc/hosts": where.hosts(names),
            "etc/resolv.conf": resolver_text(),
        }
        if machine.name != "server":
            mounts.append(HostMount(self.state.homes, "home"))
        if _role(machine) == "node":
            storage = self.state.storage / machine.name
            if storage.exists():
                shutil.rmtree(storage)
            (storage / IMAGES).mkdir(parents=True)
            mounts.append(HostMount(storage, "var/lib/oar-lxc"))
            mounts.append(HostMount(self.state.images, f"var/lib/oar-lxc/{IMAGES}"))
            # In a container, the package lxc makes no bridge lxcbr0, but would wait 30 s for it.
            files["etc/default/lxc-net"] = 'USE_LXC_BRIDGE="false"\n'
        return Definition(
            lowers=layers,
            mounts=mounts,
            address=where.of(machine.name),
            prefix=where.network.prefixlen,
            gateway=where.gateway,
            files=files,
        )

    def _existing(self) -> list[Machine]:
        """Return the machines that have a directory, independent of the settings."""
        prefix = Machine("", self.state).lxc_name
        paths = self.state.machines.glob(f"{prefix}*")
        return [Machine(path.name.removeprefix(prefix), self.state) for path in paths]

    def _refuse_resize(self, wanted: Settings) -> None:
        current = self.state.settings()
        if current and (current.nodes, current.cores) != (wanted.nodes, wanted.cores):
            raise SandboxError(
                f"the sandbox has {current.nodes} nodes with {current.cores} cores each: remove "
                "it first with `oar-lxc sandbox down`"
            )
        if current and current.suite != wanted.suite:
            raise SandboxError(
                f"the sandbox has machines of suite {current.suite}: remove it first with "
                "`oar-lxc sandbox down`"
            )

    def _require_host(self, settings: Settings) -> None:
        """Install the packages that the host lacks; refuse a host that lacks something else."""
        here = host.look((self.state.root, self.cache.root), settings)
        new = self.state.settings() is None
        host.refuse(host.problems(here, settings.nodes, new))
        missing = packages.missing(HOST_PACKAGES)
        if missing:
            with self.report.step(f"installing on this machine: {' '.join(missing)}"):
                packages.install(missing)
        host.refuse(host.kernel_problems(self.state.root))


def not_alive(listing: str) -> list[str]:
    """Return the nodes with a resource that is not alive, from what ``oarnodes -s`` prints."""
    names: dict[str, None] = {}
    node = ""
    for line in listing.splitlines():
        # A node's name starts its line, and a colon ends it from OAR 2.6 on; below it, each
        # resource has an indented "ID : STATE".
        if line[:1].strip():
            node = line.strip().removesuffix(":")
        elif ":" in line and line.split(":")[1].strip() != "Alive":
            names[node] = None
    return list(names)


def _names(settings: Settings) -> list[str]:
    return ["server", "frontend", *settings.node_names]


def _role(machine: Machine) -> str:
    return "node" if machine.name.startswith("node") else machine.name


def _server_arguments(settings: Settings, where: network.Addresses) -> list[str]:
    arguments = ["server", "--hostname", "server", "--network", str(where.network)]
    for name in settings.node_names:
        arguments += ["--node", f"{name}={settings.cores}"]
    for key, value in SERVER_SETTINGS.items():
        arguments += ["--set", f"{key}={value}"]
    if not settings.cpuset:
        arguments.append("--no-cpuset")
    if not settings.stanza:
        arguments.append("--no-stanza")
    return arguments


def _install(machine: Machine, package: Path) -> None:
    """Install the package as an administrator does, unless the same file is installed."""
    data = package.read_bytes()
    wanted = hashlib.sha256(data).hexdigest()
    if machine.run(["cat", _DEB_DIGEST], check=False).stdout == wanted:
        return
    machine.write(DEB, data)
    machine.run(["dpkg", "--configure", "-a"], timeout=300)
    apt = [*packages.APT_INSTALL, "--reinstall", "--allow-downgrades", DEB]
    machine.run(["env", "DEBIAN_FRONTEND=noninteractive", *apt], timeout=600)
    machine.write(_DEB_DIGEST, wanted.encode())


def _share_tree(source: Path, target: Path) -> None:
    """Copy an image from the cache to the sandbox; files are hard links, directories copies."""
    if target.exists():
        return
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    half = target.with_name(f".half-{target.name}")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, half, ignore_errors=True)
        shutil.rmtree(half, ignore_errors=True)
        try:
            run(["cp", "-al", str(source), str(half)], timeout=300)
        except Exception:
            # The cache is on another file system.
            shutil.rmtree(half, ignore_errors=True)
            run(["cp", "-a", str(source), str(half)], timeout=300)
        half.rename(target)


def _parallel(act: Callable[[Machine], object], machines: Iterable[Machine]) -> None:
    """Call a function for all machines at once; raise the first error after all have ended."""
    with _pool(16) as pool:
        list(pool.map(act, machines))


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads for the block, and wait for them; at Ctrl-C, kill their programs first."""
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            over = threading.Event()
            threading.Thread(target=_kill_until, args=(over,), daemon=True).start()
            pool.shutdown(cancel_futures=True)
            over.set()
            raise


def _kill_until(over: threading.Event) -> None:
    while not over.wait(0.1):
        kill_children()


def _require_root() -> None:
    if os.geteuid() != 0:
        raise SandboxError("the sandbox needs root: it makes containers that are whole machines")
