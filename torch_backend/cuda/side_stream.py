"""A side stream, its events, its gates and its pinned memory.

A gate lets a stream wait for the host: what is queued behind it runs once the host has opened it. So all of a tensor's way can be
queued at once, back from the network as well, before the network has seen anything of it; and who wants the result lets their
stream wait for an event at the end of the queue, while their thread goes on.

Streams may share one of the device's queues (CUDA_DEVICE_MAX_CONNECTIONS). So whatever opens a gate must depend only on
work that was queued before it: then the device never waits for what stands behind the wait.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import torch
from torch.futures import Future
from typing_extensions import override

from switchml.errors import UsageError
from switchml.torch_backend.tensors import memory_of


class Mark(Protocol):
    """A place in the queue of a stream."""

    def synchronize(self) -> None:
        """Block until what stands before it is over. Without the GIL."""
        ...


class Gate(Protocol):
    """Closed any number of times by queueing, opened as often by the host, in the same order."""

    def close(self) -> None:
        """What is queued on the stream from here on waits for the next opening."""
        ...

    def open(self) -> None:
        """Let the stream pass one closing."""
        ...


class SideStream(Protocol):
    """Where the device's part of a sum is queued. It runs in order, beside the caller's own stream."""

    kernels: ModuleType
    """A module with `quantize` and `dequantize`, as `triton_kernels` has them."""

    def run(self, task: Callable[[], None]) -> None:
        """Queue what `task` launches."""
        ...

    def follow_caller(self) -> None:
        """What is queued from here on runs behind what the current stream of the caller has so far."""
        ...

    def follow(self, mark: Any) -> None:
        """What is queued from here on runs behind the mark of another stream."""
        ...

    def mark(self) -> Mark:
        """The place behind what is queued so far."""
        ...

    def gate(self) -> Gate:
        """A new gate of this stream."""
        ...

    def uses(self, tensor: torch.Tensor) -> None:
        """The memory must not be given to others before the stream is past what it has so far, though its owner drops it."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Host memory that the device copies from and to."""
        ...

    def future(self) -> Future[Any]:
        """To be completed within `run`, with tensors. Whoever waits for it makes their stream wait."""
        ...


class CudaStream(SideStream):
    """A stream of one GPU."""

    def __init__(self, device: torch.device) -> None:
        from switchml.torch_backend.cuda import triton_kernels

        self.kernels: ModuleType = triton_kernels
        self.device = device
        self.stream = torch.cuda.Stream(device)

    @override
    def run(self, task: Callable[[], None]) -> None:
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            task()

    @override
    def follow_caller(self) -> None:
        self.stream.wait_stream(torch.cuda.current_stream(self.device))

    @override
    def follow(self, mark: torch.cuda.Event) -> None:
        self.stream.wait_event(mark)

    @override
    def mark(self) -> Mark:
        event = torch.cuda.Event(blocking=True)
        event.record(self.stream)
        return event

    @override
    def gate(self) -> Gate:
        return _CudaGate(self)

    @override
    def uses(self, tensor: torch.Tensor) -> None:
        tensor.record_stream(self.stream)

    @override
    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    @override
    def future(self) -> Future[Any]:
        return Future(devices=[self.device])


class _CudaGate(Gate):
    """A word in pinned memory that counts openings. CUDA's runtime has no such wait, its driver has."""

    def __init__(self, stream: CudaStream) -> None:
        self._stream = stream
        self._word = stream.pinned((1,), torch.int32).zero_()
        self._value = memory_of(self._word)
        self._closings = 0
        try:
            self._wait = ctypes.CDLL("libcuda.so.1").cuStreamWaitValue32_v2
        except (OSError, AttributeError) as error:
            raise UsageError(
                "the CUDA driver has no cuStreamWaitValue32_v2: tensors on a GPU need the driver of CUDA 11.7 or later"
            ) from error
        self._wait.argtypes = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint)

    @override
    def close(self) -> None:
        self._closings += 1
        # Flags 0: until the word, taken modulo 2^32, is at least this number.
        with torch.cuda.device(self._stream.device):
            failed = self._wait(
                self._stream.stream.cuda_stream, self._word.data_ptr(), self._closings & 0xFFFFFFFF, 0
            )
        if failed:
            raise UsageError(f"the CUDA driver cannot let a stream wait for the host: error {failed}")

    @override
    def open(self) -> None:
        self._value += 1
