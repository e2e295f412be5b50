"""Values and their text forms: job, spec, plan, addresses, paths, and what crosses to a node.

Users, root and ``oar`` run it. It starts no program and asks the machine nothing; it reads a file
where it is given one. It imports :mod:`oar_lxc.linux`.
"""
