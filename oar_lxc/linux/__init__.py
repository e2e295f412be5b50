"""What the kernel and the system's programs do, said once: files, processes, mounts, namespaces.

Users, root and ``oar`` run it. It knows nothing of OAR, jobs or LXC, and imports the standard
library and :mod:`oar_lxc.errors` alone.
"""
