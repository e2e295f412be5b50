#!/usr/bin/env python3
"""Start one VM, say how to connect to it, and keep it until the walltime or `oardel`.

oarsub -S ./jobscripts/one_vm.py
"""

#OAR -n one_vm
#OAR -t lxc
#OAR -l nodes=1/core=1,walltime=1:00:00

import sys

from oar_lxc import Group, OarLxcError, Progress, Session

# Your home is mounted; 1 GiB of memory and the job's one core are all that it has.
VM = Group(name="vm", image="debian-12", total=1, memory="1G", home=True)

try:
    with Progress() as progress, Session(VM, wait="ssh", on_progress=progress) as session:
        (vm,) = session.containers
        print(f"{vm.name} is on {vm.node}, with the address {vm.address}")
        print(f"a shell:    oar-lxc ssh {session.job.id}/{vm.name}")
        print(f"copy to it: oar-lxc cp FILE {session.job.id}/{vm.name}:")
        print(f"end:        oardel {session.job.id}", flush=True)
        session.wait()
except (OarLxcError, OSError) as error:
    sys.exit(f"one_vm.py: {error}")  # one sentence instead of Python's traceback
except KeyboardInterrupt:
    print("one_vm.py: interrupted; the VM is gone", file=sys.stderr)
    sys.exit(130)
