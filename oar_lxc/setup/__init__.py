"""Set up a machine as an OAR server, frontend or node with oar-lxc, in steps that may run twice.

Root runs it once on each machine. It may import every room except :mod:`oar_lxc.remote`,
:mod:`oar_lxc.doctor`, :mod:`oar_lxc.sandbox` and :mod:`oar_lxc.cli`.
"""
