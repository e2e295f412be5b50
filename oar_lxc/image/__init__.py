"""Images: root file systems that containers share. A digest identifies each; none ever changes.

An image is ``NAME/rootfs`` in a node's store. Its files have the ids that they have inside a
container; each job sees it through a read-only mount that shifts them. Users have images of their
own as archives in their homes.

Users and root run it. It imports :mod:`oar_lxc.linux` and :mod:`oar_lxc.model`.
"""
