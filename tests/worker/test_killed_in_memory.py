"""Ranks that are killed or stopped at any moment while the switch is in memory; the whole of it: scripts/failures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "failures" / "killed_in_memory.py"


def test_no_sum_is_wrong_and_nobody_waits_for_ever_when_ranks_are_killed_or_stopped() -> None:
    """No stop outlasts the lease here: with a busy machine, a lease that is short enough to test would end healthy jobs."""
    ended = subprocess.run(
        [sys.executable, "-P", str(SCRIPT), "--trials=20", "--together=2", "--lease=30", "--long-stops=0"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.startswith("20 jobs in each of which a rank was lost or late")
