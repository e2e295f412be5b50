"""What acts on one node as the job's user: one module for each kind of operation.

The job's user runs it: :mod:`oar_lxc.remote` starts it on each node, gives it a request and takes
its events. It imports :mod:`oar_lxc.container`, and what that may import.
"""
