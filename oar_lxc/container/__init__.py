"""The containers of one node: LXC, their configuration and files, their limits and probes.

The job's user runs it, on a node. It deals with this node alone, and is the only room that imports
``lxc``. It imports :mod:`oar_lxc.linux`, :mod:`oar_lxc.model` and :mod:`oar_lxc.image`.
"""
