"""Functions that compiled code calls become part of it; those that Python calls are compiled for Python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core import compiler, event

from switchml.protocol import compiled_parts
from switchml.protocol.jit import DISABLED, compiled, inlined

pytestmark = pytest.mark.skipif(DISABLED, reason="NUMBA_DISABLE_JIT is set: nothing is compiled")


class Compiled(event.Listener):
    """Names of what is compiled."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_start(self, event: Any) -> None:
        self.names.append(event.data["dispatcher"].py_func.__name__)

    def on_end(self, event: Any) -> None:
        pass


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiled]:
    """Of functions that no earlier run has left in the cache."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    listener = Compiled()
    with event.install_listener("numba:compile", listener):
        yield listener


def machine_code(function: Any) -> int:
    """For how many argument types it can be called from Python as it is."""
    return len(function.overloads)


def test_a_function_has_machine_code_when_python_has_called_it(listener: Compiled) -> None:
    @compiled
    def double(value: int) -> int:
        return 2 * value

    @compiled
    def quadruple(value: int) -> int:
        return double(double(value))

    assert quadruple(3) == 12
    assert (machine_code(quadruple), machine_code(double)) == (1, 0)
    assert double(4) == 8
    assert (machine_code(double), quadruple(5)) == (1, 20)
    assert double(1.5) == 3.0
    assert listener.names == ["quadruple", "double", "double", "double"]


def test_a_part_is_compiled_once_for_all_that_call_it(listener: Compiled) -> None:
    @inlined
    def third(values: Any, by: int = 1) -> int:
        return int(values[2]) * by

    @compiled
    def above(values: Any) -> int:
        return third(values, by=3) + third(values, len(values))

    @compiled
    def beside(values: Any) -> int:
        return above(values) + third(values, by=0) + third(values)

    values = np.arange(5)
    assert above(values) == 16
    assert beside(values) == 18
    assert listener.names.count("third") == 2, "with an integer, constant or not, and without"


def test_passes_that_are_left_out_are_there() -> None:
    """A numba that names them otherwise would go through them again."""
    state = compiler.StateDict()
    state.flags = compiler.Flags()
    state.func_ir = None
    passes = compiler.DefaultPassBuilder.define_nopython_pipeline(state).passes
    missing = compiled_parts._FOR_WHAT_IS_NOT_HERE - {kind.name() for kind, _ in passes}
    assert missing == set()


def test_flags_that_are_equal_are_one_object() -> None:
    plain = compiler.Flags()
    first, second = compiled_parts._Flags(plain).copy(), compiled_parts._Flags(plain).copy()
    assert first is second
    assert first.no_compile
    plain.boundscheck = True
    other = compiled_parts._Flags(plain).copy()
    assert other is not first
    assert other != first
    assert (other.boundscheck, first.boundscheck) == (True, False)


def test_errors_come_out_of_parts() -> None:
    @compiled
    def positive(value: int) -> int:
        if value <= 0:
            raise ValueError("not positive")
        return value

    @compiled
    def total(values: Any) -> int:
        count = 0
        for value in values:
            count += positive(value)
        return count

    assert total(np.array([1, 2, 3])) == 6
    with pytest.raises(ValueError, match="not positive"):
        total(np.array([1, -2, 3]))


def test_a_part_may_call_itself() -> None:
    @compiled
    def factorial(value: int) -> int:
        if value <= 1:
            return 1
        return value * factorial(value - 1)

    @compiled
    def ratio(value: int) -> int:
        return factorial(value) // factorial(value - 1)

    assert ratio(9) == 9
    assert factorial(5) == 120


MODULE = """
from switchml.protocol.jit import compiled

@compiled
def inner(value):
    if value < 0:
        raise ValueError("negative")
    return value + 1

@compiled
def outer(value):
    return inner(inner(value))
"""
PROGRAM = """
import parts
print(parts.outer(40), sum(parts.outer.stats.cache_hits.values()))
try:
    parts.outer(-1)
except ValueError as error:
    print(error)
"""


OF_NUMBA_ITSELF = """
import sys
sys.modules["switchml.protocol.compiled_parts"] = None
import parts
print(parts.outer(40), type(parts.outer).__name__)
"""


def test_a_numba_that_is_made_otherwise_compiles_in_its_own_way(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text(MODULE)
    done = subprocess.run(
        [sys.executable, "-c", OF_NUMBA_ITSELF],
        cwd=tmp_path,
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["42", "CPUDispatcher"]


def test_what_python_calls_is_kept_with_its_parts(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text(MODULE)
    cache = tmp_path / "cache"

    def run() -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=tmp_path,
            env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    assert run() == ["42", "0", "negative"]
    assert run() == ["42", "1", "negative"]
    assert {path.name.split("-")[0] for path in cache.rglob("*.nbi")} == {"parts.outer"}


def test_an_array_is_not_given_to_python() -> None:
    rest = compiled(lambda words: words[1:])
    both = compiled(lambda words: (words[1:], 2))
    inside = compiled(lambda words: rest(words)[0])
    words = np.arange(5)
    assert inside(words) == 1
    for function in (rest, both):
        with pytest.raises(Exception, match=r"return.* array"):
            function(words)
