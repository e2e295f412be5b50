"""Bring started containers up: run their provision scripts, and wait until they are ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from oar_lxc.agent.execute import execute
from oar_lxc.agent.node import Emit, OnNode
from oar_lxc.agent.timeline import noted
from oar_lxc.agent.times import READY, read_times, write_times
from oar_lxc.container.boot_probe import wait_inside
from oar_lxc.container.layer import PROVISION
from oar_lxc.container.runtime import Runtime
from oar_lxc.container.ssh_probe import wait_ssh
from oar_lxc.model.events import Event, Exit, Failed, Output, Provisioned, Reached, Ready
from oar_lxc.model.plan import PlannedContainer
from oar_lxc.model.requests import Exec
from oar_lxc.model.spec import SYSTEMD_PROCESSES, WAIT_BOOT, WAIT_RUNNING, WAIT_SSH
from oar_lxc.model.states import RUNNING

Abandoned = Callable[[], bool]
LITTLE = 64 << 20  # bytes of memory; with less, a system hardly boots
TAIL = 20  # lines of a container's output that go into an error
PROVISION_LOG = "/var/log/oar-lxc-provision.log"
_PROVISION = f'mkdir -p /var/log && exec "$0" </dev/null >{PROVISION_LOG} 2>&1'
_JOURNAL_TIMEOUT = 5.0
_JOURNAL = f"""\
if command -v journalctl >/dev/null && [ -d /run/log/journal -o -d /var/log/journal ]; then
    systemctl --failed --no-legend --plain 2>/dev/null | sed 's/^/failed unit: /'
    exec journalctl --no-pager --no-hostname -o short-monotonic -n {TAIL} 2>/dev/null
fi
for log in /var/log/messages /var/log/syslog; do
    [ -r $log ] && exec tail -n {TAIL} $log
done
exit 0
"""


def bring_up(node: OnNode, share: Sequence[PlannedContainer], what: str, timeout: float) -> None:
    """Provision containers that have just started, and wait until they are ready."""
    scripted = [planned for planned in share if planned.provision]
    if scripted:
        with noted(node.layout, "boot", len(scripted)):
            booted = wait_ready(
                node.runtime, scripted, WAIT_BOOT, timeout, node.emit, node.abandoned
            )
        booted_ones = [planned for planned in scripted if planned.name in booted]
        with noted(node.layout, "provision", len(booted_ones)):
            good = provision(node.runtime, booted_ones, node.emit, node.abandoned)
        failed = {planned.name for planned in scripted} - set(good)
        share = [planned for planned in share if planned.name not in failed]
    wait_until_ready(node, share, what, timeout)


def wait_until_ready(
    node: OnNode, share: Sequence[PlannedContainer], what: str, timeout: float
) -> None:
    """Wait until containers are ready; events ``Ready``, or ``Failed``."""
    if what == WAIT_RUNNING:
        for planned in share:
            write_times(node.layout, planned.name, {READY: time.time()})
        return
    times = read_times(node.layout)

    def emit(event: Event) -> None:
        if isinstance(event, Reached):
            name = event.container
            launched = times.get(name, {}).get("launched", time.time())
            seconds = round(time.time() - launched, 4)
            write_times(node.layout, name, {READY: time.time(), "ready_seconds": seconds})
            event = Ready(name, seconds)
        node.emit(event)

    with noted(node.layout, "ready", len(share)):
        wait_ready(node.runtime, share, what, timeout, emit, node.abandoned)


def wait_ready(
    runtime: Runtime,
    share: Sequence[PlannedContainer],
    what: str,
    timeout: float,
    emit: Emit,
    abandoned: Abandoned = lambda: False,
) -> list[str]:
    """Wait until containers are ready.

    Args:
        runtime: the containers of this node.
        share: the containers to wait for.
        what: one of :data:`oar_lxc.model.spec.WAITS`, or a command for the containers' shell.
        timeout: seconds for all together.
        emit: called with ``Reached`` for each container that is ready, and with ``Failed`` for
            each that is not ready in time.
        abandoned: whether the caller is gone.

    Returns:
        The names of the containers that are ready.
    """
    left = {planned.name: planned for planned in share}
    reached = []
    for name in _reached(runtime, share, what, timeout, abandoned):
        del left[name]
        reached.append(name)
        emit(Reached(name, what))
    states = {name: runtime.state(name) for name in left}
    running = [name for name, state in states.items() if state == RUNNING]
    journals = journal_tails(runtime, running, abandoned)
    for name, planned in left.items():
        log = journals.get(name) or runtime.log_tail(name)
        emit(Failed(name, _why_late(planned, states[name], what, timeout), tuple(log)))
    return reached


def _reached(
    runtime: Runtime,
    share: Sequence[PlannedContainer],
    what: str,
    timeout: float,
    abandoned: Abandoned,
) -> Iterator[str]:
    if what == WAIT_RUNNING:
        yield from (planned.name for planned in share)
    elif what == WAIT_SSH:
        addresses = {planned.name: planned.ip for planned in share}
        yield from wait_ssh(addresses, timeout, lambda name: runtime.init_pid(name) > 0, abandoned)
    else:
        names = [planned.name for planned in share]
        yield from wait_inside(runtime, names, what, timeout, abandoned)


def provision(
    runtime: Runtime,
    share: Sequence[PlannedContainer],
    emit: Emit,
    abandoned: Abandoned = lambda: False,
) -> list[str]:
    """Run each container's provision script inside it, in all containers at once.

    Returns:
        The names of the containers whose script succeeded, or that have none. For each of the
        others, a ``Failed`` is emitted.
    """
    by_timeout: dict[float, list[PlannedContainer]] = {}
    for planned in share:
        if planned.provision:
            by_timeout.setdefault(planned.provision_timeout, []).append(planned)
    failed: set[str] = set()
    for seconds, group in by_timeout.items():
        failed |= _run_scripts(runtime, group, seconds, emit, abandoned)
    return [planned.name for planned in share if planned.name not in failed]


def _run_scripts(
    runtime: Runtime,
    group: Sequence[PlannedContainer],
    seconds: float,
    emit: Emit,
    abandoned: Abandoned,
) -> set[str]:
    """Run provision scripts; return the names of the containers whose script failed.

    The output goes to a file in the container, not to a pipe: a daemon that a script starts keeps
    the script's output streams. With a pipe, it would delay the launch as long as it runs, or be
    killed by a write after the launch has closed the pipe.
    """
    statuses: dict[str, int] = {}
    failed: set[str] = set()

    def take(event: Event) -> None:
        match event:
            case Failed():
                failed.add(event.container)
                emit(event)
            case Exit():
                statuses[event.container] = event.status

    names = tuple(planned.name for planned in group)
    argv = ("/bin/sh", "-c", _PROVISION, f"/{PROVISION}")
    execute(runtime, Exec(names, argv=argv, timeout=seconds), take, abandoned)
    bad = [name for name, status in statuses.items() if status]
    logs = last_lines(runtime, bad, f"tail -n {TAIL} {PROVISION_LOG}", abandoned)
    first_lines = {planned.name: planned.provision.splitlines()[0] for planned in group}
    for name, status in statuses.items():
        if status == 0:
            emit(Provisioned(name))
            continue
        failed.add(name)
        why = f"did not end within {seconds:g} s" if status == 124 else f"ended with {status}"
        reason = f"its provision script {why}"
        if status in (126, 127):
            reason += f"; does the image have what {first_lines[name]!r} needs?"
        emit(Failed(name, reason, tuple(logs.get(name, ()))))
    return failed


def _why_late(planned: PlannedContainer, state: str, what: str, timeout: float) -> str:
    if state != RUNNING:
        reason = f"it is {state} and not ready: its init has ended"
        if 0 < planned.memory < LITTLE:
            reason += f"; {planned.memory / (1 << 20):g}M of memory may be too little for it"
    else:
        reason = {
            WAIT_SSH: f"sshd did not answer within {timeout:g} s",
            WAIT_BOOT: f"it had not booted after {timeout:g} s",
        }.get(what, f"`{what}` did not succeed within {timeout:g} s")
    if 0 < planned.processes < SYSTEMD_PROCESSES:
        reason += (
            f"; processes is {planned.processes}, which may be too few for it: systemd, sshd and "
            f"a login take {SYSTEMD_PROCESSES}"
        )
    return reason


def journal_tails(
    runtime: Runtime, names: Sequence[str], abandoned: Abandoned = lambda: False
) -> dict[str, list[str]]:
    """Return the last lines of containers' journals; leave out one that does not answer."""
    return last_lines(runtime, names, _JOURNAL, abandoned)


def last_lines(
    runtime: Runtime, names: Sequence[str], script: str, abandoned: Abandoned
) -> dict[str, list[str]]:
    """Run a shell script in containers, and return the last lines that it prints in each.

    Args:
        runtime: the containers of this node.
        names: the containers to run it in.
        script: the script.
        abandoned: whether the caller is gone.

    Returns:
        Lines by container; a container that does not answer is left out.
    """
    said: dict[str, list[str]] = {}

    def take(event: Event) -> None:
        if isinstance(event, Output) and event.stream == "stdout":
            lines = said.setdefault(event.container, [])
            lines += event.data.splitlines()
            del lines[:-TAIL]

    command = Exec(tuple(names), argv=("/bin/sh", "-c", script), timeout=_JOURNAL_TIMEOUT)
    execute(runtime, command, take, abandoned)
    return said
