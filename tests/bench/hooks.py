"""What a job without containers pays for the hooks, beside a hook that does nothing."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from oar_lxc.run import run
from tests.bench.timing import Spread
from tests.pretend import PretendJob, ordinary_user

EMPTY_JOB = 900900
HOOKS = Path(__file__).resolve().parent.parent.parent / "hooks"
JOB = """$VAR1 = {'job_id' => 4242,'user' => 'alice','name' => 'alice_4242',
'cpuset_path' => '/oar','types' => {},'nodes' => {'node1' => ['0']},'log_level' => 3,
'resources' => [],
'ssh_keys' => {'private' => {'key' => ''}}}
"""


def measure(rounds: int) -> dict[str, tuple[Spread, Spread]]:
    """Return the seconds of each hook, and of the same kind of hook that only exits."""
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
        found = {}
        for title, (ours, peer, our_input, peer_input) in pairs.items():
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(rounds):
                for into, argv, text in (
                    (times[0], ours, our_input),
                    (times[1], peer, peer_input),
                ):
                    begin = time.monotonic()
                    run(argv, input=text)
                    into.append(time.monotonic() - begin)
            found[title] = (Spread(tuple(times[0])), Spread(tuple(times[1])))
    return found


def measure_empty(rounds: int) -> dict[str, Spread]:
    """Return the seconds of prepare, and of destroy where nothing was started, on one node.

    That is what every job pays where the prologue prepares nodes, which sees no types.
    """
    times: dict[str, list[float]] = {"prepare": [], "destroy": []}
    with ordinary_user() as user:
        job = PretendJob(EMPTY_JOB, user)
        job.make_cgroups()
        try:
            for _ in range(rounds):
                for title, act in (("prepare", job.prepare), ("destroy", job.destroy)):
                    begin = time.monotonic()
                    act()
                    times[title].append(time.monotonic() - begin)
        finally:
            job.destroy()
            job.remove_cgroups()
    return {title: Spread(tuple(values)) for title, values in times.items()}
