"""Who holds a job's ids; what there is to find is real in tests/integration/test_attack_ids.py."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from oar_lxc.errors import TooLateError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.pidfd import Handles
from oar_lxc.model.idspans import LOWEST
from oar_lxc.root import holders
from oar_lxc.root.holders import find_holders
from oar_lxc.root.namespaces import UserNamespaces
from oar_lxc.root.ownership import Whose


def test_a_look_at_what_processes_hold_ends_in_time() -> None:
    with Handles() as handles, pytest.raises(TooLateError, match="the time was over"):
        find_holders({os.getpid()}, Whose(1, LOWEST), handles, Deadline.after(0), set())


def test_who_keeps_a_look_waiting_is_given_up_and_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a process has open may be a pipe by the time it is opened; the others are looked at."""
    with subprocess.Popen(["sleep", "60"]) as first, subprocess.Popen(["sleep", "60"]) as second:
        try:

            def look(pid: int, namespaces: UserNamespaces) -> bool:
                if pid == first.pid:
                    time.sleep(60)
                return False

            monkeypatch.setattr(holders, "_has_handle", look)
            others = {os.getpid(), first.pid, second.pid}
            begin = time.monotonic()
            unseen: set[int] = set()
            with Handles() as handles:
                found = find_holders(others, Whose(1, LOWEST), handles, Deadline.after(30), unseen)
            assert (found, unseen) == (set(), {first.pid})
            assert time.monotonic() - begin < 20
        finally:
            first.kill()
            second.kill()
