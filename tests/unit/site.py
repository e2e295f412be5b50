"""A site with the stanza of the job resource manager in it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.fakes.programs import add_program, recorded

STANZA = Path(__file__).parents[2] / "hooks/job_resource_manager_stanza.pl"


NODE = "/usr/sbin/oar-lxc-node"


# As much of a site's own file as matters: it takes all of STDIN, runs a program, has an END block
# of its own, and leaves with a status.
SITE = r"""
use strict;
use warnings;
use Fcntl ':flock';
my $Cpuset;
my $tmp = "";
while (<STDIN>) { $tmp .= $_; }
open(my $log, '>>', $ENV{CALLS}) or die;
print {$log} "site $ARGV[0]\n";
close($log);
open(my $seen, '>', $ENV{SEEN}) or die;
print {$seen} $tmp;
close($seen);
$Cpuset = eval($tmp);
exit(2) if (!defined($Cpuset->{log_level}));
system('readlink /proc/self/fd/0 > /dev/null && cat > "$REST"') == 0 or exit(77);
END { my $status = 7; }
exit($ENV{SITE_STATUS});
"""


@dataclass
class Site:
    """A node on which the combined file can be run.

    Attributes:
        directory: where its files are.
        status: what the site's own part ends with.
        destroy: what ``oar-lxc-node destroy`` ends with.
        prepare: what ``oar-lxc-node prepare`` ends with.
        installed: whether there is an ``oar-lxc-node``.
        before: a program that becomes perl, with its arguments.
        users: ``ids.users`` as set-up has it from the server.
    """

    directory: Path
    status: int = 0
    destroy: int = 0
    prepare: int = 0
    installed: bool = True
    before: tuple[str, ...] = ()
    users: str = ""

    @property
    def node(self) -> str:
        """What is run in place of the root side's command."""
        return str(self.directory / "bin/oar-lxc-node")

    def run(self, action: str, data: str, *, oardodo: bool = True) -> tuple[int, str]:
        """Run the combined file as the server does; return its status and what it said."""
        calls, log = self.directory / "calls", self.directory / "argv"
        body = (
            f'printf "%s\\0" "$#" "$@" >> "{log}"; echo "$2" >> "{calls}"\n'
            f'case "$2" in prepare) exit {self.prepare};; destroy) exit {self.destroy};; esac'
        )
        if oardodo:
            add_program(self.directory / "bin", "oardodo", body)
        if self.installed:
            add_program(self.directory / "bin", "oar-lxc-node", "exit 66")
        stanza = STANZA.read_text().replace("my $users = ''", f"my $users = '{self.users}'")
        assert NODE in stanza
        environ = {
            "PATH": f"{self.directory / 'bin'}:/usr/bin:/bin",
            "TAKTUK_HOSTNAME": "node1",
            "CALLS": str(calls),
            "SEEN": str(self.directory / "seen"),
            "REST": str(self.directory / "rest"),
            "SITE_STATUS": str(self.status),
        }
        done = subprocess.run(
            [*self.before, "perl", "-", action],
            input=f"{stanza.replace(NODE, self.node)}{SITE}__END__\n{data}",
            env=environ,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        return done.returncode, done.stderr

    @property
    def calls(self) -> list[str]:
        """What ran, in its order."""
        path = self.directory / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def argv(self) -> list[list[str]]:
        """The arguments of each call of oardodo."""
        return recorded(self.directory / "argv")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)
