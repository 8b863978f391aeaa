"""How long a fuzz test goes on: a number of inputs by itself, seconds under `make fuzz`."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator


def inputs(few: int, share: float, each: int = 1) -> Iterator[random.Random]:
    """A random generator for each input.

    Args:
        few: how many without $SWITCHML_FUZZ_SECONDS, always the same ones.
        share: of these seconds, where they are given.
        each: inputs that a generator makes, where several go in at once.
    """
    seconds = float(os.environ.get("SWITCHML_FUZZ_SECONDS", "0"))
    first = int(os.environ.get("SWITCHML_FUZZ_SEED", "0"))
    end = time.monotonic() + seconds * share
    number = 0
    while time.monotonic() < end if seconds else number < few:
        yield random.Random(first * 10**9 + number)
        number += 1
    if seconds:
        print(f"{number * each} inputs from seed {first} on")
