"""Why the server does not reach a node."""

from __future__ import annotations

import pytest

from oar_lxc.linux.run import Result
from oar_lxc.setup import check_nodes


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("ssh: connect to host n port 6667: Connection refused", "systemctl restart oar-node"),
        ("No RSA host key is known\nHost key verification failed.", "unknown here"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
         "not the cluster's"),
        ("oar@n: Permission denied (publickey).", "does not accept user oar's key"),
        ("ssh: Could not resolve hostname n: Name or service not known", "/etc/hosts"),
        ("ssh: connect to host n port 6667: Connection timed out", "is it on"),
        ("something else", "something else"),
        ("", "ended with status 255"),
    ],
)  # fmt: skip
def test_why_a_node_is_not_reached_is_told(said: str, told: str) -> None:
    assert told in check_nodes.explain(Result(("ssh",), 255, "", said))
