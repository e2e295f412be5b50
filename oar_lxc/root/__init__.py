"""One node, as root: prepare it for a job, destroy the job, reap dead jobs.

Root runs it, at the hooks' word. It believes nothing that a user can write, and loads quickly: it
imports the standard library, :mod:`oar_lxc.linux`, :mod:`oar_lxc.model` and :mod:`oar_lxc.oar`.
"""
