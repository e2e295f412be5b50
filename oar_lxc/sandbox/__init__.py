"""The sandbox: a real OAR cluster in containers on this machine, for trials and tests.

Root runs it. It imports :mod:`oar_lxc.setup`, which sets up its machines, and
:mod:`oar_lxc.image`.
"""
