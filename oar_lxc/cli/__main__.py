"""``python3 -m oar_lxc.cli``: run the command from a checkout, with Debian's Python packages."""

from oar_lxc.cli.entry import main

main()
