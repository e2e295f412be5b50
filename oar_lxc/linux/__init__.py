"""Calls to the kernel and to the system's programs: files, processes, mounts, namespaces.

Users, root and ``oar`` run it. It knows nothing of OAR, jobs or LXC. It imports only the
standard library and :mod:`oar_lxc.errors`.
"""
