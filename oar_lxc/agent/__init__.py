"""What acts on one node as the job's user: one module for each kind of operation.

It is started on each node by :mod:`oar_lxc.remote`, is given requests and answers with events. It
imports :mod:`oar_lxc.container`, and what that may import.
"""
