"""What a job without containers pays for the hooks, beside a hook that does nothing."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from oar_lxc.linux.run import run
from tests.bench.figures import Figure
from tests.bench.timing import Spread
from tests.pretend import PretendJob, ordinary_user

EMPTY_JOB = 900900
HOOKS = Path(__file__).resolve().parent.parent.parent / "hooks"
JOB = """$VAR1 = {'job_id' => 4242,'user' => 'alice','name' => 'alice_4242',
'cpuset_path' => '/oar','types' => {},'nodes' => {'node1' => ['0']},'log_level' => 3,
'resources' => [],
'ssh_keys' => {'private' => {'key' => ''}}}
"""


def measure(rounds: int, *, short: bool = False) -> list[Figure]:
    """Measure each hook, beside the same kind of hook that only exits."""
    rounds = 2 if short else rounds * 8
    with tempfile.TemporaryDirectory() as name:
        nothing = Path(name) / "nothing"
        nothing.write_text("#!/bin/sh\nexit 0\n")
        nothing.chmod(0o755)
        site = "exit(0);\n__END__\n" + JOB
        stanza = (HOOKS / "job_resource_manager_stanza.pl").read_text() + site
        arguments = ["4242", "alice", "/dev/null"]
        pairs = {
            "prologue": ([str(HOOKS / "prologue"), *arguments], [str(nothing)], None, None),
            "epilogue": ([str(HOOKS / "epilogue"), *arguments], [str(nothing)], None, None),
            "stanza, init": (["perl", "-", "init"], ["perl", "-", "init"], stanza, site),
            "stanza, clean": (["perl", "-", "clean"], ["perl", "-", "clean"], stanza, site),
        }
        found = []
        for title, (ours, peer, our_input, peer_input) in pairs.items():
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(rounds):
                for into, argv, text in (
                    (times[0], ours, our_input),
                    (times[1], peer, peer_input),
                ):
                    begin = time.monotonic()
                    run(argv, input=text)
                    into.append((time.monotonic() - begin) * 1000)
            found.append(
                Figure(
                    "hooks",
                    f"{title}, job without containers",
                    "ms",
                    Spread(tuple(times[0])),
                    "exit 0",
                    Spread(tuple(times[1])),
                    "<= 5 ms more",
                )
            )
    return found


def measure_empty(rounds: int, *, short: bool = False) -> list[Figure]:
    """Measure prepare, and of destroy where nothing was started, on one node.

    That is what every job pays where the prologue prepares nodes, which sees no types.
    """
    rounds = 1 if short else rounds * 3
    times: dict[str, list[float]] = {"prepare": [], "destroy": []}
    with ordinary_user() as user:
        job = PretendJob(EMPTY_JOB, user)
        job.make_cgroups()
        try:
            for _ in range(rounds):
                for title, act in (("prepare", job.prepare), ("destroy", job.destroy)):
                    begin = time.monotonic()
                    act()
                    times[title].append((time.monotonic() - begin) * 1000)
        finally:
            job.destroy()
            job.remove_cgroups()
    targets = {"prepare": "<= 80 ms", "destroy": "<= 70 ms"}
    return [
        Figure("empty", f"{title} of an empty job", "ms", Spread(tuple(values)), "", None, limit)
        for (title, values), limit in zip(times.items(), targets.values(), strict=True)
    ]
