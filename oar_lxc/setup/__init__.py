"""Make a machine an OAR server, frontend or node that has oar-lxc: steps that may run twice.

Root runs it, once for each machine. It may import every room but :mod:`oar_lxc.sandbox` and
:mod:`oar_lxc.cli`.
"""
