"""Users whose login shell is neither bash nor like it, with files of theirs that say much."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from oar_lxc.setup.packages import APT_INSTALL
from tests.e2e.cluster import Cluster, typed

# Shell → its file in the home, and what that does.
SHELLS = {
    "fish": (
        ".config/fish/config.fish",
        "echo hello; echo bad >&2; function ls; echo mine; end\n",
    ),
    "tcsh": (".cshrc", "echo hello\nsh -c 'echo bad >&2'\nset noclobber\nalias ls 'echo mine'\n"),
    "zsh": (
        ".zshenv",
        "echo hello; echo bad >&2; setopt noclobber nomatch; alias env=false\n"
        "autoload -Uz compinit; compinit -u\n",
    ),
}
LEFTOVERS = ["d", "back", ".config", ".local", ".cshrc", ".zshenv", ".zshrc", ".zcompdump", ".ssh"]
WORDS = ["a b", "", "$HOME", "!x", "it's", '"', "\\", "*", "#", "~", "a;b", "line\nline", "é"]


@dataclass(frozen=True)
class User:
    """Alice, with a login shell.

    Attributes:
        cluster: the cluster.
        shell: the shell's name.
    """

    cluster: Cluster
    shell: str


@pytest.fixture(scope="module", params=SHELLS)
def alice(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[User]:
    """Let alice have a shell on the frontend and all nodes; it is bash again in the end."""
    shell: str = request.param
    path, text = SHELLS[shell]
    machines = [cluster.sandbox.machine(name) for name in ("frontend", *cluster.nodes)]
    for machine in machines:
        machine.run(["env", "DEBIAN_FRONTEND=noninteractive", *APT_INSTALL, shell], timeout=600)
        machine.run(["usermod", "-s", f"/usr/bin/{shell}", "alice"])
    line = f"mkdir -p {path}; rmdir {path}; printf %s {shlex.quote(text)} > {path}; touch .zshrc"
    cluster.frontend("sh", "-c", line)
    try:
        yield User(cluster, shell)
    finally:
        for machine in machines:
            machine.run(["usermod", "-s", "/bin/bash", "alice"])
        cluster.frontend("rm", "-rf", *LEFTOVERS)


def test_all_ways_into_a_container_work(alice: User) -> None:
    """A job script, words and statuses, copies, oar-lxc ssh, and plain ssh with its proxy."""
    cluster = alice.cluster
    job = cluster.submit("./jobscripts/lxc_job.py")
    job.wait_output("connect from the frontend:")
    target = f"{job.id}/vm2"
    printed = cluster.frontend("oar-lxc", "exec", target, "--", "printf", "[%s]", *WORDS)
    assert printed.stdout == "".join(f"[{word}]" for word in WORDS)
    assert printed.stderr == ""
    for way in (["exec", target, "--", "sh", "-c", "exit 7"], ["ssh", target, "exit 7"]):
        done = cluster.frontend("oar-lxc", *way, check=False)
        assert (done.status, done.stdout, done.stderr) == (7, "", "")
    line = (
        f"echo hostname | oar-lxc shell {target};"
        f"mkdir d; head -c 300000 /dev/urandom > d/x; oar-lxc cp d {target}:/srv;"
        f"oar-lxc cp {target}:/srv/d back; diff -r d back && echo same;"
        f"oar-lxc ssh-config {job.id} >/dev/null 2>&1;"
        f"ssh -F .ssh/oar-lxc/{job.id}/config vm2.{job.id} hostname"
    )
    assert cluster.frontend("sh", "-c", line).stdout == "vm2\nsame\nvm2\n"
    job.delete()
    job.wait_end()


def test_commands_are_completed(alice: User) -> None:
    # zsh drops what is typed while it completes.
    keys = "oar-lxc unf\\t|\\nexit\\n"
    done = typed(alice.cluster, "frontend|reeze", keys, alice.shell)
    assert "Usage: oar-lxc unfreeze" in done.stdout
