"""Jobs, processes and files that have nothing to do with a fault, and whether it touched them."""

from __future__ import annotations

import json
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from oar_lxc.errors import OarLxcError
from tests.e2e.cluster import SubmittedJob
from tests.matrix.row import SCRIPT, UP
from tests.matrix.world import World

USERS = ("bob", "alice")
CANARY_MOUNT = "/run/oar-lxc-matrix-canary"
CANARY_FILE = "/home/bob/matrix-canary"
CANARY_LINE = "canary:165536:65536"
SHARED = ("/etc/subuid", "/etc/subgid")
WORD = "still here"


class Bystanders:
    """One job of each user on the same nodes as the jobs at fault, and canaries beside them.

    Args:
        world: the cluster.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.nodes: tuple[str, ...] = ()
        self.jobs: list[SubmittedJob] = []
        self._first_ids: dict[int, dict[str, int]] = {}
        self._pids: dict[str, int] = {}
        self._baseline: dict[str, str] = {}

    @property
    def ids(self) -> list[int]:
        """The jobs' ids."""
        return [job.id for job in self.jobs]

    @property
    def ready(self) -> bool:
        """Whether they came up as a whole, and nothing is known to have touched them."""
        return bool(self._baseline)

    def ensure(self, away: Collection[str] = ()) -> None:
        """Have them on all nodes but some; those that are there already stay."""
        nodes = tuple(node for node in self.world.nodes if node not in away)
        if nodes == self.nodes and self.ready:
            return
        self.remove()
        self.nodes = nodes
        names = ", ".join(f"'{node}'" for node in nodes)
        resources = f"nodes={len(nodes)}/core=1,walltime=24:0:0"
        for user in USERS:
            where = f"network_address IN ({names})"
            self.jobs.append(self.world.start(SCRIPT, resources, user, where=where))
        for job in self.jobs:
            job.wait_output(UP)
            self._first_ids[job.id] = {
                node: self.world.published(node, job)["first_id"] for node in nodes
            }
            for name in self._names(job):
                script = f"echo '{WORD}' > /root/canary"
                self.world.frontend(
                    "oar-lxc", "exec", f"{job.id}/{name}", "--", "sh", "-c", script, user=job.user
                )
        self._place_canaries()
        self._baseline = self.snapshot()

    def touched(self) -> list[str]:
        """Return what changed since they came up, a line each."""
        now = self.snapshot()
        return [
            f"{key}: was {self._baseline.get(key, 'not there')!r}, is {now.get(key, 'gone')!r}"
            for key in sorted(self._baseline.keys() | now.keys())
            if self._baseline.get(key) != now.get(key)
        ]

    def renew(self) -> None:
        """Forget them, so that the next row has new ones: something touched these."""
        self._baseline = {}

    def remove(self) -> None:
        """Delete the jobs and take away the canaries."""
        ids = set(self.ids)
        if ids:
            self.world.delete_jobs(self.world.unfinished().keys() - ids)
        self.world.everywhere(self._remove_canaries)
        self.nodes, self.jobs, self._pids, self._baseline = (), [], {}, {}
        self._first_ids = {}

    def snapshot(self) -> dict[str, str]:
        """Return all that must not change."""
        with ThreadPoolExecutor(4) as pool:
            nodes = [pool.submit(self._of_node, node) for node in self.nodes]
            jobs = [pool.submit(self._of_job, job) for job in self.jobs]
            found = [future.result() for future in (*nodes, *jobs)]
        return {key: value for part in found for key, value in part.items()}

    def _of_node(self, node: str) -> dict[str, str]:
        jobs = [
            {"id": job.id, "user": job.user, "first_id": self._first_ids[job.id][node]}
            for job in self.jobs
        ]
        answer: dict[str, str] = self.world.ask(
            node,
            "snapshot",
            jobs=jobs,
            pids=[self._pids[node]],
            files=[CANARY_FILE, f"{CANARY_MOUNT}/file"],
            mounts=[CANARY_MOUNT],
            lines=[[path, CANARY_LINE] for path in SHARED],
        )
        return {f"{node}: {key}": value for key, value in answer.items()}

    def _of_job(self, job: SubmittedJob) -> dict[str, str]:
        found = {f"job {job.id} state": job.state}
        for container in self._list(job):
            name = container["name"]
            facts = {key: container[key] for key in ("node", "state", "address", "pid", "cgroup")}
            found[f"job {job.id} {name}"] = json.dumps(facts)
            try:
                target = f"{job.id}/{name}"
                command = ("oar-lxc", "exec", target, "--", "cat", "/root/canary")
                said = self.world.frontend(*command, user=job.user, check=False).stdout
            except OarLxcError as error:
                said = str(error)
            found[f"job {job.id} {name} exec"] = said
        return found

    def _list(self, job: SubmittedJob) -> list[dict[str, Any]]:
        command = ("oar-lxc", "list", str(job.id), "--json")
        result = self.world.frontend(*command, user=job.user, check=False)
        return json.loads(result.stdout) if result.status == 0 else []

    def _names(self, job: SubmittedJob) -> list[str]:
        return [container["name"] for container in self._list(job)]

    def _place_canaries(self) -> None:
        script = f"echo '{WORD}' > {CANARY_FILE}"
        self.world.as_user("frontend", "bob", "sh", "-c", script)

        def place(node: str) -> int:
            lines = "; ".join(f"echo {CANARY_LINE} >> {path}" for path in SHARED)
            script = (
                f"mkdir -p {CANARY_MOUNT} && mount -t tmpfs -o size=64k canary {CANARY_MOUNT} && "
                f"echo '{WORD}' > {CANARY_MOUNT}/file; {lines}"
            )
            self.world.on(node, "sh", "-ec", script)
            sleep = "setsid sleep 1000000 </dev/null >/dev/null 2>&1 & echo $!"
            pid = self.world.as_user(node, "bob", "sh", "-c", sleep).stdout.strip()
            self.world.on(node, "sh", "-c", f"echo {pid} > {CANARY_MOUNT}/pid")
            return int(pid)

        self._pids = self.world.everywhere(place, self.nodes)

    def _remove_canaries(self, node: str) -> None:
        script = (
            f"pid=$(cat {CANARY_MOUNT}/pid 2>/dev/null) && "
            'grep -qs ^sleep "/proc/$pid/cmdline" && kill "$pid"; '
            f"while umount {CANARY_MOUNT} 2>/dev/null; do :; done; "
            f"rmdir {CANARY_MOUNT} 2>/dev/null; rm -f {CANARY_FILE}; "
            f"sed -i '/^{CANARY_LINE}$/d' {' '.join(SHARED)}; true"
        )
        self.world.on(node, "sh", "-c", script)
