"""How long a fuzz test goes on: a number of inputs by itself, seconds under `make fuzz`."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator


def inputs(few: int, share: float = 1.0) -> Iterator[random.Random]:
    """A random generator for each input, by the number that stands in its seed.

    Args:
        few: how many without $SWITCHML_FUZZ_SECONDS; always the same ones.
        share: of these seconds.
    """
    seconds = float(os.environ.get("SWITCHML_FUZZ_SECONDS", "0"))
    first = int(os.environ.get("SWITCHML_FUZZ_SEED", "0"))
    end = time.monotonic() + seconds * share
    number = 0
    while number < few or time.monotonic() < end:
        yield random.Random(first * 10**9 + number)
        number += 1
    if seconds:
        print(f"{number} inputs from seed {first} on")
