#!/usr/bin/env python3
"""Start LXC containers on every node of an OAR job. Copy it, change it.

oarsub -S ./jobscripts/lxc_job.py
oarsub -S "./jobscripts/lxc_job.py --per-node 2 -- hostname"
oarsub -S "./jobscripts/lxc_job.py --spec vms.toml"
"""

#OAR -n lxc
#OAR -t lxc
#OAR -l nodes=2/core=1,walltime=1:00:00

import argparse
import io
import os
import sys
from dataclasses import replace
from pathlib import Path

try:
    from oar_lxc import Group, OarLxcError, Progress, Session, Spec, read_spec
except ImportError:
    sys.exit(f"lxc_job.py: oar-lxc is not installed on {os.uname().nodename}")


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options, and the command after ``--``."""
    parser = argparse.ArgumentParser(
        description="Start LXC containers on every node of this OAR job.",
        usage="oarsub -S './jobscripts/lxc_job.py [options] [-- COMMAND ...]'",
    )
    parser.add_argument("--spec", type=Path, metavar="FILE", help="take all from a spec file")
    parser.add_argument("--image", help="image of the containers (debian-12)")
    number = parser.add_mutually_exclusive_group()
    number.add_argument("--per-node", type=int, metavar="N", help="N on each node (1)")
    number.add_argument("--per-core", action="store_true", help="one for each reserved core")
    parser.add_argument("--wait", metavar="running|boot|ssh|COMMAND", help="when they are ready")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="run it in every container")
    options = parser.parse_args(argv)
    for name in ("image", "per_node", "per_core") if options.spec else ():
        if getattr(options, name):
            option = name.replace("_", "-")
            parser.error(f"--spec takes all from {options.spec}: leave out --{option}")
    return options


def make_spec(options: argparse.Namespace) -> Spec:
    """Return the spec of the file, or of the other options."""
    if options.spec:
        spec = read_spec(options.spec)
    else:
        image = options.image or "debian-12"
        group = Group(image, per_node=options.per_node, per_core=options.per_core)
        spec = Spec((group,), wait="ssh")
    return replace(spec, wait=options.wait) if options.wait else spec


def show(name: str, stream: str, text: str) -> None:
    """Print what a container wrote, its name in front of each line."""
    out = sys.stdout if stream == "stdout" else sys.stderr
    for line in text.splitlines():
        print(f"{name}: {line}", file=out, flush=True)


def connect(session: Session) -> None:
    """Print how to get into the containers."""
    job = session.job.id
    print(f"{'container':<12} {'node':<16} {'address':<16} {'cpus':<10} ready after")
    for c in session.containers:
        seconds = c.ready_seconds or c.start_seconds
        print(f"{c.name:<12} {c.node:<16} {c.address:<16} {c.cpus:<10} {seconds:.2f} s")
    name = session.containers[0].name
    print(f"connect from the frontend:  oar-lxc ssh {job}/{name}")
    print(f"run a command in it:        oar-lxc exec {job}/{name} -- hostname")
    if sys.stdin.isatty():  # the job goes on without them
        print("end them:                   Ctrl-C", flush=True)
    else:
        print(f"end the job:                oardel {job}", flush=True)


def main() -> int:
    """Launch, and run the command or stay; return the exit status of the job."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # commands may write any bytes
    options = parse(sys.argv[1:])
    with Progress() as progress, Session(make_spec(options), on_progress=progress) as session:
        if not session.published.in_cpuset:
            print("OAR's cpuset is off: this job's CPUs and memory are not kept from other jobs.")
        if options.command:
            outcomes = session.run(options.command, on_output=show)
            for outcome in outcomes:
                if outcome.status:
                    print(f"{outcome.container}: exit status {outcome.status}", file=sys.stderr)
            return max(outcome.status for outcome in outcomes)
        connect(session)
        session.wait()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OarLxcError, OSError) as error:
        sys.exit(f"lxc_job.py: {error}")
    except KeyboardInterrupt:
        print("lxc_job.py: interrupted; the containers are gone", file=sys.stderr)
        sys.exit(130)
