"""Sums on narrow wires through a bad network: the bits that a model in plain numpy gives, on every rank, whatever is lost."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from memory_network import MemoryNetwork
from narrow_model import narrow_sum
from virtual_network import NetworkConditions, Task, VirtualNetwork

from switchml.protocol.messages import WIRES, wire_lanes
from switchml.protocol.numerics import error_bound
from switchml.worker.window import BLOCKS, WORDS

_SEEDS = 200
_BITS = {"int16": 16, "int8": 8}
_BAD = NetworkConditions(loss=0.2, duplicate=0.2, reorder=0.2)

wires = pytest.mark.parametrize("wire", _BITS)


def _values(rng: np.random.Generator, workers: int, count: int) -> tuple[np.ndarray, ...]:
    """Gaussian, heavy-tailed, constant with signs (what reaches the lanes' ends), or zeros: of very different sizes."""
    rows = []
    kind = int(rng.integers(0, 4))
    for _ in range(workers):
        row: Any = rng.standard_normal(count) * 10.0 ** rng.integers(-20, 20)
        if kind == 1:
            row = rng.standard_t(2, count)
        elif kind == 2:
            row = rng.choice([-1.0, 1.0, -0.999, 0.999], count)
        elif kind == 3:
            row = row * rng.integers(0, 2)
        rows.append(row.astype(np.float32))
    return tuple(rows)


def _run(
    wire: str,
    seed: int,
    *,
    conditions: NetworkConditions | None = None,
    kind: type[VirtualNetwork] = VirtualNetwork,
) -> VirtualNetwork:
    dice, rng = random.Random(seed), np.random.default_rng(seed)
    workers, payload = dice.randint(1, 8), dice.choice([128, 256])
    block = payload // 4 * wire_lanes(wire)
    tasks = []
    for _ in range(dice.randint(1, 4)):
        count = dice.choice([1, 3, block, 2 * block + 5, 9 * block - 1])
        if dice.random() < 0.3:
            tasks.append(
                Task(WORDS, count, tuple(rng.integers(0, 2**32, count, np.uint32) for _ in range(workers)))
            )
        else:
            tasks.append(Task(BLOCKS, count, _values(rng, workers, count)))
    bad = NetworkConditions(loss=0.3 * dice.random(), duplicate=0.2 * dice.random(), reorder=0.2)
    network = kind(
        workers, dice.choice([1, 2, 4, 8]), payload, tuple(tasks), conditions or bad, seed, wire=wire
    )
    network.run()
    return network


@wires
@pytest.mark.parametrize("group", range(4))
def test_every_sum_is_the_models(wire: str, group: int) -> None:
    for seed in range(group, _SEEDS, 4):
        network = _run(wire, seed)
        for index, task in enumerate(network.tasks):
            if task.kind == BLOCKS:
                block = network.payload // 4 * wire_lanes(wire)
                expected = narrow_sum(task.sources, _BITS[wire], block)
            else:
                expected = np.sum(np.stack(task.sources), axis=0, dtype=np.uint32)
            for rank in range(network.workers):
                result = network.results(rank)[index]
                assert np.array_equal(result.view(np.uint32), expected.view(np.uint32)), (seed, rank, index)


@wires
def test_sums_in_memory_are_those_of_packets(wire: str) -> None:
    for seed in range(30):
        packets, memory = (_run(wire, seed, kind=kind) for kind in (VirtualNetwork, MemoryNetwork))
        for rank in range(packets.workers):
            for ours, theirs in zip(memory.results(rank), packets.results(rank), strict=True):
                assert ours.tobytes() == theirs.tobytes(), (seed, rank)


@wires
@pytest.mark.parametrize("workers", [1, 2, 3, 4, 8, 16])
def test_no_error_is_beyond_the_bound(wire: str, workers: int) -> None:
    """The lanes' ends are where it is largest: all at the top, or all at the bottom, or in between."""
    block = 32 * wire_lanes(wire)
    rng = np.random.default_rng(workers)
    almost = np.float32(np.nextafter(np.float32(2), np.float32(0)))
    tops = tuple(
        np.resize(np.array([almost, -almost, almost / 2], np.float32), block) for _ in range(workers)
    )
    mixed = _values(rng, workers, block)
    network = VirtualNetwork(
        workers, 2, 128, (Task(BLOCKS, block, tops), Task(BLOCKS, block, mixed)), _BAD, 1, wire=wire
    )
    network.run()
    for index, sources in enumerate((tops, mixed)):
        exact = np.sum(np.stack(sources).astype(np.float64), axis=0)
        exponent = max(int(np.frexp(np.abs(source).max())[1]) for source in sources)
        error = np.abs(network.results(0)[index] - exact).max()
        assert error <= error_bound(exponent, workers, _BITS[wire])


@pytest.mark.parametrize(
    ("wire", "tails", "most"),
    [("int8", False, 0.024), ("int8", True, 0.11), ("int16", False, 0.0001), ("int16", True, 0.0005)],
)
@pytest.mark.parametrize("workers", [4, 8])
def test_the_error_is_that_of_the_documented_table(wire: str, tails: bool, most: float, workers: int) -> None:
    """Root mean square, over that of the sum, in packets of 1024 bytes; tails: Student's t with 3 degrees of freedom.

    A fifth above the table's largest of these columns, as a tail's few blocks differ.
    """
    rng, count = np.random.default_rng(workers), 1 << 15
    rows: Any = rng.standard_t(3, (workers, count)) if tails else rng.standard_normal((workers, count))
    sources = tuple(row.astype(np.float32) for row in rows)
    network = VirtualNetwork(
        workers, 8, 1024, (Task(BLOCKS, count, sources),), NetworkConditions(loss=0.01), 1, wire=wire
    )
    network.run()
    exact = np.sum(np.stack(sources).astype(np.float64), axis=0)
    error = network.results(0)[0] - exact
    assert most / 4 < np.sqrt(np.mean(error**2) / np.mean(exact**2)) < most


@wires
def test_stochastic_rounding_is_unbiased_and_repeats(wire: str) -> None:
    """The mean over the roundings of one value goes to the value: within 6 standard errors."""
    workers, block = 2, 32 * wire_lanes(wire)
    value = np.float32(0.3)
    source = np.full(200 * block, value, np.float32)
    source[::block] = 0  # all sums fit a lane: the switch rounds nothing
    other = source.copy()
    other[::block] = 0.99  # keeps the exponent at 0
    task = Task(BLOCKS, source.size, (source, other), seeds=(5, 6))
    results = []
    for seed in (1, 2):
        network = VirtualNetwork(workers, 4, 128, (task,), _BAD, seed, wire=wire)
        network.run()
        results.append(network.results(0)[0].copy())
        assert np.array_equal(results[-1], network.results(1)[0])
    assert np.array_equal(*results), "the bits of a sum depend on what the network did"
    chosen = np.delete(results[0].astype(np.float64), np.arange(0, source.size, block))
    unit = 2.0 ** (1 - _BITS[wire])
    assert abs(chosen.mean() - 2 * float(value)) < 6 * unit / np.sqrt(chosen.size)
    assert np.unique(chosen).size > 1, "all were rounded alike"


@wires
@pytest.mark.parametrize("seeds", [(), (7, 8, 9)])
def test_what_is_rounded_off_is_kept(wire: str, seeds: tuple[int, ...]) -> None:
    """With feedback, what each rank sent and what it kept are what it had: exactly, whatever is lost on the way."""
    workers, block = 3, 32 * wire_lanes(wire)
    rng = np.random.default_rng(4)
    before = _values(rng, workers, 7 * block + 3)
    kept = tuple(source.copy() for source in before)
    task = Task(BLOCKS, before[0].size, kept, seeds=seeds, feedback=True)
    network = VirtualNetwork(workers, 2, 128, (task,), _BAD, 3, wire=wire)
    network.run()
    for begin in range(0, before[0].size, block):
        part = slice(begin, begin + block)
        exponent = max(int(np.frexp(np.abs(source[part]).max())[1]) for source in before)
        unit = 2.0 ** (exponent - _BITS[wire] + 1)
        sent = [
            (old[part].astype(np.float64) - new[part]) / unit for old, new in zip(before, kept, strict=True)
        ]
        total = sum(sent)
        for lanes in sent:
            assert np.array_equal(lanes, np.rint(lanes)), "no whole number of units was sent"
        shift = max(0, int(np.max(np.where(total < 0, -total - 1, total))).bit_length() - _BITS[wire] + 1)
        top = 2 ** (_BITS[wire] - 1) - 1
        expected = np.minimum(np.rint(total / 2**shift), top) * (unit * 2**shift)
        assert np.array_equal(network.results(0)[0][part], expected.astype(np.float32))


def test_a_wire_is_the_message_type_of_its_elements() -> None:
    assert {name: (kind.name, kind.lane_bits) for name, kind in WIRES.items()} == {
        "float32": ("SUM", 32),
        "int16": ("SUM16", 16),
        "int8": ("SUM8", 8),
    }
