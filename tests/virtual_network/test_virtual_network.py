"""The two state machines against each other through a bad network, many seeds. A failure names the seed;
replay it with SWITCHML_SEED=n.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace

import numpy as np
import pytest
from memory_network import MemoryNetwork
from virtual_network import NetworkConditions, Task, VirtualNetwork

from switchml.aggregation.slot_machine import AHEAD, COMPLETE, FIRST, STALE
from switchml.protocol.header import HEADER_BYTES, build_header, parse_header
from switchml.protocol.numerics import EXACT_EXPONENT
from switchml.protocol.slots import version_of
from switchml.worker.kernels import block_exponent
from switchml.worker.window import BLOCKS, FRAMING, WORDS

_SEEDS = 1000
_GROUPS = 10


def _expected_blocks(sources: tuple[np.ndarray, ...], elements: int) -> np.ndarray:
    """Block floating point in plain numpy, of another construction than the kernels."""
    workers = len(sources)
    headroom = (workers - 1).bit_length()
    out = np.zeros_like(sources[0])
    for begin in range(0, sources[0].size, elements):
        blocks = [source[begin : begin + elements] for source in sources]
        largest = max(np.abs(block).max() for block in blocks)
        exponent = max(int(np.frexp(largest)[1]), -95) if largest > 0 else -95
        scale = 2.0 ** (31 - exponent - headroom)
        total = sum(np.rint(block.astype(np.float64) * scale).astype(np.int64) for block in blocks)
        out[begin : begin + elements] = total.astype(np.float32) * np.float32(1 / scale)
    return out


def _tasks(rng: np.random.Generator, workers: int, elements: int) -> tuple[Task, ...]:
    tasks = []
    for _ in range(int(rng.integers(1, 5))):
        count = int(rng.choice([1, 3, elements, elements * 2 + 5, elements * 7, elements * 23 - 1]))
        kind = int(rng.integers(0, 3))
        if kind == 0:
            scales = 10.0 ** rng.integers(-20, 20, size=workers)
            tasks.append(
                Task(
                    BLOCKS,
                    count,
                    tuple((rng.standard_normal(count) * scale).astype(np.float32) for scale in scales),
                )
            )
        elif kind == 1:
            tasks.append(
                Task(WORDS, count, tuple(rng.integers(0, 2**32, count, np.uint32) for _ in range(workers)))
            )
        else:
            rows = tuple(rng.integers(0, 2**32, count, np.uint32) for _ in range(workers))
            tasks.append(Task(WORDS, count * workers, rows, tuple(rank * count for rank in range(workers))))
    return tuple(_thinned(rng, task, elements) for task in tasks)


def _thinned(rng: np.random.Generator, task: Task, elements: int) -> Task:
    """Some ranks have only zeros in some stretches, and some tasks are for each rank a share of the sums."""
    for source in task.sources:
        for _ in range(int(rng.integers(0, 3))):
            begin = int(rng.integers(0, source.size))
            source[begin : begin + int(rng.integers(0, 6)) * elements] = 0
    shares = len(task.sources) if rng.integers(0, 3) == 0 else 0
    return replace(task, part=-(-task.count // shares) if shares else 0)


def _expected(task: Task, elements: int) -> np.ndarray:
    if task.kind == BLOCKS:
        return _expected_blocks(task.sources, elements)
    if task.firsts:
        return np.concatenate(task.sources)
    return np.sum(np.stack(task.sources), axis=0, dtype=np.uint32)


def _run(seed: int, kind: type[VirtualNetwork] = VirtualNetwork) -> VirtualNetwork:
    dice = random.Random(seed)
    rng = np.random.default_rng(seed)
    workers = dice.randint(2, 8)
    payload = dice.choice([128, 256])
    conditions = NetworkConditions(
        loss=dice.choice([0.0, 0.01, 0.1, 0.3]) * dice.random(),
        duplicate=0.2 * dice.random(),
        reorder=0.2 * dice.random(),
    )
    if seed % 10 == 0:
        conditions = NetworkConditions(loss=0.3, duplicate=0.2, reorder=0.2)
    network = kind(
        workers, dice.choice([1, 2, 4, 8]), payload, _tasks(rng, workers, payload // 4), conditions, seed
    )
    network.run()
    return network


def _check(seed: int) -> None:
    network = _run(seed)
    _check_results(network)
    assert AHEAD not in network.verdicts, f"seed {seed}: a worker's packet is refused as one before its turn"


@pytest.mark.parametrize("group", range(5))
def test_every_sum_is_right_with_the_switch_in_memory(group: int) -> None:
    for seed in range(group, 100, 5):
        _check_results(_run(seed, MemoryNetwork))


@pytest.mark.parametrize("root", range(3))
def test_a_broadcast_with_the_switch_in_memory(root: int) -> None:
    given = np.random.default_rng(root).integers(0, 2**32, 500, np.uint32)
    task = Task(WORDS, 500, tuple(given if rank == root else given[:0] for rank in range(3)), (0, 0, 0))
    network = MemoryNetwork(3, 4, 128, (task, task, task), NetworkConditions(), root)
    network.run()
    _check_results(network)


def _check_results(network: VirtualNetwork) -> None:
    for index, task in enumerate(network.tasks):
        expected = _expected(task, network.payload // 4).view(np.uint32)
        for rank in range(network.workers):
            mine = task.wanted(rank)
            result = network.results(rank)[index].view(np.uint32)
            assert np.array_equal(result[mine], expected[mine]), (
                f"seed {network.seed}: rank {rank}, transfer {index} is wrong (SWITCHML_SEED={network.seed} replays)"
            )


@pytest.mark.parametrize("group", range(_GROUPS))
def test_every_sum_is_right(group: int) -> None:
    replayed = os.environ.get("SWITCHML_SEED")
    for seed in range(group, _SEEDS, _GROUPS) if replayed is None else [int(replayed)]:
        _check(seed)


class _WithForger(VirtualNetwork):
    """In the name of every worker somebody sends what comes two windows after its next packet, and far ahead."""

    def _at_switch(self, rank: int, packet: bytes) -> None:
        header = parse_header(packet)
        next_of = int(self._ranks[rank].window.slots[header.slot]["position"])
        for ahead in (2 * self.window, 1 << 30):
            forged = build_header(
                header._replace(tsi=(next_of + ahead) % 2**32, version=version_of(next_of, self.window))
            )
            super()._at_switch(rank, forged + bytes(self.payload))
        super()._at_switch(rank, packet)


@pytest.mark.parametrize("seed", range(20))
def test_forged_packets_ahead_do_no_harm(seed: int) -> None:
    network = _run(seed, _WithForger)
    _check_results(network)
    assert network.verdicts[AHEAD] > 0


def test_ranks_are_absent_and_elements_come_late() -> None:
    verdicts: set[int] = set()
    for seed in range(20):
        verdicts |= _run(seed).verdicts.keys()
    assert {FIRST, FIRST + COMPLETE} <= verdicts


def test_a_seed_replays() -> None:
    first, second = _run(17), _run(17)
    assert (first.now, first.lost, first.verdicts) == (second.now, second.lost, second.verdicts)
    assert first.lost > 0
    assert _run(18).now != first.now


def test_non_finite_blocks_are_flagged_alike_and_left_alone() -> None:
    source = np.ones(96, np.float32)
    broken = source.copy()
    broken[40] = np.inf
    tasks = (Task(BLOCKS, 96, (broken, source)), Task(BLOCKS, 96, (source, source)))
    network = VirtualNetwork(2, 2, 128, tasks, NetworkConditions(loss=0.1), seed=3)
    network.run()
    assert block_exponent(broken[32:64]) == EXACT_EXPONENT
    for rank in range(2):
        assert network.flags(rank)[0].tolist() == [0, 1, 0]
        assert network.results(rank)[0][32:64].tolist() == [0.0] * 32
        assert (network.results(rank)[0][:32] == 2).all()
        assert (network.results(rank)[1] == 2).all()


def test_who_sends_headers_does_not_flood_the_link_its_results_come_by() -> None:
    """Ranks take turns to have anything but zeros: each sends one chunk in four and gets all. Queues hold half as much again as
    may wait.
    """
    ranks, packet = 4, HEADER_BYTES + 256 + FRAMING
    turn = np.arange(64 * 2000, dtype=np.uint32) // 64 % ranks
    task = Task(WORDS, turn.size, tuple(np.where(turn == rank, turn + 1, 0) for rank in range(ranks)))
    link = NetworkConditions(rate=1_250_000, queue=144 * packet)
    network = VirtualNetwork(ranks, 1024, 256, (task,), link, seed=1)
    network.run()
    _check_results(network)
    assert network.dropped == 0


def _outcome(seed: int, paper: bool) -> tuple[bool, bool, int]:
    """Whether the transfer ended, whether its sums were right, and how many stale packets the switch saw."""
    rng = np.random.default_rng(seed)
    tasks = (Task(WORDS, 32 * 12, tuple(rng.integers(0, 2**32, 32 * 12, np.uint32) for _ in range(2))),)
    conditions = NetworkConditions(duplicate=0.2, reorder=0.3)
    network = VirtualNetwork(2, 1, 128, tasks, conditions, seed, paper, limit=2_000_000_000)
    try:
        network.run()
    except AssertionError:
        return False, False, network.verdicts.get(STALE, 0)
    right = np.array_equal(network.results(0)[0], _expected(tasks[0], 32))
    return True, right, network.verdicts.get(STALE, 0)


def test_without_the_stamp_delayed_duplicates_spoil_sums() -> None:
    stamped = [_outcome(seed, paper=False) for seed in range(150)]
    assert all(ended and right for ended, right, _ in stamped)
    assert any(stale for _, _, stale in stamped), "the network never sent what the stamp is there for"
    # Without the stamp a transfer may also never end: both ranks wait for what the switch believes done.
    spoiled = (_outcome(seed, paper=True) for seed in range(150))
    assert any(ended and not right for ended, right, _ in spoiled)
