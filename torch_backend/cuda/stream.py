"""The side stream on which a tensor is quantized and copied, with its events and pinned memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Protocol

import torch
from torch.futures import Future


class SideStream(Protocol):
    """Where the device's part of a sum is queued. Everything queued runs in order, beside the caller's own stream."""

    kernels: ModuleType
    """`kernels` or `reference`: quantize and dequantize."""

    def enter(self, *, after_caller: bool = False) -> contextlib.AbstractContextManager[None]:
        """Work within goes to the side stream; `after_caller`: behind what the caller's stream has so far."""
        ...

    def pinned(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Host memory that the device copies from and to."""
        ...

    def mark(self) -> Callable[[], None]:
        """Call the result to wait, without the GIL, until what has been queued up to `mark` is over."""
        ...

    def future(self) -> Future[torch.Tensor | None]:
        """One whose tensor, set within `enter`, is ready when the side stream is: who waits for it makes their stream wait."""
        ...


class CudaStream:
    """A stream of one GPU."""

    def __init__(self, device: torch.device) -> None:
        from switchml.torch_backend.cuda import kernels

        self.kernels: ModuleType = kernels
        self._device = device
        self._stream = torch.cuda.Stream(device)

    @contextlib.contextmanager
    def enter(self, *, after_caller: bool = False) -> Iterator[None]:
        if after_caller:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            yield

    def pinned(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(count, dtype=dtype, pin_memory=True)

    def mark(self) -> Callable[[], None]:
        event = torch.cuda.Event(blocking=True)
        event.record(self._stream)
        return event.synchronize

    def future(self) -> Future[torch.Tensor | None]:
        return Future(devices=[self._device])


class HostStream:
    """A stand-in without a GPU: everything is done when it is queued, in torch."""

    def __init__(self) -> None:
        from switchml.torch_backend.cuda import reference

        self.kernels: ModuleType = reference

    @contextlib.contextmanager
    def enter(self, *, after_caller: bool = False) -> Iterator[None]:
        yield

    def pinned(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(count, dtype=dtype)

    def mark(self) -> Callable[[], None]:
        return lambda: None

    def future(self) -> Future[torch.Tensor | None]:
        return Future()
