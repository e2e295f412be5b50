"""The command ``oar-lxc``: one module for each group of commands.

Users and administrators run it. It may import every room.
"""
