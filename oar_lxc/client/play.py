"""Play a scenario in a running job: carry out each of its steps at its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from oar_lxc.client.networks import check_abilities, find_networks, send_links
from oar_lxc.errors import ContainerError, JobError, NodeError
from oar_lxc.model import events, requests
from oar_lxc.model.scenario import AT, PLUG, START, STOP, UNPLUG, Step, check_scenario
from oar_lxc.remote.agents import Remote, raise_first

OnStep = Callable[[Step, float], object]


def play(
    remote: Remote,
    path: Path,
    steps: Sequence[Step],
    on_step: OnStep,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Check a scenario against a job, and then carry it out.

    Args:
        remote: the job's nodes.
        path: the scenario's file, for errors.
        steps: its steps, in the order of their times.
        on_step: called with each step that was carried out, and with the seconds since the
            beginning at which that began.
        sleep: waits for some seconds.

    Raises:
        SpecError: a step does not fit the job; none was carried out.
        JobError: the job has no containers with networks or links.
        ContainerError, NodeError: a step failed; the later ones were not carried out.
    """
    state = find_networks(remote, abilities=True)
    if not state.plan.containers:
        raise JobError(f"job {remote.job_id} has no containers with networks or links")
    check_scenario(path, steps, state.plan)
    check_abilities([(f"{path}, {AT} {s.number}", s.link) for s in steps if s.link], state)
    begin = time.monotonic()
    for step in steps:
        if (early := step.time / 1e6 - (time.monotonic() - begin)) > 0:
            sleep(early)
        began = time.monotonic() - begin
        if step.link:
            send_links(remote, [step.link])
        else:
            containers = step.containers(state.plan)
            nodes = [node for node in remote.nodes if node in {c.node for c in containers}]
            _call(remote, _request(step, tuple(c.name for c in containers)), nodes)
        on_step(step, began)


def _request(step: Step, names: tuple[str, ...]) -> requests.Request:
    match step.verb:
        case verb if verb in (PLUG, UNPLUG):
            return requests.Plug(names, step.network, verb == PLUG)
        case verb if verb == START:
            return requests.Start(names)
        case verb if verb == STOP:
            return requests.Stop(names, timeout=0.0)  # at once, as a machine that fails
    raise ValueError(step.verb)


def _call(remote: Remote, request: requests.Request, nodes: Sequence[str]) -> None:
    failures: list[ContainerError | NodeError] = []

    def take(node: str, event: events.Event) -> None:
        if isinstance(event, events.Failed):
            failures.append(event.error(node))

    raise_first([*remote.call(request, take, nodes), *failures])
