"""Let the host cut the machine's power in the middle of a job; the next boot sees what is left."""

from __future__ import annotations

import json
import os
import time

from oar_lxc.linux.run import run
from tests.integration.conftest import published
from tests.integration.jobs import start_script
from tests.pretend import PretendJob, make_state
from tests.vm.reset import BEFORE, CUT, JOB, USER


def main() -> None:
    """Start a job with two containers; do not return."""
    run(["useradd", "-m", "-s", "/bin/bash", USER])
    make_state()
    os.sync()  # the account and the node are old; nothing of the job is written for certain
    job = PretendJob(JOB, USER, "0-1")
    job.make_cgroups()
    job.prepare()
    running = start_script(job, "--per-node", "2", "--wait", "boot")
    inits = [one["pid"] for one in running.containers().values()]
    with BEFORE.open("w") as file:
        json.dump({"first_id": published(job).first_id, "inits": inits}, file)
        file.flush()
        os.fsync(file.fileno())  # the host has it now
    CUT.touch()
    print("two containers run: cut the power", flush=True)
    time.sleep(300)
    raise SystemExit("the host did not cut the power")


if __name__ == "__main__":
    main()
