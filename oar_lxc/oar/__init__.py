"""Code that deals with OAR: its commands, its ssh, its hooks, and the server's sweep.

User ``oar`` runs it. It imports :mod:`oar_lxc.linux` and :mod:`oar_lxc.model`.
"""
