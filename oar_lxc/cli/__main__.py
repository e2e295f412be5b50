"""``python3 -m oar_lxc.cli``: the command of a checkout, on Debian's Python and its packages."""

from oar_lxc.cli.main import main

main()
