"""The containers of a whole job: session, lookup, copying, files for ssh.

The user runs it, on a node or on a frontend. It reaches nodes through :mod:`oar_lxc.remote`, and
never loads :mod:`oar_lxc.container` or :mod:`oar_lxc.agent`: its machine need not have LXC.
"""
