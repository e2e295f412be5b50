"""The root side: prepares one job on one node and destroys it.

Nothing here believes what a user can write. It acts under names that :mod:`oar_lxc.layout`
computes, on facts that the kernel tells, and reads back what it did.
"""
