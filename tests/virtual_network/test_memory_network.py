"""The ranks' turns on a switch in memory, in any order, beside the same ranks with packets: the same results, to the bit."""

from __future__ import annotations

import numpy as np
from memory_network import MemoryNetwork
from virtual_network import NetworkConditions, Task, VirtualNetwork

from switchml.aggregation.shared_slots import counted
from switchml.protocol.counters import SWITCH_COUNTERS, WORKER_COUNTERS, named
from switchml.worker.window import BLOCKS


def test_blocks_to_be_exchanged_exactly_are_flagged() -> None:
    first = np.ones(96, np.float32)
    second = first.copy()
    second[40] = np.inf
    task = Task(BLOCKS, 96, (first, second))
    network = MemoryNetwork(2, 2, 128, (task,), NetworkConditions(), seed=0)
    network.run()
    for rank in range(2):
        assert network.flags(rank)[0].tolist() == [0, 1, 0]
        assert network.results(rank)[0][:32].tolist() == [2.0] * 32


def test_feedback_leaves_what_was_rounded_off_as_over_packets() -> None:
    rng = np.random.default_rng(3)
    sources = tuple(rng.standard_normal(200).astype(np.float32) for _ in range(3))
    kept = []
    for kind in (VirtualNetwork, MemoryNetwork):
        task = Task(BLOCKS, 200, tuple(source.copy() for source in sources), seeds=(1, 2, 3), feedback=True)
        network = kind(3, 2, 128, (task,), NetworkConditions(), seed=0, wire="int8")
        network.run()
        kept.append([source.tobytes() for source in task.sources])
    assert kept[0] == kept[1]
    assert kept[0][0] != sources[0].tobytes()


def test_counters_say_what_those_of_a_switch_would() -> None:
    """3 ranks, 96 elements in 3 chunks: descriptor, 2 exponents, 3 chunks, of which one has only zeros."""
    values = np.concatenate((np.ones(32), np.zeros(32), np.ones(32))).astype(np.float32)
    network = MemoryNetwork(3, 2, 128, (Task(BLOCKS, 96, (values,) * 3),), NetworkConditions(), seed=1)
    network.run()
    theirs = {name: value for name, value in named(SWITCH_COUNTERS, counted(network.slots)).items() if value}
    full, header = 138, 10
    assert theirs == {
        "packets_received": 18,
        "bytes_received": 3 * (3 * full + 3 * header),
        "packets_sent": 6,
        "bytes_sent": 3 * full + 3 * header,
        "elements_added": 9 * 32,
        "chunks_completed": 6,
    }
    for engine in network.engines:
        assert {name: value for name, value in named(WORKER_COUNTERS, engine.counters).items() if value} == {
            "packets_sent": 6,
            "bytes_sent": 3 * full + 3 * header,
            "packets_received": 6,
            "bytes_received": 3 * full + 3 * header,
            "chunks_completed": 6,
        }


def test_a_rank_that_never_comes_holds_up_what_it_is_part_of_and_nothing_wrong_is_read() -> None:
    values = tuple(np.full(320, 1.0 + rank, np.float32) for rank in range(3))
    network = MemoryNetwork(3, 4, 128, (Task(BLOCKS, 320, values),), NetworkConditions(), seed=1)
    for _ in range(50):
        network.turn(0)
        network.turn(1)
    assert [engine.window.stream[0]["lowest"] for engine in network.engines[:2]] == [0, 0]
    assert not any(network.results(rank)[0].any() for rank in range(3))
    network.run()
    for rank in range(3):
        assert network.results(rank)[0].tolist() == [6.0] * 320
