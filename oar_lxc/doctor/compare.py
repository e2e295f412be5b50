"""What only shows between machines: versions, settings, images, names, clocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from oar_lxc import __version__
from oar_lxc.doctor.findings import Finding, Machine, problem, unknown, warning, well
from oar_lxc.doctor.report import Facts, Report
from oar_lxc.image.recipes import RECIPES
from oar_lxc.model.layout import CONFIG

OFF, FAR_OFF = 2.0, 60.0  # seconds


def compare(reports: Sequence[Report], machine: Machine) -> list[Report]:
    """Return the reports of nodes with the findings of a comparison.

    Args:
        reports: what the nodes found of themselves.
        machine: the server.
    """
    facts = {report.machine: report.facts for report in reports if report.facts}
    return [
        replace(report, findings=(*report.findings, *_compared(report, facts, machine)))
        for report in reports
    ]


def _compared(report: Report, all_facts: dict[str, Facts], machine: Machine) -> Iterator[Finding]:
    facts = report.facts
    if facts is None:
        return
    node = report.machine
    yield from (replace(f, check="agreement") for f in _agreement(node, facts, all_facts, machine))
    others = {name: address for name, address in facts.names.items() if name != node}
    yield from (replace(f, check="node-names") for f in judge_names(others, all_facts))


def _agreement(
    node: str, facts: Facts, all_facts: dict[str, Facts], machine: Machine
) -> Iterator[Finding]:
    again = f"oar-lxc setup node --bundle bundle.tar    # on {node}, with the server's bundle"
    prepare = "stanza" if machine.stanza else "prologue"
    others = list(all_facts.values())
    rows = [
        (
            "version",
            facts.version,
            __version__,
            f"apt-get install ./oar-lxc_*_all.deb    # on {node}",
        ),
        ("cpuset", _switch(facts.cpuset), _switch(machine.cpuset), again),
        ("prepare", facts.prepare, prepare, again),
        ("pool", facts.pool, _usual([one.pool for one in others]), _edit(node)),
    ]
    if not machine.stanza:  # the stanza brings the server's list
        rows.append(("users", facts.users, _usual([one.users for one in others]), _edit(node)))
    for what, has, wanted, mend in rows:
        if not has:
            yield unknown(f"{what} is not known of {node}", f"oar-lxc doctor    # on {node}")
        elif has == wanted:
            yield well(f"{what} is that of the cluster: {has}")
        else:
            meaning = "The machines of a cluster must agree on it: jobs on this node fail."
            yield problem(f"{what} is {has}, and {wanted} elsewhere", meaning, mend)
    if facts.images is None:
        yield unknown(f"the images of {node} are not known", f"oar-lxc doctor    # on {node}")
    else:
        yield judge_images(node, facts.images, [one.images or {} for one in others])


def _switch(on: bool) -> str:
    return "on" if on else "off"


def _usual(values: Sequence[str]) -> str:
    return Counter(filter(None, values)).most_common(1)[0][0] if any(values) else ""


def _edit(node: str) -> str:
    again = "oar-lxc setup node --bundle bundle.tar"
    return f"editor {CONFIG} && {again}    # on {node}"


def judge_images(node: str, images: dict[str, str], others: Sequence[dict[str, str]]) -> Finding:
    """Return the finding for a node's images, which should be those of all nodes.

    Args:
        node: its name.
        images: digests by name.
        others: those of all nodes.
    """
    everywhere: dict[str, str] = {}
    for one in others:
        everywhere |= {name: digest for name, digest in one.items() if name not in everywhere}
    lacks = sorted(everywhere.keys() - images.keys())
    differ = sorted(name for name in images if everywhere[name] != images[name])
    if not lacks and not differ:
        return well("the images are those of the other nodes")
    words = [f"lacks image {name}" for name in lacks]
    words += [f"has another image {name} than other nodes" for name in differ]
    commands = [_image_command(name, False) for name in lacks]
    commands += [_image_command(name, True) for name in differ]
    return warning(
        f"the node {', '.join(words)}",
        "Jobs that ask for it fail on this node, or run something else there.",
        f"{' && '.join(commands)}    # on {node}",
    )


def _image_command(name: str, there: bool) -> str:
    make = f"build {name}" if name in RECIPES else f"import {name} ARCHIVE"
    return f"oar-lxc image rm {name} && oar-lxc image {make}" if there else f"oar-lxc image {make}"


def judge_names(names: dict[str, str], all_facts: dict[str, Facts]) -> Iterator[Finding]:
    """Yield a finding for each node's name as another node resolves it.

    Args:
        names: addresses by name; an empty address is a finding of that node's own.
        all_facts: what the nodes say of themselves.
    """
    for name, address in names.items():
        has = all_facts[name].addresses if name in all_facts else ()
        if not address or not has:
            continue
        if address in has:
            yield well(f"the name {name} leads to {name}")
        else:
            yield problem(
                f"the name {name} resolves to {address} here, which {name} does not have",
                "Containers of one job on these nodes do not reach each other.",
                f"echo '{has[0]} {name}' >>/etc/hosts    # in the place of the other line, or DNS",
            )


def judge_clock(node: str, there: float, before: float, after: float) -> Finding:
    """Return the finding for a node's clock.

    Args:
        node: its name.
        there: what its clock said.
        before: what ours said before that.
        after: what ours said after that.
    """
    off = max(before - there, there - after, 0.0)
    said = f"the clock of {node} is {off:.0f} s off the server's"
    mend = f"timedatectl set-ntp true    # on {node} and on the server"
    meaning = "What logs say does not fit together, and jobs end too early or too late."
    if off > FAR_OFF:
        found = problem(said, meaning, mend)
    elif off > OFF:
        found = warning(said, meaning, mend)
    else:
        found = well(f"the clock of {node} is the server's, within {OFF:.0f} s")
    return replace(found, check="clock")
