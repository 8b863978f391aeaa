"""The quantizers for tensors on a GPU, in torch and in Triton, give the bits of the worker's own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="torch is in the extra `torch`")

import torch
import torch_kernels

from switchml.protocol.numerics import EXACT_EXPONENT
from switchml.worker.kernels import block_exponent, dequantize, quantize

BLOCK = 64


def _expected(
    values: np.ndarray, agreed: np.ndarray | None, workers: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exponents, words in network order, and the values of those words as sums."""
    parts = [values[begin : begin + BLOCK] for begin in range(0, values.size, BLOCK)]
    exponents = np.array([block_exponent(part) for part in parts], np.int8) if agreed is None else agreed
    words, back = np.zeros(values.size, np.uint32), np.zeros(values.size, np.float32)
    for number, part in enumerate(parts):
        where = slice(number * BLOCK, number * BLOCK + part.size)
        if exponents[number] == EXACT_EXPONENT:
            words[where], back[where] = part.view(np.uint32).byteswap(), part
        else:
            quantize(part, words[where], int(exponents[number]), workers)
            dequantize(words[where], back[where], int(exponents[number]), workers)
    return exponents, words, back


def check(kernels: object, values: np.ndarray, workers: int, raise_by: int) -> None:
    """Both calls of the quantizer and the way back, against the worker's loops."""
    own, first_words, _ = _expected(values, None, workers)
    tensor, words = torch.from_numpy(values), torch.empty(values.size, dtype=torch.int32)
    exponents = torch.empty(own.size, dtype=torch.int8)
    for big_endian in (True, False):
        kernels.quantize(tensor, words, exponents, workers, BLOCK, big_endian=big_endian)
        sent = words.numpy().view(np.uint32)
        np.testing.assert_array_equal(exponents.numpy(), own)
        np.testing.assert_array_equal(sent if big_endian else sent.byteswap(), first_words)

    raised = np.where(np.arange(own.size) % 2, np.minimum(own.astype(int) + raise_by, 126), own)
    agreed = np.where(own == EXACT_EXPONENT, own, raised).astype(np.int8)
    _, last_words, back = _expected(values, agreed, workers)
    kernels.quantize(tensor, words, exponents, workers, BLOCK, agreed=torch.from_numpy(agreed))
    np.testing.assert_array_equal(words.numpy().view(np.uint32).byteswap(), last_words)
    np.testing.assert_array_equal(exponents.numpy(), agreed)
    for average in (False, True):
        out = torch.full((values.size,), 3.0)
        kernels.dequantize(words, out, exponents, workers, BLOCK, average=average)
        exact = np.repeat(agreed == EXACT_EXPONENT, BLOCK)[: values.size]
        with np.errstate(all="ignore"):
            divided = back / np.float32(workers) if average else back
        expected = np.where(exact, back, divided)
        np.testing.assert_array_equal(out.numpy().view(np.uint32), expected.view(np.uint32))


def samples(seed: int, count: int) -> np.ndarray:
    """Normal numbers, and in some blocks tiny, huge, non-finite, half-way and zero ones."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(count).astype(np.float32)
    blocks = -(-count // BLOCK)
    for number, change in enumerate(random.integers(0, 8, blocks)):
        part = values[number * BLOCK : (number + 1) * BLOCK]
        with np.errstate(over="ignore"):
            if change == 0:
                part *= np.float32(2.0) ** np.float32(random.integers(-140, 120))
            elif change == 1:
                part[random.integers(part.size)] = random.choice([np.inf, -np.inf, np.nan, 2.0**126])
            elif change == 2:
                part[:] = 0
            elif change == 3:
                part[:] = random.integers(-(2**24), 2**24, part.size) * np.float32(0.5)
                part[0] = 2.0**30
    return values


@given(st.integers(0, 10**6), st.integers(1, 700), st.sampled_from([1, 2, 3, 8, 64, 256]), st.integers(0, 9))
def test_torch_gives_the_bits_of_the_worker(seed: int, count: int, workers: int, raise_by: int) -> None:
    check(torch_kernels, samples(seed, count), workers, raise_by)


_INTERPRETED = """
import sys
sys.path[:0] = sys.argv[1:]
import test_kernels_of_torch as tests
from switchml.torch_backend.cuda import triton_kernels as kernels
for seed in range(40):
    workers = [1, 2, 3, 8, 64, 256][seed % 6]
    tests.check(kernels, tests.samples(seed, 1 + 37 * seed), workers, seed % 10)
print("equal")
"""


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is in the extra `clients`: make test-clients"
)
def test_triton_gives_the_bits_of_the_worker() -> None:
    """Under Triton's interpreter, which has to be chosen before Triton is imported."""
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            _INTERPRETED,
            str(Path(__file__).parent),
            str(Path(torch_kernels.__file__).parent),
        ],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "equal"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_bits_of_the_worker() -> None:
    from switchml.torch_backend.cuda import triton_kernels as kernels

    class OnDevice:
        """The kernels over copies on the GPU."""

        @staticmethod
        def quantize(values, words, exponents, workers, block, *, agreed=None, big_endian=False):  # type: ignore[no-untyped-def]
            there = [tensor.cuda() for tensor in (values, words, exponents)]
            agreed = None if agreed is None else agreed.cuda()
            kernels.quantize(*there, workers, block, agreed=agreed, big_endian=big_endian)
            words.copy_(there[1])
            exponents.copy_(there[2])

        @staticmethod
        def dequantize(sums, out, exponents, workers, block, *, average):  # type: ignore[no-untyped-def]
            there = [tensor.cuda() for tensor in (sums, out, exponents)]
            kernels.dequantize(*there, workers, block, average=average)
            out.copy_(there[1])

    for seed in range(200):
        check(OnDevice, samples(seed, 1 + 37 * seed), [1, 2, 3, 8, 64, 256][seed % 6], seed % 10)
