#!/usr/bin/env python3
"""Start one VM for each reserved core, run a command in all at once, and end.

oarsub -S "./jobscripts/per_core.py hostname"
"""

#OAR -n per_core
#OAR -t lxc
#OAR -l nodes=2/core=2,walltime=0:10:00

import sys

from oar_lxc import Group, OarLxcError, Session

COMMAND = sys.argv[1:] or ["sh", "-c", 'echo "$(hostname) has $(nproc) core"']

try:
    # Each has its core for itself; "boot" is enough for a command, which needs no ssh.
    with Session(Group(per_core=True), wait="boot") as session:
        outcomes = session.run(COMMAND, timeout=300)
except (OarLxcError, OSError) as error:
    sys.exit(f"per_core.py: {error}")
except KeyboardInterrupt:
    print("per_core.py: interrupted; the VMs are gone", file=sys.stderr)
    sys.exit(130)
for outcome in outcomes:
    print(outcome.stdout, end="")
    print(outcome.stderr, end="", file=sys.stderr)
sys.exit(max(outcome.status for outcome in outcomes))
