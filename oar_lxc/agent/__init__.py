"""The agent, which acts on one node as the job's user: one module for each kind of operation.

The job's user runs it: :mod:`oar_lxc.remote` starts it on each node, sends it a request and reads
its events. It imports :mod:`oar_lxc.container`, and the rooms that may be imported there.
"""
