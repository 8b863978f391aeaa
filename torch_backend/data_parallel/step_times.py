"""How long this rank's training steps took, and what of it was waiting."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass
class StepTimes:
    """Sums over all training loops.

    Attributes:
        batches: that were trained with.
        seconds: in training loops.
        input: of these, in waiting for a loader's next batch.
        network: of these, in waiting for sums of gradients.
    """

    batches: int = 0
    seconds: float = 0.0
    input: float = 0.0
    network: float = 0.0

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Adds the time within to `input` or `network`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, what, getattr(self, what) + time.perf_counter() - begin)

    def write(self, folder: str, rank: int) -> None:
        """For who started the ranks."""
        (Path(folder) / f"{rank}.json").write_text(json.dumps(asdict(self)))
