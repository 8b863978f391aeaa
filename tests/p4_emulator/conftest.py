"""Makes the ports in memory (tests/ports) importable to its tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "ports"))
