"""Handles that C++ may still hold when Python has let go of them.

What is written in Python of a handle lives in its Python object. DDP's join, and whatever else takes a handle from Python, keeps
only the C++ half; torch's own methods would then answer, and wait for ever. So a handle whose last Python reference goes is kept
a while.
"""

from __future__ import annotations

from collections import deque
from sys import is_finalizing

import torch
from torch._C._distributed_c10d import Work

KEPT = 1024
"""Collectives of a group after which a handle can really go. DDP's join waits for its own after a forward pass."""

SMALL = 4096
"""Bytes of results up to which they are kept as well: C++ asks handles of flags and counts for them."""


class KeptHandles:
    """Of one group. Thread-safe, as far as a deque is."""

    def __init__(self) -> None:
        self._handles: deque[KeptHandle] = deque()

    def keep(self, handle: KeptHandle) -> None:
        """Take the last reference; lets go of the oldest ones that are over."""
        handles = self._handles
        handles.append(handle)
        try:
            while len(handles) > KEPT and handles[0].is_over():
                handles.popleft()
        except IndexError:  # another thread was quicker
            return

    def clear(self) -> None:
        """When the group ends."""
        self._handles.clear()


class KeptHandle(Work):
    """Base of the handles of this backend.

    Args:
        outputs: the tensors that hold the result.
        keeper: takes the handle when Python lets go of it; None for one that its caller waits for at once.
    """

    def __init__(self, outputs: list[torch.Tensor], keeper: KeptHandles | None) -> None:
        super().__init__()
        self._outputs: list[torch.Tensor] | None = outputs
        self._keeper = keeper

    def is_over(self) -> bool:
        """Whether nothing is in flight any more. Unlike `is_completed` it moves nothing on."""
        raise NotImplementedError

    def shed(self) -> bool:
        """Let go of large results, now or when they are there. False if that would leave nothing worth keeping."""
        raise NotImplementedError

    def outputs(self) -> list[torch.Tensor]:
        """The tensors that hold the result.

        Raises:
            RuntimeError: nobody held the handle in Python, and they were too large to be kept.
        """
        if self._outputs is None:
            raise RuntimeError(
                "the tensors of this collective are gone: keep its handle in Python to ask for them later"
            )
        return self._outputs

    def __del__(self) -> None:
        # Runs once in an object's life, so the second time it goes for good.
        keeper = getattr(self, "_keeper", None)
        if keeper is None or self._outputs is None:
            return
        if is_finalizing():  # no thread could be started any more, and nobody asks
            return
        if sum(output.numel() * output.element_size() for output in self._outputs) > SMALL:
            if not self.shed():
                return
            self._outputs = None
        keeper.keep(self)
