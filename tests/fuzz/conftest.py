"""Under `make fuzz`, tests that can be guided run in a process each, which atheris may end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from fuzz_budget import can_be_guided

_RUN = Path(__file__).with_name("guided_run.py")
_SHOWN = 20_000


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    packages = getattr(pyfuncitem.function, "guided", None)
    if packages is None or not can_be_guided():
        return None
    name = f"{pyfuncitem.path}::{pyfuncitem.originalname}"
    # The process ends where it stands, and cleans nothing up.
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            [sys.executable, str(_RUN), name, *packages],
            env=os.environ | {"TMPDIR": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    if run.returncode != 0:
        pytest.fail(f"{name}\n{run.stdout[-_SHOWN:]}\n{run.stderr[-_SHOWN:]}", pytrace=False)
    print(run.stderr.splitlines()[-1])
    return True
