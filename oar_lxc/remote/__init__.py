"""Run a program on many nodes of a job at once, through oarsh.

The job's user runs it. It knows the programs by name only, and does not import them. It imports
only :mod:`oar_lxc.linux`, :mod:`oar_lxc.model` and :mod:`oar_lxc.oar`.
"""
