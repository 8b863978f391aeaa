"""How long a fuzz test goes on: a number of inputs by itself, seconds under `make fuzz`."""

from __future__ import annotations

import importlib.util
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

Test = TypeVar("Test", bound=Callable[..., None])

drawn: Callable[[float], Iterator[random.Random]] | None = None
"""Where guided_run.py has been here: the generators of that many seconds."""


def seconds() -> float:
    """Of all tests together; 0 without `make fuzz`."""
    return float(os.environ.get("SWITCHML_FUZZ_SECONDS", "0"))


def seed() -> int:
    """The number that all generators follow from."""
    return int(os.environ.get("SWITCHML_FUZZ_SEED", "0"))


def can_be_guided() -> bool:
    """Whether atheris is installed, and guides a test with seconds to spend by what code its inputs reach."""
    return drawn is None and seconds() > 0 and importlib.util.find_spec("atheris") is not None


def guided(*packages: str) -> Callable[[Test], Test]:
    """Of a test of plain Python, where atheris can see what code an input reaches.

    Args:
        packages: where to look, while compiled code stays compiled; none: everywhere, and nothing is compiled.
    """

    def mark(test: Test) -> Test:
        test.guided = packages  # type: ignore[attr-defined]
        return test

    return mark


def inputs(few: int, share: float, each: int = 1) -> Iterator[random.Random]:
    """A random generator for each input.

    Args:
        few: how many without $SWITCHML_FUZZ_SECONDS, always the same ones.
        share: of these seconds, where they are given.
        each: inputs that a generator makes, where several go in at once.
    """
    limit = seconds() * share
    if drawn is not None:
        yield from drawn(limit)
        return
    first = seed()
    end = time.monotonic() + limit
    number = 0
    while time.monotonic() < end if limit else number < few:
        yield random.Random(first * 10**9 + number)
        number += 1
    if limit:
        print(f"{number * each} inputs from seed {first} on")
