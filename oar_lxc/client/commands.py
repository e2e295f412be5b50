"""Run one command in many containers of a job, and collect how it ended in each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from oar_lxc.errors import ContainerError, OarLxcError
from oar_lxc.model import events, requests
from oar_lxc.remote.agents import Remote, raise_first

OnOutput = Callable[[str, str, str], None]


@dataclass(frozen=True)
class Outcome:
    """How a command ended in one container.

    Attributes:
        container: the container's name.
        status: exit status; 128 + number if a signal ended the command, 124 if its time was up,
            127 if there is no such command.
        stdout: its standard output; bytes that are no UTF-8 as surrogates.
        stderr: its standard error, in the same form.
    """

    container: str
    status: int
    stdout: str
    stderr: str


def run_in_containers(
    remote: Remote,
    nodes: Sequence[str],
    command: requests.Exec,
    on_output: OnOutput | None = None,
) -> list[Outcome]:
    """Run a command in containers through the agents of their nodes.

    Args:
        remote: the job's ``Remote``.
        nodes: the containers' nodes.
        command: the command, with the names of the containers.
        on_output: called with the output as it comes; see
            :meth:`oar_lxc.client.session.Session.run`, which also tells of the errors.

    Returns:
        One outcome for each container, in the order of the command's names.
    """
    names = command.containers or ()
    text: dict[tuple[str, str], list[str]] = {}
    status: dict[str, int] = {}
    failures: list[OarLxcError] = []

    def take(node: str, event: events.Event) -> None:
        match event:
            case events.Output() if on_output:
                on_output(event.container, event.stream, event.data)
            case events.Output():
                text.setdefault((event.container, event.stream), []).append(event.data)
            case events.Exit():
                status[event.container] = event.status
            case events.Failed():
                failures.append(event.error(node))

    failures += remote.call(command, take, nodes)
    raise_first(failures)
    for name in names:
        if name not in status:
            raise ContainerError(name, "", "there is no such container in the job")
    return [
        Outcome(
            name,
            status[name],
            "".join(text.get((name, "stdout"), ())),
            "".join(text.get((name, "stderr"), ())),
        )
        for name in names
    ]
