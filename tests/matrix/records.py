"""Records that are lost or damaged: what they held is found again."""

from __future__ import annotations

from collections.abc import Callable

from tests.matrix.containers import finish
from tests.matrix.registry import Fault, register
from tests.matrix.row import Row

RECORD = "/var/lib/oar-lxc/records/{job}.json"

# name: what is done to the record, the shell's words for it, how it reads afterwards
DAMAGES = {
    "truncated": ("is cut off in the middle", 'truncate -s 40 "$1"', 40),
    "emptied": ("is emptied", ': > "$1"', 0),
    "garbage": ("is filled with garbage", 'head -c 300 /dev/urandom > "$1"', 300),
    "removed": ("is removed", 'rm "$1"', -1),
}


def _damage(name: str) -> Callable[[Row], None]:
    def act(row: Row) -> None:
        _, command, size = DAMAGES[name]
        job = row.run()
        path = RECORD.format(job=job.id)
        for node in row.world.nodes:
            row.world.on(node, "test", "-s", path)
            row.world.on(node, "sh", "-ec", command, "sh", path)
            now = row.world.on(node, "stat", "-c", "%s", path, check=False)
            bytes_now = int(now.stdout) if now.status == 0 else -1
            row.require(bytes_now == size, f"the record on {node} has {bytes_now} bytes")
        finish(row, job)

    return act


for _name in DAMAGES:
    register(
        Fault(
            f"record-{_name}",
            f"the job's record {DAMAGES[_name][0]}, then oardel",
            _damage(_name),
            short=_name == "removed",
            soak=True,
        )
    )
