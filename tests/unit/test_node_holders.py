"""Who holds a job's ids; what there is to find is real in tests/integration/test_attack_ids.py."""

from __future__ import annotations

import os
import time

import pytest

from oar_lxc.errors import TooLateError
from oar_lxc.idspans import LOWEST
from oar_lxc.node.holders import find_holders
from oar_lxc.node.processes import Handles
from oar_lxc.node.whose import Whose


def test_a_look_at_what_processes_hold_ends_in_time() -> None:
    with Handles() as handles, pytest.raises(TooLateError, match="the time was over"):
        find_holders({os.getpid()}, Whose(1, LOWEST), handles, time.monotonic())
