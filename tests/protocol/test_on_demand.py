"""Functions reached by their address give what they would if they were called, compiled and in plain Python."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np

from switchml.protocol.jit import compiled
from switchml.protocol.on_demand import address_of, call_at


@compiled
def weighed(first: int, second: int, third: int) -> int:
    return 100 * first + 10 * second + third


@compiled
def through(address: int, first: int) -> int:
    if address == 0:
        return 0
    return call_at(address, first, np.int32(-2), 3)


def test_arguments_of_any_width_arrive_in_order() -> None:
    address = address_of(weighed, "test", 3)
    assert address == address_of(weighed, "test", 3) != 0
    assert through(address, 7) == 700 - 20 + 3
    assert through(0, 7) == 0


def test_in_plain_python_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); "
         "import test_on_demand as t; t.test_arguments_of_any_width_arrive_in_order()"],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
