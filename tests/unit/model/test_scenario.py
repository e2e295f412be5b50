"""Scenarios are read whole, or refused with one sentence that names the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from oar_lxc.errors import SpecError
from oar_lxc.model.job import Job
from oar_lxc.model.links import Link
from oar_lxc.model.networks import Membership, Network
from oar_lxc.model.plan import make_plan
from oar_lxc.model.scenario import Step, check_scenario, read_scenario
from oar_lxc.model.spec import Group, Spec

PLAN = make_plan(
    Spec(
        (Group(name="p", total=2, networks=(Membership("left"),)), Group(name="vm", total=1)),
        networks=(Network("left"),),
    ),
    Job(42, "alice", {"node1": 2}),
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "scenario.toml"
    path.write_text(text)
    return path


def test_steps_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [[at]]
        time = "2s"
        stop = "p1"
        [[at]]
        time = "500ms"
        network = "left"
        from = "p1"
        to = "p2"
        loss = "1%"
        [[at]]
        time = "1000s"
        unplug = ["p", "vm1"]
        network = "main"
        """,
    )
    steps = read_scenario(path)
    assert steps == (
        Step(2, 500_000, Link("left", "p1", "p2", loss="1%")),
        Step(1, 2_000_000, verb="stop", names=("p1",)),
        Step(3, 10**9, verb="unplug", names=("p", "vm1"), network="main"),
    )
    assert [step.words() for step in steps] == [
        "left: p1 to p2: loss 1%",
        "stop p1",
        "unplug p, vm1 in main",
    ]
    check_scenario(path, steps, PLAN)
    assert [c.name for c in steps[2].containers(PLAN)] == ["p1", "p2", "vm1"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", ": there is nothing to do: write a table [[at]] for each change"),
        ("[at]\n", ": there is nothing to do: write a table [[at]] for each change"),
        ("[[att]]\n", ": unknown key 'att'; did you mean at?"),
        ("[[at]\n", ": line 1 is '[[at]', which is no TOML"),
        ("[[at]]\nstop = 'p'\n", ", at 1: time is missing: write when, such as time = '10s'"),
        ("[[at]]\ntime = 10\nstop = 'p'\n", ", at 1: time is 10; it is a time such as '40ms'"),
        ("[[at]]\ntime = '1s'\n", ", at 1: there is only a time: write a link, or one of unplug"),
        ("[[at]]\ntime = '1s'\nkill = 'p'\n", ", at 1: unknown key 'kill'; known: time, unplug"),
        (
            "[[at]]\ntime = '1s'\nstop = 'p'\nstart = 'p'\n",
            ", at 1: stop and start are both given",
        ),
        (
            "[[at]]\ntime = '1s'\nstop = 'p'\ndelay = '1s'\n",
            ", at 1: stop and delay are both given: write a table for each",
        ),
        ("[[at]]\ntime = '1s'\nstop = []\n", ", at 1: stop is []; it is a list of groups and"),
        ("[[at]]\ntime = '1s'\nstop = [1]\n", ", at 1: stop is [1]; it is a list of groups and"),
        ("[[at]]\ntime = '1s'\nplug = 'p'\n", ", at 1: plug needs a network whose cable it is"),
        (
            "[[at]]\ntime = '1s'\nstop = 'p'\nnetwork = 'left'\n",
            ", at 1: stop is about whole containers: leave out network",
        ),
        (
            "[[at]]\ntime = '1s'\nnetwork = 'left'\nrate = '0'\n",
            ", at 1: rate is '0'; it is a number of bits a second",
        ),
    ],
)
def test_a_mistake_is_one_sentence_that_names_file_and_table(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        read_scenario(path)
    assert str(caught.value).startswith(f"{path}{sentence}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("stop = 'x'", "stop has 'x', and the job has no such container; it has: p1, p2, vm1"),
        ("unplug = 'vm'\nnetwork = 'left'", "network is left, and vm1 is not in it"),
        ("network = 'lab'\ndelay = '1s'", "network is lab, and no container is in it"),
        (
            "network = 'left'\nfrom = 'p9'\ndelay = '1s'",
            "from is 'p9', and there is no such container or group",
        ),
    ],
)
def test_what_the_job_does_not_have_is_told_before_the_first_step(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = written(tmp_path, f"[[at]]\ntime = '1s'\n{text}\n")
    with pytest.raises(SpecError) as caught:
        check_scenario(path, read_scenario(path), PLAN)
    assert str(caught.value) == f"{path}, at 1: {sentence}"
