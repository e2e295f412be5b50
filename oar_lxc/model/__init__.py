"""Values and their text forms: job, spec, plan, addresses, paths, and the messages to agents.

Users, root and ``oar`` run it. It starts no program and does not examine the machine; it
reads only files that the caller names. It imports :mod:`oar_lxc.linux`.
"""
