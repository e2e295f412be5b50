"""The doctor: looks whether a server, a frontend or a node is as it should be; changes nothing.

Administrators run it, as root or as any user. It looks at what :mod:`oar_lxc.setup` establishes by
that room's own steps, and at what only shows while the cluster runs.
"""
