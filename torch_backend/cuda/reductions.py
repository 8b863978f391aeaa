"""Sums and averages of tensors on GPUs: which room each one takes, and what happens when one fails."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.futures import Future

from switchml.torch_backend.cuda.side_stream import CudaStream
from switchml.torch_backend.cuda.staged import BLOCK, StagedReduction, Streams, Trip
from switchml.torch_backend.job_pair import JobPair

IDLE_ROOMS = 64
"""Rooms kept for the next tensor of their size: a model has few buckets. Each holds 8 bytes a value, half of it pinned."""


def cuda_streams(device: torch.device, workers: int) -> Streams:
    """Of one GPU. Kernels are loaded here: while a stream waits for the host, loading could wait for the stream."""
    streams = Streams(CudaStream(device), CudaStream(device))
    kernels = streams.down.kernels
    for count in (BLOCK, BLOCK + 1):  # compiled apart: sizes with and without a factor of 16
        blocks = -(-count // BLOCK)
        values, words = (
            torch.zeros(count, device=device),
            torch.zeros(count, dtype=torch.int32, device=device),
        )
        exponents = torch.zeros(blocks, dtype=torch.int8, device=device)
        for again in (False, True):
            agreed = exponents.clone() if again else None
            kernels.quantize(values, words, exponents, workers, BLOCK, agreed=agreed)
            kernels.dequantize(words, values, exponents, workers, BLOCK, average=again)
    torch.cuda.synchronize(device)
    return streams


OpenStreams = Callable[[torch.device, int], Streams]
"""(device, world size) -> its streams."""


@dataclass
class Flight:
    """A collective of tensors on a GPU.

    Attributes:
        future: done once everything is queued: who waits for it makes their stream wait for the result.
        ended: the network is done with it, well or not. Then `error` is set if it failed; the result is NaN in that case.
    """

    future: Future[Any]
    ended: threading.Event
    error: BaseException | None = None


class DeviceReductions:
    """Reductions of one group. `reduce` is called from one thread at a time, in the same order on all ranks.

    Nobody waits on the host, so there is nobody to raise an error when it happens: the result becomes NaN, and the next
    call raises.

    Args:
        jobs: used by this alone, or else with all that waits for exponents on `jobs.ordered`.
        open_streams: makes the streams of a device.
    """

    def __init__(self, jobs: JobPair, open_streams: OpenStreams = cuda_streams) -> None:
        self.jobs, self._open_streams = jobs, open_streams
        self._streams: dict[torch.device, Streams] = {}
        self._lock = threading.Lock()
        self._rooms: OrderedDict[int, tuple[torch.device, StagedReduction]] = OrderedDict()  # idle ones
        self._failure: BaseException | None = None

    def check(self) -> None:
        """Raise what an earlier collective failed with."""
        if self._failure is not None:
            raise self._failure

    def failed(self, error: BaseException) -> None:
        """Let the next collective raise `error`, unless an earlier one is to be raised."""
        self._failure = self._failure or error

    def streams(self, device: torch.device) -> Streams:
        """The two streams of a device; made at its first use."""
        if device not in self._streams:
            self._streams[device] = self._open_streams(device, self.jobs.world_size)
        return self._streams[device]

    def reduce(self, tensor: torch.Tensor, *, average: bool, value: Any) -> Flight:
        """Sum or average `tensor`, dense and floating point, over the ranks, in place and in float32.

        Args:
            tensor: on a GPU; must be left alone until the future is done.
            average: divide by the number of ranks.
            value: of the future.

        Raises:
            SwitchMLError: a collective before this one failed.
        """
        self.check()
        streams = self.streams(tensor.device)
        there = tensor.detach()
        values = there.reshape(-1).float()
        room = self._room(streams, tensor.device, values.numel())
        trip = room.queue(values, average=average)

        def copy_back() -> None:
            there.copy_(values.view(there.shape))

        if values.data_ptr() != there.data_ptr():
            streams.up.uses(there)
            streams.up.run(copy_back)
        future = streams.up.future()
        flight = Flight(future, threading.Event())
        streams.up.run(functools.partial(future.set_result, value))
        self.jobs.ordered.submit(functools.partial(self._send, trip, room, tensor.device, flight))
        return flight

    def _send(self, trip: Trip, room: StagedReduction, device: torch.device, flight: Flight) -> None:
        try:
            trip.send(self.jobs.reduce_exponents, self.jobs.reduce_values)
        except Exception as error:
            self.jobs.pool.submit(functools.partial(self._end, trip, room, device, flight, error))
        else:
            self.jobs.pool.submit(functools.partial(self._receive, trip, room, device, flight))

    def _receive(self, trip: Trip, room: StagedReduction, device: torch.device, flight: Flight) -> None:
        failure: BaseException | None = None
        try:
            trip.receive()
        except Exception as error:
            failure = error
        self._end(trip, room, device, flight, failure)

    def _end(
        self,
        trip: Trip,
        room: StagedReduction,
        device: torch.device,
        flight: Flight,
        error: BaseException | None,
    ) -> None:
        if error is not None:
            flight.error = error
            self.failed(error)
            trip.give_up()
        flight.ended.set()
        with self._lock:
            self._rooms[id(room)] = device, room
            spare = self._rooms.popitem(last=False)[1][1] if len(self._rooms) > IDLE_ROOMS else None
        if spare is not None:
            spare.rest()

    def _room(self, streams: Streams, device: torch.device, count: int) -> StagedReduction:
        with self._lock:
            for key, (place, room) in self._rooms.items():
                if place == device and room.count == count:
                    del self._rooms[key]
                    return room
        return StagedReduction(streams, device, count, self.jobs.world_size)
