"""A real OAR cluster in containers on this machine, to try things and to test them.

Root runs it. It imports :mod:`oar_lxc.setup`, which makes its machines, and :mod:`oar_lxc.image`.
"""
