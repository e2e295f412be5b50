"""The root side of a node: prepare it for a job, destroy the job, reap dead jobs.

Root runs it, called by the hooks. It trusts nothing that a user can write. It loads quickly
and imports only the standard library, :mod:`oar_lxc.linux`, :mod:`oar_lxc.model` and
:mod:`oar_lxc.oar`.
"""
