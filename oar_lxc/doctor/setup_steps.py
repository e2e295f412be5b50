"""Whether all that set-up establishes is still so, by the very steps of set-up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.doctor.findings import AS_ROOT, Finding, Machine, Outcome, Role, unknown, well
from oar_lxc.errors import ConfigError, OarLxcError
from oar_lxc.linux.error_exit import sentence
from oar_lxc.model.config import Config, read_config
from oar_lxc.oar import paths
from oar_lxc.setup import frontend, node, server
from oar_lxc.setup.bundle import Bundle
from oar_lxc.setup.oarconf import OarConf
from oar_lxc.setup.requirements import CGROUPS
from oar_lxc.setup.steps import SetupError, SetupPlan, Step

# In the place of a key that is not there; no file has it.
_NO_KEY = "none none\n"

Mend = Callable[[str, Machine], str]


@dataclass(frozen=True)
class Steps:
    """A look at some steps of set-up, which should have nothing to do.

    Attributes:
        titles: a pattern of their titles.
        meaning: what comes of it where one is not so.
        mend: returns the command for what the step says; None if set-up mends it.
        outcome: how bad it is.
        needs_conf: whether ``oar.conf``, which has the cpuset, tells which steps there are.
    """

    titles: str
    meaning: str
    mend: Mend | None = None
    outcome: Outcome = Outcome.PROBLEM
    needs_conf: bool = False

    def __call__(self, machine: Machine) -> Iterator[Finding]:
        """Yield a finding for each of the steps that the machine's set-up has."""
        if self.needs_conf and machine.conf is None:
            yield unknown(f"only root and oar can read {paths.CONF}", AS_ROOT)
            return
        steps = [step for step in plan_for(machine).steps if self.has(step)]
        for step in steps:
            yield self._finding(step, machine)
        if not steps:
            yield well("this machine was set up without it")

    def has(self, step: Step) -> bool:
        """Whether a step is among them."""
        return re.fullmatch(self.titles, step.title) is not None

    def _finding(self, step: Step, machine: Machine) -> Finding:
        try:
            left = step.pending()
        except SetupError as error:
            left = str(error)
        except PermissionError as error:
            return unknown(f"{step.title}: {sentence(error)}", AS_ROOT)
        except (OarLxcError, OSError) as error:
            return unknown(f"{step.title}: {_line(sentence(error))}", f"{machine.setup} --dry-run")
        else:
            if left is None:
                return well(step.title)
            if step.apply is not None:
                left = f"not so: {step.title} ({_short(left)})"
        mend = self.mend(_line(left), machine) if self.mend else machine.setup
        return Finding(self.outcome, _line(left), self.meaning, mend)


def always(command: str) -> Mend:
    """Return a command whatever the step says."""
    return lambda said, machine: command


def mend_cgroups(said: str, machine: Machine) -> str:
    """Return the command for what is said of cgroups."""
    if "remount" in said:
        return f"mount -o remount,rw,bind {CGROUPS / 'cpuset'}"
    if "is empty" in said:
        return "lxc-cgroup -n MACHINE cpuset.mems 0    # on its host, and cpuset.cpus likewise"
    if "--no-cpuset" in said:
        return "oar-lxc setup server --no-cpuset    # there; then set up the nodes with its bundle"
    if "mkdir -p" in said:
        return said[said.index("mkdir -p") :]
    return "editor /etc/default/grub && update-grub && reboot"


def mend_database(said: str, machine: Machine) -> str:
    """Return the command for what is said of the database."""
    if "half there" in said:
        return f"oar-database --drop --db-is-local -y && {machine.setup}"
    if "tell PostgreSQL: " in said:
        return said.partition("tell PostgreSQL: ")[2].partition(" (and ")[0]
    return machine.setup


def plan_for(machine: Machine) -> SetupPlan:
    """Return the plan whose steps should have nothing to do on a machine."""
    conf = machine.conf or OarConf("")
    if machine.role is Role.SERVER:
        return server.make_plan(server.Options(cpuset=machine.cpuset, stanza=machine.stanza))
    if machine.role is Role.FRONTEND:
        return frontend.plan_of(bundle_here(conf), {})
    return node.plan_of(bundle_here(conf), node.Options(), trial=False)


def bundle_here(conf: OarConf) -> Bundle:
    """Return the bundle that this machine was set up with, from what is on the machine.

    What it cannot tell is whether the machine has another cluster's keys.
    """
    prepare = Config.prepare
    with suppress(ConfigError):  # a check of its own
        prepare = read_config().prepare
    public = paths.HOST_KEY.with_name(paths.HOST_KEY.name + ".pub")
    return Bundle(
        server=conf.get("SERVER_HOSTNAME") or "",
        database={},
        cpuset_path=conf.get("CPUSET_PATH") or "",
        prepare=prepare,
        oar_private=_text(paths.SSH_DIRECTORY / "id_rsa"),
        oar_public=_text(paths.SSH_DIRECTORY / "id_rsa.pub"),
        host_private=_text(paths.HOST_KEY),
        host_public=_text(public) if public.exists() else known_host_key(),
    )


def known_host_key() -> str:
    """Return the host key of nodes that user oar knows here, which a frontend has nowhere else."""
    for line in _text(paths.SSH_DIRECTORY / "known_hosts").splitlines():
        host, _, key = line.partition(" ")
        if host == f"[*]:{paths.SSHD_PORT}" and " " in key:
            return key
    return _NO_KEY


def _text(path: Path) -> str:
    try:
        return path.read_text() or _NO_KEY
    except (FileNotFoundError, PermissionError):  # the step that reads it says so
        return _NO_KEY


def _short(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0] if len(lines) == 1 else "set-up with --dry-run shows the difference"


def _line(text: str) -> str:
    return " ".join(text.split())
