"""A job on a node whose power is cut: what runs before, and what is true after the next boot."""

from __future__ import annotations

import os
from pathlib import Path

USER = "oarlxcreset"
JOB = 990_001
BEFORE = Path(os.environ.get("RESULTS", "/nowhere"), "before.json")
CUT = Path("/host/cut")
