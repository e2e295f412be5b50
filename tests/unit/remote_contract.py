"""What every way to agents does: the same tests for the fake one and for the real one.

In tests/integration the agents are real, beside real LXC, and so is the fan-out.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from oar_lxc.errors import ContainerError, NodeError
from oar_lxc.model import events, requests
from oar_lxc.model.message import message
from oar_lxc.remote.agents import LateRequest, Remote

Told = list[tuple[str, events.Event]]


@message
class Unknown(requests.Request):
    """What no agent knows."""

    kind = "unknown"


@dataclass(frozen=True)
class Ways:
    """A way to test, to two nodes of a job.

    Attributes:
        remote: the way.
        node: the node that answers; its containers vm1 and vm2 run.
        dead: the node that cannot be reached.
    """

    remote: Remote
    node: str
    dead: str

    def call(self, request: requests.Request, *nodes: str) -> tuple[Told, list[NodeError]]:
        """Ask nodes, by default the one that answers; return what they told, and errors."""
        told: Told = []
        asked = nodes or (self.node,)
        errors = self.remote.call(request, lambda *event: told.append(event), asked)
        return told, errors

    def run(self, line: str, stdin: str = "", *names: str) -> list[events.Event]:
        """Run a line of a shell in containers, by default in vm1; return what was told of it."""
        request = requests.Exec(names or ("vm1",), ("sh", "-c", line), stdin)
        told, errors = self.call(request)
        assert errors == []
        return [event for _, event in told]


class RemoteContract:
    """Inherit it and give it a fixture ``ways``."""

    def test_each_event_comes_with_its_node(self, ways: Ways) -> None:
        told, errors = ways.call(requests.List())
        assert errors == []
        assert {node for node, _ in told} == {ways.node}
        containers = [event for _, event in told if isinstance(event, events.Container)]
        assert [one.container for one in containers] == ["vm1", "vm2"]
        assert {one.node for one in containers} == {ways.node}
        assert {one.state for one in containers} == {"RUNNING"}

    def test_by_default_all_nodes_are_asked(self, ways: Ways) -> None:
        told: Told = []
        errors = ways.remote.call(requests.List(), lambda *event: told.append(event))
        assert [error.node for error in errors] == [ways.dead]
        assert len(told) == 2

    def test_a_node_that_is_not_asked_is_no_error(self, ways: Ways) -> None:
        assert ways.call(requests.List(), ways.node)[1] == []

    def test_nothing_is_asked_where_there_is_no_node_to_ask(self, ways: Ways) -> None:
        assert ways.remote.call(requests.List(), lambda *event: None, ()) == []

    def test_a_node_that_cannot_be_reached_is_an_error_and_the_others_answer(
        self, ways: Ways
    ) -> None:
        told, errors = ways.call(requests.List(), ways.dead, ways.node)
        assert len(told) == 2
        assert [str(error) for error in errors] == [
            f"node {ways.dead}: it cannot be reached: ssh: No route to host"
        ]

    def test_errors_come_in_the_order_in_which_nodes_were_asked(self, ways: Ways) -> None:
        for nodes in ((ways.node, ways.dead), (ways.dead, ways.node)):
            assert tuple(error.node for error in ways.call(Unknown(), *nodes)[1]) == nodes

    def test_a_request_that_fails_as_a_whole_is_an_error_of_its_node(self, ways: Ways) -> None:
        told, errors = ways.call(Unknown())
        assert told == []
        assert [error.node for error in errors] == [ways.node]
        assert "operation 'unknown'; known: " in str(errors[0])

    def test_what_fails_for_one_container_is_an_event(self, ways: Ways) -> None:
        assert ways.call(requests.Freeze(("vm2",)))[1] == []
        try:
            told = ways.run("echo here", "", "vm1", "vm2")
        finally:
            assert ways.call(requests.Unfreeze(("vm2",)))[1] == []
        failed = [event for event in told if isinstance(event, events.Failed)]
        assert [event.container for event in failed] == ["vm2"]
        assert events.Output("vm1", "stdout", "here\n") in told
        assert events.Exit("vm1", 0) in told

    def test_events_of_a_node_keep_their_order(self, ways: Ways) -> None:
        told = ways.run("for n in 1 2 3 4 5 6 7 8 9; do echo $n; done; exit 7")
        text = "".join(event.data for event in told if isinstance(event, events.Output))
        assert text == "".join(f"{n}\n" for n in range(1, 10))
        assert told[-1] == events.Exit("vm1", 7)

    @pytest.mark.parametrize("text", ["", "it's\n", "é\n\n", "\udcff\udc80x", "x" * 200_000])
    def test_what_is_sent_arrives_as_it_was(self, ways: Ways, text: str) -> None:
        told = ways.run("cat", text)
        assert "".join(event.data for event in told if isinstance(event, events.Output)) == text

    def test_a_late_request_is_made_once(self, ways: Ways) -> None:
        made = []

        def make() -> requests.Request:
            made.append(requests.Exec(("vm1",), ("true",), ""))
            return made[-1]

        told: Told = []
        late = LateRequest(requests.Exec, make)
        assert ways.remote.call(late, lambda *event: told.append(event), (ways.node,)) == []
        assert told == [(ways.node, events.Exit("vm1", 0))]
        assert len(made) == 1

    def test_an_exception_of_whoever_is_told_ends_the_call(self, ways: Ways) -> None:
        def refuse(node: str, event: events.Event) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ways.remote.call(requests.List(), refuse, (ways.node,))
        assert len(ways.call(requests.List())[0]) == 2

    def test_answers_of_one_kind_are_collected(self, ways: Ways) -> None:
        found = ways.remote.collect(requests.List(), events.Container, (ways.node,))
        assert [(node, one.container) for node, one in found] == [
            (ways.node, "vm1"),
            (ways.node, "vm2"),
        ]
        assert ways.remote.collect(requests.List(), events.Gone, (ways.node,)) == []

    def test_what_failed_is_raised_instead_of_what_is_collected(self, ways: Ways) -> None:
        with pytest.raises(NodeError, match="cannot be reached"):
            ways.remote.collect(requests.List(), events.Container)
        assert ways.call(requests.Freeze(("vm2",)))[1] == []
        try:
            command = requests.Exec(("vm2",), ("true",), "")
            with pytest.raises(ContainerError, match=f"container vm2 on node {ways.node}: "):
                ways.remote.collect(command, events.Exit, (ways.node,))
        finally:
            assert ways.call(requests.Unfreeze(("vm2",)))[1] == []
