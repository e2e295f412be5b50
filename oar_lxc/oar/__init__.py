"""What is known of OAR: its ssh, and what its hooks and its server's sweep do.

User oar runs it. It imports :mod:`oar_lxc.linux` and :mod:`oar_lxc.model`.
"""
