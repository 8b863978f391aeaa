"""One tensor's way from the GPU to the switch and back.

    side stream    exponents and words under own exponents -> exponents to the host
    switch         maximum of the exponents
    side stream    exponents to the GPU -> words anew where they have changed -> words to the host, chunk by chunk
    switch         sums of words, chunk by chunk, each as soon as it has come
    side stream    sums to the GPU -> values, chunk by chunk

so PCIe carries 4 bytes a value each way and 1 byte a block, copies overlap with the network, and no host code touches a
value. The host's threads wait for the network and for copies; the caller's stream waits for the side stream's last event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from switchml.protocol.numerics import EXACT_EXPONENT
from switchml.torch_backend.cuda.stream import SideStream
from switchml.torch_backend.worker_port import PendingCollective

Array = npt.NDArray[Any]
Reduce = Callable[[Array, str], PendingCollective]

BLOCK = 256
"""Values that share an exponent: 1024 bytes of words, as a packet of the reference."""
CHUNK = 1 << 20
"""Values in a copy, a multiple of BLOCK: 4 MiB, long enough for PCIe and short enough to overlap."""


class StagedAverage:
    """Room for one tensor of `count` float32 values on its way, for many averages one after the other."""

    def __init__(self, stream: SideStream, device: torch.device, count: int, workers: int) -> None:
        self._stream, self._workers, self.count = stream, workers, count
        blocks = -(-count // BLOCK)
        self._words = torch.empty(count, dtype=torch.int32, device=device)
        self._exponents = torch.empty(blocks, dtype=torch.int8, device=device)
        self._agreed = torch.empty(blocks, dtype=torch.int8, device=device)
        self._host_words = stream.pinned(count, torch.int32)
        self._host_exponents = stream.pinned(blocks, torch.int8)
        self._measured: Callable[[], None] = lambda: None

    def begin(self, values: torch.Tensor) -> None:
        """Queue the first pass over `values`, float32 (count,), behind what the caller's stream has so far. Does not wait."""
        with self._stream.enter(after_caller=True):
            self._stream.kernels.quantize(values, self._words, self._exponents, self._workers, BLOCK)
            self._host_exponents.copy_(self._exponents, non_blocking=True)
            self._measured = self._stream.mark()

    def send(self, values: torch.Tensor, scales: Reduce, words: Reduce) -> Callable[[], None]:
        """Give everything to the switch, as it comes from the device. Waits for the device and for the exponents.

        Returns what is to be called next, on another thread: it waits for the sums, queues their way to `values`, and returns
        when all is queued, the last of it on the side stream.

        Args:
            scales: submits an all-reduce of exponents.
            words: one of words, or of the values of blocks that do not fit the scheme.
        """
        self._measured()
        scales(self._host_exponents.numpy(), "max").wait()
        exact = np.flatnonzero(self._host_exponents.numpy() == EXACT_EXPONENT)
        copies = []
        with self._stream.enter():
            self._agreed.copy_(self._host_exponents, non_blocking=True)
            self._stream.kernels.quantize(
                values, self._words, self._exponents, self._workers, BLOCK, agreed=self._agreed
            )
            strange = self._rows(values, exact).cpu() if exact.size else None
            for begin in range(0, self.count, CHUNK):
                part = slice(begin, min(begin + CHUNK, self.count))
                self._host_words[part].copy_(self._words[part], non_blocking=True)
                copies.append((part, self._stream.mark()))
        sums = []
        for part, copied in copies:
            copied()
            sums.append((part, words(self._host_words[part].numpy(), "sum")))
        rest = None if strange is None else words(strange.numpy(), "avg")

        def receive() -> None:
            for part, pending in sums:
                pending.wait()
                with self._stream.enter():
                    self._words[part].copy_(self._host_words[part], non_blocking=True)
                    blocks = slice(part.start // BLOCK, -(-part.stop // BLOCK))
                    self._stream.kernels.dequantize(
                        self._words[part],
                        values[part],
                        self._agreed[blocks],
                        self._workers,
                        BLOCK,
                        average=True,
                    )
            if rest is not None:
                averages = torch.from_numpy(rest.wait())
                with self._stream.enter():
                    self._set_rows(values, exact, averages.to(values.device))

        return receive

    @staticmethod
    def _rows(values: torch.Tensor, blocks: npt.NDArray[np.intp]) -> torch.Tensor:
        """Blocks that do not fit the scheme, (blocks, BLOCK), zeros beyond the end."""
        rows = torch.zeros(len(blocks), BLOCK, device=values.device)
        for row, block in zip(rows, blocks.tolist(), strict=True):
            part = values[block * BLOCK : (block + 1) * BLOCK]
            row[: part.numel()] = part
        return rows

    @staticmethod
    def _set_rows(values: torch.Tensor, blocks: npt.NDArray[np.intp], rows: torch.Tensor) -> None:
        for row, block in zip(rows, blocks.tolist(), strict=True):
            part = values[block * BLOCK : (block + 1) * BLOCK]
            part.copy_(row[: part.numel()])
