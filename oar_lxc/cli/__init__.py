"""The command ``oar-lxc``: one module for each group of commands; it may import every room."""
