"""One tensor's way from the GPU to the switch and back.

    stream `down`   exponents, and words under them -> exponents to the host -> (gate)
    switch          maximum of the exponents; opens the gate
    stream `down`   exponents to the GPU -> words anew where they have changed -> words to the host, chunk by chunk
    switch          sums of words, chunk by chunk, each as soon as it has come; opens a gate a chunk
    stream `up`     (gate) -> sums to the GPU -> values, chunk by chunk

so PCIe carries 4 bytes a value each way and 3 bytes a block, copies overlap with the network, and no host code touches a
value. All of it is queued by the caller before the network has seen any: only threads of ours wait for it, and the
caller's stream.

Blocks with exponent 127, which do not fit the scheme, travel as the bits of their values in the place of their words;
the host takes them out, has them reduced exactly, and puts the result's bits in.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from switchml.protocol.numerics import EXACT_EXPONENT
from switchml.torch_backend.cuda.side_stream import Mark, SideStream
from switchml.torch_backend.tensors import memory_of
from switchml.worker.work import Work

Array = npt.NDArray[Any]
Reduce = Callable[[Array, str], Work]

BLOCK = 256
"""Values that share an exponent: 1024 bytes of words, as a packet of the reference."""
CHUNK = 1 << 20
"""Values in a copy, a multiple of BLOCK: 4 MiB, long enough for PCIe and short enough to overlap."""


@dataclass(frozen=True)
class Streams:
    """Two, so that a tensor can go down while the one before has yet to come up."""

    down: SideStream
    up: SideStream


class StagedReduction:
    """Room for one float32 tensor of `count` values on its way, for many reductions one after the other."""

    def __init__(self, streams: Streams, device: torch.device, count: int, workers: int) -> None:
        self._down, self._up, self._workers, self.count = streams.down, streams.up, workers, count
        blocks = -(-count // BLOCK)
        self._words = torch.empty(count, dtype=torch.int32, device=device)
        self._exponents, self._agreed, self._agreed_up = (
            torch.empty(blocks, dtype=torch.int8, device=device) for _ in range(3)
        )
        for tensor in (self._words, self._exponents, self._agreed, self._agreed_up):
            streams.down.uses(tensor)
            streams.up.uses(tensor)
        self.host_words = streams.down.pinned((count,), torch.int32)
        self.host_exponents = streams.down.pinned((blocks,), torch.int8)
        self.parts = [slice(begin, min(begin + CHUNK, count)) for begin in range(0, count, CHUNK)]
        self.agreed_gate, self.sums_gate = streams.down.gate(), streams.up.gate()
        self._over: Mark | None = None

    def queue(self, values: torch.Tensor, *, average: bool) -> Trip:
        """Queue everything, behind what the caller's stream has so far; the result goes to `values`, float32 (count,).

        The result is there when the stream `up` is past what it has then. It may be called again before that.
        """
        down, up = self._down, self._up
        down.follow_caller()
        if self._over is not None:
            down.follow(self._over)  # the last use of the same memory
        for stream in (down, up):
            stream.uses(values)
        down.run(lambda: self._measure(values))
        measured = down.mark()
        self.agreed_gate.close()
        down.run(lambda: self._correct(values))
        copied = []
        for part in self.parts:
            down.run(functools.partial(self._copy_down, part))
            copied.append(down.mark())
        for part in self.parts:
            self.sums_gate.close()
            up.run(functools.partial(self._copy_up, part, values, average))
        self._over = up.mark()
        return Trip(self, measured, copied, "avg" if average else "sum")

    def rest(self) -> None:
        """Wait until the device is done with this room; it may be dropped then, with the gates that the device reads."""
        if self._over is not None:
            self._over.synchronize()

    def _measure(self, values: torch.Tensor) -> None:
        self._down.kernels.quantize(values, self._words, self._exponents, self._workers, BLOCK)
        self.host_exponents.copy_(self._exponents, non_blocking=True)

    def _correct(self, values: torch.Tensor) -> None:
        self._agreed.copy_(self.host_exponents, non_blocking=True)
        self._down.kernels.quantize(
            values, self._words, self._exponents, self._workers, BLOCK, agreed=self._agreed
        )

    def _copy_down(self, part: slice) -> None:
        self.host_words[part].copy_(self._words[part], non_blocking=True)

    def _copy_up(self, part: slice, values: torch.Tensor, average: bool) -> None:
        blocks = slice(part.start // BLOCK, -(-part.stop // BLOCK))
        # Once more: the host may have changed them since, to give up.
        exponents, words = self._agreed_up[blocks], self._words[part]
        exponents.copy_(self.host_exponents[blocks], non_blocking=True)
        words.copy_(self.host_words[part], non_blocking=True)
        self._up.kernels.dequantize(words, values[part], exponents, self._workers, BLOCK, average=average)


class Trip:
    """The host's part of one reduction: `send`, then `receive` on another thread; after an error in either `give_up`.

    They come in the order of the trips.
    """

    def __init__(self, staged: StagedReduction, measured: Mark, copied: list[Mark], reduction: str) -> None:
        self._staged, self._measured, self._copied, self._reduction = staged, measured, copied, reduction
        self._words: Array = memory_of(staged.host_words)
        self._sums: list[Work] = []
        self._rest: Work | None = None
        self._strange: list[slice] = []  # blocks that do not fit the scheme
        self._agreed, self._arrived = False, 0

    def send(self, scales: Reduce, words: Reduce) -> None:
        """Give everything to the switch, as it comes from the device. Waits for the device and for the exponents.

        Args:
            scales: submits an all-reduce of exponents.
            words: one of words, or of the values of blocks that do not fit the scheme.
        """
        self._measured.synchronize()
        exponents: Array = memory_of(self._staged.host_exponents)
        scales(exponents, "max").wait()
        self._strange = [
            slice(block * BLOCK, min((block + 1) * BLOCK, self._staged.count))
            for block in np.flatnonzero(exponents == EXACT_EXPONENT).tolist()
        ]
        self._agree()
        rows = []
        for part, copied in zip(self._staged.parts, self._copied, strict=True):
            copied.synchronize()
            for place in self._strange:
                if part.start <= place.start < part.stop:
                    rows.append(self._words[place].view(np.float32).copy())
                    self._words[place] = 0
            self._sums.append(words(self._words[part], "sum"))
        if rows:
            self._rest = words(np.concatenate(rows), self._reduction)

    def receive(self) -> None:
        """Wait for the sums, and let the device have each chunk as it comes."""
        for pending in self._sums:
            pending.wait()
            if self._rest is None:
                self._arrive()
        if self._rest is not None:
            results = self._rest.wait().view(np.int32)
            for place in self._strange:
                size = place.stop - place.start
                self._words[place], results = results[:size], results[size:]
            for _ in self._sums:
                self._arrive()

    def give_up(self) -> None:
        """The device must not wait for ever: what has not come becomes NaN."""
        self._staged.host_exponents.fill_(EXACT_EXPONENT)
        self._agree()
        for copied in self._copied:
            copied.synchronize()
        for pending in self._sums:
            with contextlib.suppress(Exception):
                pending.wait()  # or it would still write
        missing = self._staged.parts[self._arrived :]
        for part in missing:
            self._words[part].view(np.float32)[:] = np.nan
        for _ in missing:
            self._arrive()

    def _agree(self) -> None:
        if not self._agreed:
            self._agreed = True
            self._staged.agreed_gate.open()

    def _arrive(self) -> None:
        self._arrived += 1
        self._staged.sums_gate.open()
