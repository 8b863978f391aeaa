"""A torch future that can fail without a crash."""

from __future__ import annotations

import torch
from torch.futures import Future


class Promise:
    """`future` gets the tensor given to `keep`, or raises what is given to `fail`.

    Python's `Future.set_exception` would store the exception as a value, which DDP's reducer reads as a tensor: so it is
    raised inside `then`.
    """

    def __init__(self, raw: Future[torch.Tensor | None] | None = None) -> None:
        """raw: to be completed in place of a plain future; for tensors on a GPU, one of that device."""
        self._raw: Future[torch.Tensor | None] = Future() if raw is None else raw
        self._value: torch.Tensor | None = None
        self._error: BaseException | None = None
        self.future: Future[torch.Tensor] = self._raw.then(self._unwrap)

    def keep(self, value: torch.Tensor) -> None:
        """Of a tensor on a GPU the future is ready when the current stream is."""
        self._value = value
        self._raw.set_result(value)

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._raw.set_result(None)

    def _unwrap(self, _: Future[torch.Tensor | None]) -> torch.Tensor:
        if self._error is not None:
            raise self._error
        assert self._value is not None
        return self._value
