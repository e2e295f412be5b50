"""``oar-lxc-node``, the command of the root side, for hooks, the reaper and administrators."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

from oar_lxc.errors import ConfigError, OarLxcError, UsageError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.error_exit import exit_on_error
from oar_lxc.linux.node_log import NodeLog, print_result, say
from oar_lxc.linux.run import SYSTEM_PATH
from oar_lxc.linux.signals import shell_status
from oar_lxc.model.arguments import check_options
from oar_lxc.model.config import lenient_config, read_config
from oar_lxc.model.idspans import Span, parse_spans
from oar_lxc.model.layout import JobLayout, check_job_id, check_node, check_user
from oar_lxc.root.account import find_account, job_uid
from oar_lxc.root.job_cgroups import JobCgroups, check_oar_cgroup, leave_freezers
from oar_lxc.root.record import GRACE, Record

DONE = 0
FAILED = 1
USAGE = 2
MOST_FILES = 1 << 16  # open files that the process may have at least
FILTER_TIMEOUT = 30.0  # seconds
CGROUPS_LEFT = 3  # a status of its own, as OAR's own clean would wait for cgroups for ever

EPILOG = """exit status:
  0  done; also where a job was refused, which only the job is told, and where
     the user's other processes, or files in directories that all users share,
     could not be looked at in time, or the kernel was busy with network devices
     of others, which the reaper does again
  1  the node is not as it should be (a wrong oar-lxc.toml, for prepare), or
     something is left of the job
  2  a wrong argument; nothing was done
  3  cgroups of the job are left

examples:
  oar-lxc-node prepare --job 42 --user alice --node node1 --nodes node1,node2 \\
      --cgroup /oar/alice_42
  oar-lxc-node destroy --job 42 --user alice
  oar-lxc-node leftovers --job 42 --user alice --json
  oar-lxc-node reap --dry-run
  oar-lxc-node reap --ended 42,43 --grace 0
  oar-lxc-node filter
"""

LAYERS = ("stanza", "epilogue", "prologue", "admin")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="oar-lxc-node",
        description="Prepare one node for one OAR job with containers, and destroy what it left.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Without prog, argparse would format help to get the name, and importing that code takes long.
    name = top.prog
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", prog=name)
    for name, text in (
        ("prepare", "make what the job's user needs and may not make"),
        ("destroy", "destroy all that the job has on this node"),
        ("leftovers", "tell what is left of the job on this node; change nothing"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--job", required=True, help="OAR's job id")
        command.add_argument("--user", required=True, help="the job's user")
        command.add_argument("--cgroup", default="", help="OAR's cgroup of the job, /oar/USER_JOB")
        if name != "leftovers":
            command.add_argument(
                "--deadline", type=_seconds, help="seconds this may take; as configured by default"
            )
        if name == "destroy":
            command.add_argument(
                "--layer", choices=LAYERS, default="admin", help="who asks for it, for the log"
            )
        if name == "prepare":
            command.add_argument("--node", required=True, help="this node's name in OAR")
            command.add_argument("--nodes", required=True, help="all nodes of the job, by commas")
            command.add_argument("--job-key", help="file with OAR's private key of the job")
            command.add_argument(
                "--users",
                help="ids.users as who asks for it has it; as configured here by default",
            )
        if name == "leftovers":
            command.add_argument(
                "--first-id", help="first id of the job's range, where nothing here tells it"
            )
            command.add_argument("--json", action="store_true", help="print JSON")
    text = "load the packet filter of all jobs of this node, and make room for their neighbours"
    commands.add_parser("filter", help=text, description=text)
    reap = commands.add_parser("reap", help="destroy what dead jobs left on this node")
    reap.add_argument("--dry-run", action="store_true", help="tell what and why; change nothing")
    reap.add_argument("--json", action="store_true", help="print JSON")
    reap.add_argument(
        "--grace",
        type=_seconds,
        default=GRACE,
        metavar="SECONDS",
        help=f"what OAR and its hooks get at a job's start and end ({GRACE:.0f})",
    )
    reap.add_argument(
        "--ended", default="", metavar="JOBS", help="jobs that have ended, as OAR says; by commas"
    )
    return top


def _seconds(text: str) -> float:
    """Return a number of seconds, for argparse."""
    number = float(text)
    if not math.isfinite(number) or number < 0:
        raise ValueError
    return number


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    arguments = parser().parse_args(argv)
    with exit_on_error(lambda text: say(f"{arguments.command}: {text}"), os.uname().nodename):
        sys.exit(_carry_out(arguments))


def _carry_out(arguments: argparse.Namespace) -> int:
    try:
        if os.geteuid() != 0:
            raise UsageError(f"oar-lxc-node {arguments.command} must be run as root")
        check_options(vars(arguments))
        _forget_caller()
        return COMMANDS[arguments.command](arguments)
    except ConfigError as error:
        say(f"{error}; mend it: until then, this node gets no containers")
        return FAILED
    except UsageError as error:
        say(str(error))
        return USAGE
    except OarLxcError as error:
        say(f"{arguments.command}: {error}")
        return FAILED


def _forget_caller() -> None:
    """Reset all that the caller may have set and that could disturb the work.

    The caller is OAR, a user's shell or systemd; each has its own limits, signals and open files.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # it is closed, and the next opened file would get its number
            os.open(os.devnull, os.O_RDWR)  # programs that start inherit it
            os.set_inheritable(number, True)
    os.umask(0o022)
    os.chdir("/")  # the caller's directory may be gone, or its file server dead
    os.environ["PATH"] = SYSTEM_PATH  # oardodo's PATH lacks /usr/sbin, or is the caller's
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else failures of programs go unnoticed
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _end)  # resumes what is stopped or frozen
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    leave_freezers()
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_DATA):
        _raise_limit(limit, resource.RLIM_INFINITY)
    # Each process that is killed needs an open file.
    _raise_limit(resource.RLIMIT_NOFILE, MOST_FILES)


def _end(number: int, frame: object) -> NoReturn:
    """Exit with 128 + the signal, as in a shell, and run the ends of all blocks."""
    sys.exit(shell_status(-number))


def _raise_limit(limit: int, least: int) -> None:
    """Raise a soft limit to its hard limit, and the hard limit to at least ``least``."""
    hard = resource.getrlimit(limit)[1]
    unlimited = resource.RLIM_INFINITY
    most = unlimited if unlimited in (hard, least) else max(hard, least)
    for value in (most, hard):
        with suppress(OSError, ValueError):  # root without CAP_SYS_RESOURCE may not
            resource.setrlimit(limit, (value, value))
            return


def _prepare(arguments: argparse.Namespace) -> int:
    from oar_lxc.root.prepare import Preparation

    layout, user, cgroup = _job(arguments)
    account = None
    with suppress(OSError):  # the prepare meets the error again, and handles it
        if not (account := find_account(user)):
            raise UsageError(f"user {user} does not exist on this node")
    node = check_node(arguments.node)
    log = NodeLog(bound={"job": layout.job_id, "node": node})
    try:
        config = read_config()
    except ConfigError as error:
        log.write("wrong configuration", "error", error=str(error), instead="no containers")
        raise
    preparation = Preparation(
        layout,
        user,
        node,
        [check_node(node) for node in arguments.nodes.split(",")],
        replace(config, users=_users(arguments.users) or config.users),
        cgroup,
        Path(arguments.job_key) if arguments.job_key else None,
        account,
    )
    if preparation.node not in preparation.nodes:
        raise UsageError(f"node {preparation.node} is not among --nodes {arguments.nodes}")
    with log.step("prepare"):
        preparation.run(log, _deadline(config.deadline, arguments.deadline))
    return DONE


def _users(text: str | None) -> tuple[Span, ...]:
    try:
        return parse_spans(text.split(",")) if text else ()
    except ValueError as error:
        raise UsageError(f"--users {text!r}: {error}") from None


def _destroy(arguments: argparse.Namespace) -> int:
    from oar_lxc.root.destroy import Destruction

    layout, user, cgroup = _job(arguments, lenient=arguments.layer != "admin")
    log = NodeLog(bound={"job": layout.job_id, "node": os.uname().nodename})
    with log.step("destroy"):
        destruction = Destruction(layout, user, job_uid(layout, user), cgroup, arguments.layer)
        left = destruction.run(log, _deadline(_most(log), arguments.deadline))
    if not left:
        return DONE
    say(f"job {layout.job_id} left on this node: {left}")
    if left.cgroups:
        return CGROUPS_LEFT
    return FAILED if left.fails else DONE


def _leftovers(arguments: argparse.Namespace) -> int:
    from oar_lxc.root.belongings import Belongings
    from oar_lxc.root.id_allocation import find_whose
    from oar_lxc.root.leftovers import NOT_KNOWN, Leftovers, find_leftovers
    from oar_lxc.root.record import read_record

    layout, user, cgroup = _job(arguments)
    record = read_record(layout.record)
    uid = job_uid(layout, user)
    cgroup = cgroup or (record.oar_cgroup if record else "")
    cgroups = JobCgroups(layout.job_id, user, cgroup, uid=uid)
    first_ids = _first_ids(arguments.first_id, layout, user, uid, record)
    left = Leftovers.union(
        find_leftovers(Belongings(layout, cgroups, find_whose(layout, uid, first)))
        for first in first_ids
    )
    if arguments.json:
        # All kinds with their lists, also empty ones; what is not known only if there is any.
        found = {
            kind: names for kind, names in asdict(left).items() if names or kind not in NOT_KNOWN
        }
        print_result(json.dumps(found, indent=1))
    else:
        print_result(f"left of job {layout.job_id}: {left}")
    return FAILED if left else DONE


def _first_ids(
    given: str | None, layout: JobLayout, user: str, uid: int, record: Record | None
) -> set[int]:
    """Return the first ids of the ranges to search for: the job's, or all that it may have had."""
    from oar_lxc.root.id_allocation import find_range, is_of, possible_ranges

    if given is None:
        first = find_range(layout, uid, record)
        users = lenient_config()[0].users
        return {first} if first else possible_ranges(layout, user, uid, users) or {0}
    if not re.fullmatch(r"[0-9]{1,10}", given) or not is_of(int(given), uid, layout.state):
        raise UsageError(
            f"--first-id {given!r} is not where a range of ids of user {user} starts: leave it out"
        )
    return {int(given)}


def _reap(arguments: argparse.Namespace) -> int:
    from oar_lxc.model.reaped import FAILED as NOT_DESTROYED
    from oar_lxc.model.reaped import Reaped
    from oar_lxc.root.liveness import Judge
    from oar_lxc.root.reap import preview, reap

    ended = [check_job_id(job) for job in arguments.ended.split(",") if job]
    judge = Judge(grace=arguments.grace, ended=ended)
    done: list[Reaped] = []
    log = NodeLog(bound={"node": os.uname().nodename})
    seconds = _most(log)
    for one in preview(judge) if arguments.dry_run else reap(judge, log, seconds):
        done.append(one)
        if not arguments.json:
            print_result(one)
    if arguments.json:
        print_result(json.dumps([asdict(one) for one in done], indent=1))
    for why in judge.unknown:
        say(f"reap: there may be more jobs than were found: {why}")
    failed = any(one.action == NOT_DESTROYED for one in done)
    return FAILED if failed or judge.unknown else DONE


def _filter(arguments: argparse.Namespace) -> int:
    from oar_lxc.root import neighbours, packetfilter

    packetfilter.load(read_config().pool, FILTER_TIMEOUT)
    neighbours.make_room()
    return DONE


COMMANDS = {
    "prepare": _prepare,
    "destroy": _destroy,
    "leftovers": _leftovers,
    "reap": _reap,
    "filter": _filter,
}


def _job(arguments: argparse.Namespace, lenient: bool = False) -> tuple[JobLayout, str, str]:
    """Return the job's names, its user and its cgroup.

    Args:
        arguments: the command line.
        lenient: report and ignore a wrong cgroup, as a hook cannot correct it.
    """
    job_id = check_job_id(arguments.job)
    user = check_user(arguments.user)
    try:
        cgroup = arguments.cgroup and check_oar_cgroup(arguments.cgroup, job_id, user)
    except UsageError as error:
        if not lenient:
            raise
        say(f"{error}: what the record tells is taken")
        cgroup = ""
    return JobLayout(job_id), user, cgroup


def _most(log: NodeLog) -> float:
    """Return the seconds that a hook may take; the default if the configuration is wrong."""
    config, wrong = lenient_config()
    if wrong:
        log.write("wrong configuration", "error", error=wrong, instead="the defaults")
        say(f"{wrong}; mend it: the defaults are taken")
    return config.deadline


def _deadline(most: float, seconds: float | None = None) -> Deadline:
    return Deadline.after(most if seconds is None else max(1.0, min(seconds, most)))


if __name__ == "__main__":
    main()
