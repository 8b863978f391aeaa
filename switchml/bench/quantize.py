"""Speed of the worker's quantize and dequantize next to memcpy of the same bytes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from switchml.bench.results import Spread, interleaved, paired_ratio
from switchml.errors import UsageError
from switchml.protocol.jit import compiled
from switchml.worker.kernels import bits_exponent, dequantize, quantize

_WORKERS = 4  # scales by it; the loops do not depend on it
_EXPONENT = 4  # covers normally distributed values

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]


@compiled
def quantize_blocks(values: Floats, packets: Words, block: int) -> int:
    """All blocks of a tensor as the send loop does it: the exponent of each, and the elements under a scale already agreed on.

    Args:
        values: the tensor, float32.
        packets: as many uint32, big-endian when done.
        block: elements of one.

    Returns:
        The sum of exponents, so that none is optimized away.
    """
    total = 0
    bits = values.view(np.uint32)
    for begin in range(0, values.size, block):
        total += bits_exponent(bits[begin : begin + block])
        quantize(values[begin : begin + block], packets[begin : begin + block], _EXPONENT, _WORKERS)
    return total


@compiled
def dequantize_blocks(packets: Words, values: Floats, block: int) -> int:
    """All blocks of a tensor as the receive loop does it: the way back of `quantize_blocks`.

    Returns:
        The number of elements.
    """
    for begin in range(0, values.size, block):
        dequantize(packets[begin : begin + block], values[begin : begin + block], _EXPONENT, _WORKERS)
    return values.size


@dataclass(frozen=True)
class KernelTimes:
    """One kernel at one size.

    Attributes:
        kernel: its name.
        size: bytes of the tensor.
        rounds: seconds of a pass, a value a round.
        memcpy: of the same rounds, for the ratio.
    """

    kernel: str
    size: int
    rounds: tuple[float, ...]
    memcpy: tuple[float, ...]

    @property
    def speed(self) -> Spread:
        """Bytes of the tensor a second."""
        return Spread.of([self.size / seconds for seconds in self.rounds])

    @property
    def ratio(self) -> Spread:
        """The time of memcpy divided by the kernel's."""
        return paired_ratio(self.memcpy, self.rounds)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **dataclasses.asdict(self),
            "speed": dataclasses.asdict(self.speed),
            "ratio": dataclasses.asdict(self.ratio),
        }


def measure_kernels(sizes: list[int], payload: int, rounds: int, min_time: float) -> list[KernelTimes]:
    """Times of memcpy, quantize and dequantize, in turns.

    Args:
        sizes: bytes of the tensor.
        payload: bytes of a block.
        rounds: in each, every kernel runs one batch.
        min_time: seconds that a batch lasts at least, about.

    Raises:
        UsageError: the payload is no whole number of elements.
    """
    if payload < 4 or payload % 4 or min(sizes) < 4:
        raise UsageError(f"payload {payload}: give a multiple of 4 bytes, and sizes of at least 4")
    found = []
    for size in sizes:
        values = np.random.default_rng(1).standard_normal(size // 4).astype(np.float32)
        packets = np.empty(values.size, np.uint32)
        found += _measure_size(values, packets, payload // 4, rounds, min_time)
    return found


def _measure_size(
    values: Floats, packets: Words, block: int, rounds: int, min_time: float
) -> list[KernelTimes]:
    target = np.empty_like(values)
    kernels: dict[str, Callable[[], Any]] = {
        "memcpy": lambda: np.copyto(target, values),
        "quantize": lambda: quantize_blocks(values, packets, block),
        "dequantize": lambda: dequantize_blocks(packets, target, block),
    }
    passes = {}
    for name, kernel in kernels.items():
        kernel()  # compiles, and touches the memory
        passes[name] = max(1, round(min_time / max(_seconds(kernel, 3), 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in kernels}
    for _, name in interleaved(list(kernels), rounds):
        times[name].append(_seconds(kernels[name], passes[name]))
    memcpy = tuple(times["memcpy"])
    return [KernelTimes(name, values.nbytes, tuple(times[name]), memcpy) for name in kernels]


def _seconds(kernel: Callable[[], Any], passes: int) -> float:
    started = time.perf_counter()
    for _ in range(passes):
        kernel()
    return (time.perf_counter() - started) / passes
