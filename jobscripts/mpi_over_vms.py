#!/usr/bin/env python3
"""Run an MPI program over VMs on all nodes of the job: a process for each reserved core.

oarsub -S ./jobscripts/mpi_over_vms.py
oarsub -S "./jobscripts/mpi_over_vms.py ./my_program input"

The image has MPI in it. Build it once, inside a job, or ask the administrator for it:

oar-lxc image build debian-12:mpi --packages openmpi-bin,python3-mpi4py
"""

#OAR -n mpi_over_vms
#OAR -t lxc
#OAR -l nodes=2/core=2,walltime=0:10:00

import shlex
import sys

from oar_lxc import Group, Job, OarLxcError, Session

EXAMPLE = """
from mpi4py import MPI
world = MPI.COMM_WORLD
print(f"rank {world.rank} of {world.size} is on {MPI.Get_processor_name()}", flush=True)
total = world.allreduce(world.rank)
if world.rank == 0:
    print(f"the ranks add up to {total}")
"""
PROGRAM = sys.argv[1:] or ["python3", "-c", EXAMPLE]

try:
    job = Job.from_environ()
    # One VM on each node, with all the cores that the job has there, and your home.
    cores = min(job.cores.values())
    group = Group(name="mpi", image="debian-12:mpi", per_node=1, cores=cores, home=True)
    with Session(group, job, wait="ssh") as session:
        # OAR_LXC_NODEFILE names each VM once per core, as mpirun reads it; mpirun reaches the
        # other VMs by ssh, for which each VM has the job's key. `su` logs in as you: mpirun does
        # not like root, and what is written to the home must be yours.
        mpirun = f"mpirun --hostfile $OAR_LXC_NODEFILE {shlex.join(PROGRAM)}"
        outcome = session.containers[0].run(["su", "-", job.user, "-c", mpirun])
except (OarLxcError, OSError) as error:
    sys.exit(f"mpi_over_vms.py: {error}")
except KeyboardInterrupt:
    print("mpi_over_vms.py: interrupted; the VMs are gone", file=sys.stderr)
    sys.exit(130)
print(outcome.stdout, end="")
print(outcome.stderr, end="", file=sys.stderr)
sys.exit(outcome.status)
