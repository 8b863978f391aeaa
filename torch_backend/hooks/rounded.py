"""One bucket of gradients on a narrow wire, over all steps: what rounding took, and how the next step is rounded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from switchml.worker.transfer import Rounding

Floats = npt.NDArray[np.float32]


class RoundedBucket:
    """A bucket of one rank.

    Values are rounded stochastically: up with the probability of the fraction, so that the expectation of what is sent is the
    value itself. What rounding took is kept and added to the bucket's next gradient: error feedback (Seide et al., Interspeech
    2014; Karimireddy et al., ICML 2019), so that the errors of this rank's share of the averages don't add up over time.

    Args:
        count: float32 values.
        seed: of the rounding; should differ over ranks and buckets.
        feedback: keep what rounding took.

    Attributes:
        kept: what rounding took, (count,); while a step is under way, what it sums.
    """

    def __init__(self, count: int, seed: list[int], feedback: bool) -> None:
        self.kept: Floats = np.zeros(count if feedback else 0, np.float32)
        self.count = count
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._feedback = feedback

    def next_step(self, gradient: Floats) -> tuple[Floats, Rounding]:
        """What to sum for the next gradient, and how it is rounded. The result may go to `gradient`."""
        rounding = Rounding(int(self._random.integers(1 << 32)), self._feedback)
        if not self._feedback:
            return gradient, rounding
        with np.errstate(all="ignore"):
            self.kept += gradient
        return self.kept, rounding
