"""The quantizer's use of the device's memory, next to a copy within the device.

python -m switchml.torch_backend.cuda.measure [MILLION_VALUES]
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from switchml.torch_backend.cuda.staged import BLOCK

_REPEATS = 50
_GOAL = 0.8  # of what a copy reaches


def seconds(launch: Callable[[], object]) -> float:
    """Median time of one launch on the GPU, after some to warm up."""
    for _ in range(5):
        launch()
    times = []
    for _ in range(_REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        launch()
        end.record()
        end.synchronize()
        times.append(float(begin.elapsed_time(end)) / 1e3)
    return sorted(times)[_REPEATS // 2]


def main() -> None:
    """Print rates in bytes a second, and exit with 1 if the quantizer is slower than it should be."""
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: there is nothing to measure")
    from switchml.torch_backend.cuda import triton_kernels as kernels

    count = int(sys.argv[1] if len(sys.argv) > 1 else 64) * 1_000_000
    values = torch.randn(count, device="cuda")
    words = torch.empty(count, dtype=torch.int32, device="cuda")
    exponents = torch.empty(-(-count // BLOCK), dtype=torch.int8, device="cuda")
    other = torch.empty_like(values)
    copy = 8 * count / seconds(lambda: other.copy_(values))
    moved = 8 * count + exponents.numel()
    rates = {
        "quantize": moved / seconds(lambda: kernels.quantize(values, words, exponents, 8, BLOCK)),
        "dequantize": moved
        / seconds(lambda: kernels.dequantize(words, other, exponents, 8, BLOCK, average=True)),
    }
    print(f"{torch.cuda.get_device_name()}, {count} values; bytes read and written a second")
    print(f"copy        {copy / 1e9:8.1f} GB/s")
    for name, rate in rates.items():
        print(f"{name:11} {rate / 1e9:8.1f} GB/s   {rate / copy:.2f} of the copy")
    if rates["quantize"] < _GOAL * copy:
        sys.exit(f"quantize is below {_GOAL} of a copy")


if __name__ == "__main__":
    main()
