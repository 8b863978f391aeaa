"""The same source, compiled and as plain Python, gives the same verdicts, states and packets bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import virtual_network

_SCRIPT = Path(__file__).with_name("state_digests.py")
_PATH = str(Path(virtual_network.__file__).parent)


def _lines(*, disabled: bool) -> list[str]:
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1" if disabled else "0", "PYTHONPATH": _PATH}
    # Integers must not wrap around unnoticed in plain Python: numba's do so silently.
    done = subprocess.run(
        [sys.executable, str(_SCRIPT)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "RuntimeWarning: overflow" not in done.stderr, done.stderr
    return done.stdout.splitlines()


def test_plain_python_is_the_compiled_machine_bit_for_bit() -> None:
    plain, compiled = _lines(disabled=True), _lines(disabled=False)
    assert (plain[0], compiled[0]) == ("plain", "compiled")
    assert len(plain) > 4_000
    for number, (one, other) in enumerate(zip(plain[1:], compiled[1:], strict=False)):
        assert one == other, f"first difference at line {number}, after {plain[number]!r}"
    assert len(plain) == len(compiled)
