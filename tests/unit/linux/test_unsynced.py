"""Programs that wait for no disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from oar_lxc.linux import unsynced as module
from oar_lxc.linux.unsynced import unsynced

# What can be synced is synced without a word. A pipe cannot: only a filter lets that succeed.
TRY = """
import os, sys
sink = os.pipe()[1]
for sync in (os.fsync, os.fdatasync):
    try:
        sync(sink)
        print("done")
    except OSError as error:
        print(error.strerror)
os.sync()
print(os.write(sink, b"x"))
sys.exit(3)
"""
REFUSED = "Invalid argument\nInvalid argument\n1\n"
DONE = "done\ndone\n1\n" if os.geteuid() == 0 else REFUSED  # a filter is root's


def said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (3, "")
    return done.stdout


def test_syncs_of_all_that_is_started_are_done_at_once() -> None:
    assert said([sys.executable, "-c", TRY]) == REFUSED
    assert said(unsynced([sys.executable, "-c", TRY])) == DONE
    below = unsynced(["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", TRY])
    assert said(below) == DONE


def test_on_an_unknown_machine_the_command_runs_as_it_is() -> None:
    script = f"""
import os
from oar_lxc.linux import unsynced
unsynced._take_syncs_for_done("pdp11")
{TRY}"""
    package = Path(module.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=package, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, REFUSED)
