"""What an agent and its caller write to each other: JSON, one object or list a line."""

from __future__ import annotations

# A key of a request: its reader is to write something every second. What is between them, oarsh,
# ends where that cannot be handed on.
HEARTBEAT = "heartbeat"
# The line that a program of ours begins with on a node. What stands before it is of the user's
# login shell. Only then is it given what it is to read, which the shell could take from it.
UP = b'["", "up"]'
