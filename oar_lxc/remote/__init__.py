"""Have a program run on many nodes of a job at once, through oarsh.

The job's user runs it. It names the programs by strings, and imports none of them:
:mod:`oar_lxc.linux`, :mod:`oar_lxc.model` and :mod:`oar_lxc.oar` are all that it needs.
"""
