"""Job scripts of users who do something special; they are put into homes, under other names."""

from __future__ import annotations

import textwrap

from tests.matrix.row import Row

DIRECTORY = "matrix"

SCRIPTS = {
    "raises": """\
        with Session(Group(), wait="running"):
            print("up", flush=True)
            time.sleep(3)  # for the observer to look at the containers
            print("raising", flush=True)
            1 / 0
        """,
    "sleeps": """\
        print("not yet", flush=True)
        time.sleep(3600)
        """,
    "stops": """\
        with Session(Group(), wait="running") as session:
            print("up", flush=True)
            many = "mkdir /root/many && cd /root/many && seq 300000 | xargs touch"
            session.run(["sh", "-c", many])
            print("stopping", flush=True)
        print("stopped", flush=True)
        """,
}

HEAD = """\
#!/usr/bin/env python3
import time
from oar_lxc import Group, Session
"""


def install(row: Row, name: str) -> str:
    """Put a script into the home of the row's user and return its path there."""
    path = f"{DIRECTORY}/{name}.py"
    text = HEAD + textwrap.dedent(SCRIPTS[name])
    # Another job may start from it at this moment: it is replaced as a whole.
    put = f'mkdir -p {DIRECTORY}; cat > "$1.$$"; chmod 755 "$1.$$"; mv "$1.$$" "$1"'
    machine = row.world.sandbox.machine("frontend")
    machine.run(["sh", "-ec", put, "sh", path], user=row.user, input=text)
    return f"./{path}"
